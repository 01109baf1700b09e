import json

import pandas as pd
import pytest

from clsl import ROOT, config, methods
from clsl.config import Pretraining, settings
from clsl.lab import search

TABLE = pd.read_csv(ROOT / "figures" / "search.csv")
TRIED = {task: rows for task, rows in TABLE.groupby(["dataset", "clusters", "method"])}


def test_every_method_was_searched():
    searched = {method for _, _, method in TRIED}
    assert searched == {method for method in methods.METHODS if not method.endswith("+progressive")}


@pytest.mark.parametrize("task", [task for task in TRIED if task[0] == "cifar100"], ids=" ".join)
def test_every_search_is_as_long_and_the_best_is_not_at_its_edge(task):
    dataset, clusters, method = task
    rows = TRIED[task]
    assert len(rows) >= search.TRAININGS
    best = search._config(method, clusters)
    best = config.from_fields({**vars(best), **rows.loc[rows["top1"].idxmax(), [*search.START]].to_dict(), "batch_size": int(rows.loc[rows["top1"].idxmax(), "batch_size"])})
    done = {(row.lr, row.temperature, row.batch_size) for row in rows.itertuples()}
    for other in search.neighbours(best):
        assert any(abs(other.lr - lr) < 1e-4 * lr and abs(other.temperature - t) < 1e-6 and other.batch_size == b for lr, t, b in done)


def test_no_search_looks_at_the_test_images():
    assert all(search._config(name, clusters).tested_on == "held_out" for clusters, some in search.TASKS.items() for name in some)


def test_an_unknown_method():
    with pytest.raises(ValueError, match="unknown method 'simclear': choose from simclr"):
        search.search(["simclear"])


def test_a_climb_finds_the_top_and_tries_all_around_it(monkeypatch):
    class Run:
        def __init__(self, c):
            self.result = {"top1": -abs(c.lr - 0.4) - abs(c.temperature - 0.1) - abs(c.batch_size - 256) / 256}

    monkeypatch.setattr(search.runs, "get", Run)
    rows = search.climb(search._config("cl_infonce", search.FEW))
    top = rows.loc[rows["top1"].idxmax()]
    assert (top["lr"], top["temperature"], top["batch_size"]) == (0.4, 0.1, 256) and len(rows) >= search.TRAININGS
    best = config.from_fields(vars(search._config("cl_infonce", search.FEW)) | {"lr": 0.4, "temperature": 0.1, "batch_size": 256})
    tried = {(row.lr, row.temperature, row.batch_size) for row in rows.itertuples()}
    assert {(each.lr, each.temperature, each.batch_size) for each in search.neighbours(best)} <= tried


def test_the_settings_are_what_the_search_found():
    """python -m clsl search writes both."""
    assert json.loads((ROOT / "clsl" / "searched.json").read_text()) == search.best(TABLE)


def test_settings_of_other_clusters_are_those_of_the_nearest(monkeypatch):
    rows = [("cifar10", "wordnet:level=9", 1.0), ("cifar100", "column:superclass", 2.0), ("cifar100", "wordnet:level=4", 3.0)]
    known = [dict(dataset=d, clusters=c, method="cl_infonce", lr=lr, temperature=0.1, batch_size=64) for d, c, lr in rows]
    monkeypatch.setattr(config, "SEARCHED", known)
    cases = {("cifar100", "wordnet:level=4"): 3, ("cifar100", "wordnet:level=8"): 3, ("cifar100", "merged:steps=1"): 2}
    cases |= {("cifar10", "labels"): 1, ("cub200", "attributes:k=3"): 1}
    for (dataset, clusters), lr in cases.items():
        assert settings("cl_infonce", dataset, clusters)["lr"] == lr
    assert settings("simclr", "cifar10", None) == {}
    assert Pretraining(method="cl_infonce", clusters="wordnet:level=2", dataset="cifar100").batch_size == 64
    with pytest.raises(ValueError, match="simclr has no settings yet: give lr, temperature and batch_size"):
        Pretraining()
