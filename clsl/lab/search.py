"""Each method's learning rate, temperature and batch size on the clusters of each task, chosen on held-out images."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from .. import ROOT, Diverged, config, methods
from ..config import Pretraining
from ..data import kept
from . import runs

RIVALS = ("cl_infonce", "cross_entropy")
TAGS = "tags:level=15"
TASKS = {  # clusters of CIFAR-100 → the methods that are tried on them; other clusters take the settings of the nearest of these
    "column:superclass": (*RIVALS, "cross_entropy_head"),
    "wordnet:level=4": (*RIVALS, "cmc"),
    "wordnet:level=11": RIVALS,
    **dict.fromkeys((TAGS, "tags:level=7"), (*RIVALS, "cross_entropy_head", "cmc", "attribute_prediction")),
    "annotators:k=4,noise=10": (*RIVALS, "cmc", "attribute_prediction"),
    **dict.fromkeys([f"annotators:k={k},noise=10" for k in (2, 8)] + [f"merged:steps={n}" for n in (1, 2, 3)], ("cl_infonce",)),
    "kmeans:k=250": (*RIVALS, "cl_infonce_moco", "pcl", "dual_head", "cluster_head"),
    "labels": ("supcon", "cross_entropy"),
    "instances": ("simclr", "moco", "instance_head", "byol", "w_mse", "barlow_twins"),
}
GIVEN = [  # what is given besides, and so not searched: for longer trainings, for larger batches, for companions
    *((method, clusters, {"epochs": 36}) for clusters in ("wordnet:level=4", "column:superclass", TAGS) for method in RIVALS),
    *(("cl_infonce", TAGS, {"batch_size": n}) for n in (500, 2000)),
    *(("cl_infonce", TAGS, {"companions": n, "batch_size": 128}) for n in (2, 4, 8)),
]
SIZE = {"dataset": "cifar100", "train_size": 10_000, "test_size": 5000, "tested_on": "held_out"}
SHARE = 2  # trainings are half as long as those that the settings are for, which take 12 epochs, or those given; a fifth misleads
TRAININGS = 9  # at least, for each method on each task
_TASK = ["dataset", "clusters", "method", "given"]
PATH = ROOT / "figures" / "search.csv"
START = {"lr": 0.1, "temperature": 0.2, "batch_size": 128}
COLD = ("cross_entropy", "cross_entropy_head", "attribute_prediction", "byol", "w_mse", "barlow_twins")  # without a temperature
LIMITS = {"lr": (1e-3, 10.0), "temperature": (0.025, 12.8), "batch_size": (8, 1024)}


def search(names: Sequence[str] = ()) -> pd.DataFrame:
    """Climb to the best settings of each method (all, or those named) on its tasks; one seed, the same views for every training.

    From START, the neighbours of the best so far are tried, half and double of one setting at a time, until the best has been
    compared with all of its own and at least TRAININGS are done; so no best stands at the edge of what was tried, but for LIMITS.

    Writes figures/search.csv, a row a training, and the best settings to clsl/searched.json, where config.settings finds them. top1
    is that on images of the training split that are not trained on. What stands in the table is not trained again. Several
    processes may search at once, each for its own methods. Raises ValueError for an unknown method.
    """
    todo = [(method, clusters, {}) for clusters, some in TASKS.items() for method in some] + GIVEN
    if unknown := set(names) - {method for method, _, _ in todo}:
        raise ValueError(f"unknown method {min(unknown)!r}: choose from {', '.join(methods.METHODS)} (+progressive keeps its objective's)")
    for task in (task for task in todo if not names or task[0] in names):
        record(climb(*task))
    return read()


def read() -> pd.DataFrame:
    """The table of all trainings of the search so far."""
    return pd.read_csv(PATH, keep_default_na=False, dtype={"given": str})


def record(rows: pd.DataFrame) -> None:
    """Put the trainings of a climb into the table, in place of those of the same task, and the best of all into searched.json."""
    with FileLock(PATH.with_suffix(".lock")):
        tables = {key: each for key, each in read().groupby(_TASK, sort=False)} | dict(list(rows.groupby(_TASK)))
        kept.write(PATH, pd.concat(tables.values()).to_csv(index=False, float_format="%.6g").encode())
        config.SEARCHED[:] = best(read())  # which what is given begins with
        lines = ",\n".join(" " + json.dumps(row) for row in config.SEARCHED)
        kept.write(Path(config.__file__).with_name("searched.json"), f"[\n{lines}\n]\n".encode())


def climb(method: str, clusters: str, given: dict[str, int] = {}) -> pd.DataFrame:
    """All trainings of a climb, in their order, with H(Z) of the clusters (the last of k-means) and top1, which is 0 where it diverged."""
    task = SIZE["dataset"], clusters, method, json.dumps(given)
    there = {_place(row): (row.h_z, row.top1) for row in read().itertuples() if tuple(getattr(row, name) for name in _TASK) == task}
    tried: dict[Pretraining, tuple[float, float]] = {}
    todo = [start(method, clusters, given)]
    while todo:
        tried[todo[0]] = there.get(_place(todo[0])) or _trained(todo[0])
        ranked = sorted(tried, key=lambda each: tried[each][1], reverse=True)
        todo = [each for each in neighbours(ranked[0], given) if each not in tried]
        if not todo and len(tried) < TRAININGS and not given:
            todo = [each for other in ranked[1:] for each in neighbours(other, given) if each not in tried]
    rows = [[*task[:3], *(getattr(each, name) for name in START), *found, task[3]] for each, found in tried.items()]
    return pd.DataFrame(rows, columns=[*_TASK[:3], *START, "h_z", "top1", "given"])


def start(method: str, clusters: str, given: dict[str, int] = {}) -> Pretraining:
    """Where the climb begins: at START, or where longer trainings, larger batches or companions are given at what was best without."""
    known = config.settings(method, SIZE["dataset"], clusters) if given else START
    epochs = max(1, round(given.get("epochs", 12) / SHARE))
    own = {} if methods.METHODS[method].clusters == clusters else {"clusters": clusters}
    return Pretraining(**{**SIZE, **known, **given, "method": method, "epochs": epochs, **own})


def neighbours(point: Pretraining, given: dict[str, int] = {}) -> list[Pretraining]:
    """A configuration with one of its settings doubled or halved, within LIMITS; where something is given only the learning rate."""
    names = ["lr"] if given else [*START] if point.method not in COLD else ["lr", "batch_size"]
    out = []
    for name, factor in ((name, factor) for name in names for factor in (2, 0.5)):
        value = type(START[name])(getattr(point, name) * factor)
        with contextlib.suppress(ValueError):  # W-MSE needs larger batches than others
            if LIMITS[name][0] <= value <= LIMITS[name][1]:
                out.append(dataclasses.replace(point, **{name: value}))
    return out


def best(table: pd.DataFrame) -> list[dict]:
    """The settings with the highest top1 for each method on each task of a table of `search`, as config.settings reads them."""
    rows = table.loc[table.groupby(_TASK, sort=False)["top1"].idxmax()]
    return [row | {"given": json.loads(row["given"])} for row in rows[[*_TASK, *START, "h_z"]].to_dict("records")]


def _place(row: Any) -> tuple[str, ...]:
    return tuple(f"{getattr(row, name):.6g}" for name in START)


def _trained(point: Pretraining) -> tuple[float, float]:
    try:
        result = runs.get(point).result
        return result["h_z"], result["top1"]
    except Diverged:
        return math.nan, 0.0
