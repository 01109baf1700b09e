"""Each method's learning rate, temperature and batch size on the clusters of each task, chosen on held-out images."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .. import ROOT, config, methods
from ..config import Pretraining
from . import runs

FEW, TWENTY, MANY, LABELS = "wordnet:level=4", "column:superclass", "tags:level=15", "labels"
KMEANS, ATTRIBUTES, NONE = "kmeans:k=250", "annotators:k=4,noise=10", "instances"
TASKS = {  # clusters of CIFAR-100 → the methods that are tried on them; the first task of a method is its task for all others
    TWENTY: ("cl_infonce", "cross_entropy", "cross_entropy_head"),
    FEW: ("cl_infonce", "cross_entropy"),
    MANY: ("cl_infonce", "cross_entropy", "cross_entropy_head", "cmc", "attribute_prediction"),
    ATTRIBUTES: ("cl_infonce", "cross_entropy", "cmc", "attribute_prediction"),
    KMEANS: ("cl_infonce", "cross_entropy", "cl_infonce_moco", "pcl", "dual_head", "cluster_head"),
    LABELS: ("supcon", "cross_entropy"),
    NONE: ("simclr", "moco", "instance_head", "byol", "w_mse", "barlow_twins"),
}
SIZE = {"dataset": "cifar100", "train_size": 10_000, "test_size": 5000, "tested_on": "held_out"}
EPOCHS = 3  # about a fifth of the reference's
TRAININGS = 9  # at least, for each method on each task
START = {"lr": 0.1, "temperature": 0.2, "batch_size": 128}
COLD = ("cross_entropy", "cross_entropy_head", "attribute_prediction", "byol", "w_mse", "barlow_twins")  # without a temperature
LIMITS = {"lr": (1e-3, 10.0), "temperature": (0.05, 1.0), "batch_size": (64, 512)}


def search(names: Sequence[str] = ()) -> pd.DataFrame:
    """Climb to the best settings of each method (all, or those named) on its tasks; one seed, the same views for every training.

    From START, the neighbours of the best so far are tried, half and double of one setting at a time, until the best has been
    compared with all of its own and at least TRAININGS are done; so no best stands at the edge of what was tried, but for LIMITS.

    Writes figures/search.csv, a row a training, and the best settings to clsl/searched.json, where config.settings finds them. top1
    is that on images of the training split that are not trained on. Raises ValueError for an unknown method.
    """
    if unknown := set(names) - {name for some in TASKS.values() for name in some}:
        raise ValueError(f"unknown method {min(unknown)!r}: choose from {', '.join(methods.METHODS)} (+progressive keeps its objective's)")
    path = ROOT / "figures" / "search.csv"
    for clusters, some in TASKS.items():
        for name in some:
            if not names or name in names:
                rows = climb(_config(name, clusters))
                others = pd.read_csv(path) if path.exists() else rows.head(0)
                others = others[(others["method"] != name) | (others["clusters"] != clusters) | (others["dataset"] != SIZE["dataset"])]
                pd.concat([others, rows]).to_csv(path, index=False, float_format="%.6g")
    table = pd.read_csv(path)
    lines = ",\n".join(" " + json.dumps(row) for row in best(table))
    searched = Path(config.__file__).with_name("searched.json")
    searched.with_suffix(".unfinished").write_text(f"[\n{lines}\n]\n")
    searched.with_suffix(".unfinished").replace(searched)
    return table


def climb(start: Pretraining) -> pd.DataFrame:
    """All trainings of a climb from a configuration: dataset, clusters, method, lr, temperature, batch_size, top1; in their order."""
    tried: dict[Pretraining, float] = {}
    todo = [start]
    while todo:
        tried[todo[0]] = runs.get(todo[0]).result["top1"]
        ranked = sorted(tried, key=tried.get, reverse=True)
        todo = [each for each in neighbours(ranked[0]) if each not in tried]
        if not todo and len(tried) < TRAININGS:
            todo = [each for other in ranked[1:] for each in neighbours(other) if each not in tried]
    names = ["dataset", "clusters", "method", *START]
    return pd.DataFrame([{name: getattr(each, name) for name in names} | {"top1": top1} for each, top1 in tried.items()])


def neighbours(point: Pretraining) -> list[Pretraining]:
    """A configuration with one of its settings doubled or halved, within LIMITS."""
    out = []
    for name in START if point.method not in COLD else ("lr", "batch_size"):
        for factor in (2, 0.5):
            value = type(START[name])(getattr(point, name) * factor)
            with contextlib.suppress(ValueError):  # W-MSE needs larger batches than others
                if LIMITS[name][0] <= value <= LIMITS[name][1]:
                    out.append(dataclasses.replace(point, **{name: value}))
    return out


def best(table: pd.DataFrame) -> list[dict]:
    """The settings with the highest top1 for each method on each task of a table of `search`, as config.settings reads them."""
    rows = table.loc[table.groupby(["dataset", "clusters", "method"], sort=False)["top1"].idxmax()]
    return rows[["dataset", "clusters", "method", *START]].to_dict("records")


def _config(method: str, clusters: str) -> Pretraining:
    given = {} if methods.METHODS[method].clusters == clusters else {"clusters": clusters}
    return Pretraining(method=method, epochs=EPOCHS, **SIZE, **START, **given)
