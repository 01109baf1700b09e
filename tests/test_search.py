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
    own = 1 if method == "w_mse" and best.batch_size == 128 else 0  # with fewer images there is nothing to whiten by
    assert len(around) == (2 if given else 4 if method in search.COLD else 6) - own, "at the limit of what is tried"
    assert {(f"{each.lr:.6g}", f"{each.temperature:.6g}", each.batch_size) for each in around} <= tried


def test_no_search_looks_at_the_test_images():
    for clusters, some in search.TASKS.items():
        assert all(search.start(method, clusters).tested_on == "held_out" for method in some)


def test_an_unknown_method():
    with pytest.raises(ValueError, match="unknown method 'simclear': choose from simclr"):
        search.search(["simclear"])


def test_a_climb_finds_the_top_and_tries_all_around_it(monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(search, "PATH", tmp_path / "search.csv")
    TABLE.head(0).to_csv(search.PATH, index=False)

    class Run:
        def __init__(self, c):
            trained.append(c)
            self.result = {"h_z": 1.5, "top1": -abs(c.lr - 0.4) - abs(c.temperature - 0.1) - abs(c.batch_size - 256) / 256}

    monkeypatch.setattr(search.runs, "get", Run)
    rows = search.climb("cl_infonce", "wordnet:level=4")
    top = rows.loc[rows["top1"].idxmax()]
    assert (top["lr"], top["temperature"], top["batch_size"]) == (0.4, 0.1, 256) and len(rows) >= search.TRAININGS
    best = dataclasses.replace(search.start("cl_infonce", "wordnet:level=4"), lr=0.4, temperature=0.1, batch_size=256)
    tried = {(row.lr, row.temperature, row.batch_size) for row in rows.itertuples()}
    assert {(each.lr, each.temperature, each.batch_size) for each in search.neighbours(best)} <= tried
    for known, more in ((rows, 0), (rows[1:], 1)):  # what the table has is not trained again
        known.to_csv(search.PATH, index=False)
        n = len(trained)
        assert search.climb("cl_infonce", "wordnet:level=4").equals(rows) and len(trained) == n + more


def test_the_table_takes_a_climb_in_place_of_the_same_task(monkeypatch, tmp_path):
    monkeypatch.setattr(search, "PATH", tmp_path / "search.csv")
    monkeypatch.setattr(search.config, "__file__", str(tmp_path / "config.py"))
    monkeypatch.setattr(config, "SEARCHED", [])
    TABLE.to_csv(search.PATH, index=False)
    task = (TABLE["method"] == "cmc") & (TABLE["dataset"] == "cifar100") & (TABLE["clusters"] == "wordnet:level=4")
    search.record(TABLE[task].tail(3).assign(top1=50.0, lr=0.5))
    table = pd.read_csv(search.PATH, keep_default_na=False)
    assert len(table) == len(TABLE) - task.sum() + 3
    assert [own["lr"] for own in config.SEARCHED if (own["method"], own["clusters"]) == ("cmc", "wordnet:level=4")] == [0.5]
    assert json.loads((tmp_path / "searched.json").read_text()) == config.SEARCHED


def test_the_settings_are_what_the_search_found():
    """python -m clsl search writes both."""
    assert json.loads((ROOT / "clsl" / "searched.json").read_text()) == search.best(TABLE)


def test_settings_of_other_clusters_are_those_of_the_nearest(monkeypatch):
    rows = [("cifar10", "wordnet:level=9", 1.0, 2.3), ("cifar100", "column:superclass", 2.0, 4.3), ("cifar100", "wordnet:level=4", 3.0, 1.5),
            ("cifar100", "wordnet:level=11", 7.0, 6.1), ("cifar100", "instances", 9.0, 13.3)]
    known = [
        dict(dataset=d, clusters=c, method="simclr" if c == "instances" else "cl_infonce", given={}, lr=lr, temperature=0.1, batch_size=64, h_z=h)
        for d, c, lr, h in rows
    ]
    for given, lr in (({"epochs": 36}, 4.0), ({"batch_size": 500}, 5.0), ({"companions": 8, "batch_size": 128}, 6.0)):
        known.append(known[2] | {"given": given, "lr": lr})
    monkeypatch.setattr(config, "SEARCHED", known)
    cases = {("cifar100", "wordnet:level=4"): 3, ("cifar100", "wordnet:level=7"): 3, ("cifar100", "wordnet:level=8"): 7, ("cifar100", "column:mine"): 2}
    cases |= {("cifar100", "merged:steps=1"): 7, ("cifar100", "merged:steps=3"): 2, ("cifar100", "split:depth=6"): 9}  # the nearest H(Z)
    cases |= {("cifar10", "labels"): 1, ("cub200", "attributes:k=3"): 1}
    for (dataset, clusters), lr in cases.items():
        assert settings("cl_infonce", dataset, clusters)["lr"] == lr
    few = "cl_infonce", "cifar100", "wordnet:level=4"
    assert settings(*few, epochs=12, batch_size=None)["lr"] == 3 and settings(*few, epochs=150)["lr"] == 4
    assert settings(*few, batch_size=500, epochs=12)["lr"] == 5 and settings(*few, batch_size=256)["lr"] == 3
    assert settings(*few, batch_size=128, companions=8)["lr"] == 6 and settings(*few, companions=4)["lr"] == 3
    assert settings("moco", "cifar10", None) == {}
    assert Pretraining(method="cl_infonce", clusters="wordnet:level=2", dataset="cifar100").batch_size == 64
    with pytest.raises(ValueError, match="moco has no settings yet: give lr, temperature and batch_size"):
        Pretraining(method="moco")
