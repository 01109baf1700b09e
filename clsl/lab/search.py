"""Each method's learning rate and temperature, chosen on held-out images by a search of the same size for each."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .. import ROOT, config, methods
from ..config import Pretraining
from . import runs

CLUSTERS = "wordnet:level=9"  # for the methods that have none of their own
ATTRIBUTES = "annotators:k=4,noise=10"
KMEANS = "kmeans:k=250"
SIZE = {"train_size": 5000, "test_size": 5000, "epochs": 12}  # as many steps as the cpu profile takes
RATES, TEMPERATURES = (0.03, 0.1, 0.3), (0.1, 0.3)
ALL_RATES = (0.02, 0.05, 0.15, 0.3, 0.45, 0.9)  # for methods without a temperature


def search(names: Sequence[str] = ()) -> pd.DataFrame:
    """Train each method (all, or those named) on every point of its grid, one seed; keep the best of each.

    As many steps as the cpu profile takes, on half of its images. With a quarter of the steps an untrained network would be nearly
    as good as a trained one, and a search would choose the learning rate that trains the least.

    Writes figures/search.csv, a row a run, and the best settings to clsl/searched.json, where train.Pretraining finds
    them. top1 is that on images of the training split that are not trained on. Raises ValueError for an unknown method.
    """
    known = [name for name in methods.METHODS if not name.endswith("+progressive")]  # which keep their objective's
    if unknown := set(names) - set(known):
        raise ValueError(f"unknown method {min(unknown)!r}: choose from {', '.join(known)}")
    points = [(name, point) for name in names or known for point in grid(name)]
    finished = runs.get_all([_config(name, *point) for name, point in points])
    table = pd.DataFrame([(name, *point, run.result["top1"]) for (name, point), run in zip(points, finished)])
    table.columns = ["method", "lr", "temperature", "top1"]
    path = ROOT / "figures" / "search.csv"
    others = pd.read_csv(path) if path.exists() else table.head(0)
    table = pd.concat([others[~others["method"].isin(table["method"])], table])
    order = list(methods.METHODS).index
    table = table.sort_values("method", key=lambda column: column.map(order), kind="stable", ignore_index=True)
    table.to_csv(path, index=False, float_format="%.6g")
    text = json.dumps(best(table), indent=1)
    searched = Path(config.__file__).with_name("searched.json")
    searched.with_suffix(".unfinished").write_text(text + "\n")
    searched.with_suffix(".unfinished").replace(searched)
    return table


def grid(method: str) -> list[tuple[float, float]]:
    """Six pairs of a learning rate and a temperature."""
    if method in ("cross_entropy", "attribute_prediction"):
        return [(lr, 0.1) for lr in ALL_RATES]  # the temperature is not used
    if method in ("byol", "w_mse", "barlow_twins"):
        return [(lr, 0.3) for lr in ALL_RATES]  # only by their pseudo-labels: that of Cl-InfoNCE
    return [(lr, temperature) for lr in RATES for temperature in TEMPERATURES]


def best(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """{method: {lr, temperature}} of the highest top1 of a table of `search`."""
    rows = table.loc[table.groupby("method", sort=False)["top1"].idxmax()]
    return {row.method: {"lr": row.lr, "temperature": row.temperature} for row in rows.itertuples()}


def _config(method: str, lr: float, temperature: float) -> Pretraining:
    own = methods.METHODS[method]
    clusters = {None: ATTRIBUTES if own.attributes else CLUSTERS, "kmeans": KMEANS}.get(own.clusters, own.clusters)
    return Pretraining(method=method, lr=lr, temperature=temperature, clusters=clusters, tested_on="held_out", **SIZE)
