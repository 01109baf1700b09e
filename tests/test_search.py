import dataclasses
import json

import pandas as pd
import pytest

from clsl import ROOT, config, methods
from clsl.config import Pretraining, settings
from clsl.lab import search

TABLE = pd.read_csv(ROOT / "figures" / "search.csv", keep_default_na=False)
TRIED = dict(list(TABLE.groupby(["dataset", "clusters", "method", "given"])))


def test_every_method_was_searched():
    searched = {method for _, _, method, _ in TRIED}
    assert searched == {method for method in methods.METHODS if not method.endswith("+progressive")}


@pytest.mark.parametrize("task", [task for task in TRIED if task[0] == "cifar100"], ids=" ".join)
def test_every_search_is_long_enough_and_the_best_is_not_at_its_edge(task):
    dataset, clusters, method, given = task
    rows, given = TRIED[task], json.loads(given)
    assert len(rows) >= (3 if given else search.TRAININGS)
    row = rows.loc[rows["top1"].idxmax()]
    best = dataclasses.replace(
        search.start(method, clusters, given), lr=row["lr"], temperature=row["temperature"], batch_size=int(row["batch_size"])
    )
    tried = {(f"{each.lr:.6g}", f"{each.temperature:.6g}", each.batch_size) for each in rows.itertuples()}
    around = search.neighbours(best, given)
    assert len(around) == (2 if given else 4 if method in search.COLD else 6), "at the limit of what is tried"
    assert {(f"{each.lr:.6g}", f"{each.temperature:.6g}", each.batch_size) for each in around} <= tried


def test_no_search_looks_at_the_test_images():
    for clusters, some in search.TASKS.items():
        assert all(search.start(method, clusters).tested_on == "held_out" for method in some)


def test_an_unknown_method():
    with pytest.raises(ValueError, match="unknown method 'simclear': choose from simclr"):
        search.search(["simclear"])


def test_a_climb_finds_the_top_and_tries_all_around_it(monkeypatch):
    class Run:
        def __init__(self, c):
            self.result = {"top1": -abs(c.lr - 0.4) - abs(c.temperature - 0.1) - abs(c.batch_size - 256) / 256}

    monkeypatch.setattr(search.runs, "get", Run)
    rows = search.climb("cl_infonce", "wordnet:level=4")
    top = rows.loc[rows["top1"].idxmax()]
    assert (top["lr"], top["temperature"], top["batch_size"]) == (0.4, 0.1, 256) and len(rows) >= search.TRAININGS
    best = dataclasses.replace(search.start("cl_infonce", "wordnet:level=4"), lr=0.4, temperature=0.1, batch_size=256)
    tried = {(row.lr, row.temperature, row.batch_size) for row in rows.itertuples()}
    assert {(each.lr, each.temperature, each.batch_size) for each in search.neighbours(best)} <= tried


def test_the_settings_are_what_the_search_found():
    """python -m clsl search writes both."""
    assert json.loads((ROOT / "clsl" / "searched.json").read_text()) == search.best(TABLE)


def test_settings_of_other_clusters_are_those_of_the_nearest(monkeypatch):
    rows = [("cifar10", "wordnet:level=9", 1.0), ("cifar100", "column:superclass", 2.0), ("cifar100", "wordnet:level=4", 3.0),
            ("cifar100", "wordnet:level=11", 7.0)]
    known = [dict(dataset=d, clusters=c, method="cl_infonce", given={}, lr=lr, temperature=0.1, batch_size=64) for d, c, lr in rows]
    for given, lr in (({"epochs": 36}, 4.0), ({"batch_size": 500}, 5.0), ({"companions": 8, "batch_size": 128}, 6.0)):
        known.append(known[2] | {"given": given, "lr": lr})
    monkeypatch.setattr(config, "SEARCHED", known)
    cases = {("cifar100", "wordnet:level=4"): 3, ("cifar100", "wordnet:level=7"): 3, ("cifar100", "wordnet:level=8"): 7, ("cifar100", "merged:steps=1"): 2}
    cases |= {("cifar10", "labels"): 1, ("cub200", "attributes:k=3"): 1}
    for (dataset, clusters), lr in cases.items():
        assert settings("cl_infonce", dataset, clusters)["lr"] == lr
    few = "cl_infonce", "cifar100", "wordnet:level=4"
    assert settings(*few, epochs=12, batch_size=None)["lr"] == 3 and settings(*few, epochs=150)["lr"] == 4
    assert settings(*few, batch_size=500, epochs=12)["lr"] == 5 and settings(*few, batch_size=256)["lr"] == 3
    assert settings(*few, batch_size=128, companions=8)["lr"] == 6 and settings(*few, companions=4)["lr"] == 3
    assert settings("simclr", "cifar10", None) == {}
    assert Pretraining(method="cl_infonce", clusters="wordnet:level=2", dataset="cifar100").batch_size == 64
    with pytest.raises(ValueError, match="simclr has no settings yet: give lr, temperature and batch_size"):
        Pretraining()
