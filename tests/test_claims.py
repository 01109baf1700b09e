import pandas as pd
import pytest

from clsl.lab import claims, figures


def verdict(a, b):
    return claims.judge("03_x", "A1", "a > b", dict(enumerate(a)), dict(enumerate(b)))


def test_verdicts():
    assert verdict([60, 61, 62], [50, 51, 52.5])["verdict"] == "holds"
    assert verdict([50, 51, 52.5], [60, 61, 62])["verdict"] == "contradicted"
    assert verdict([50, 60, 55], [55, 55, 55])["verdict"] == "inconclusive"
    assert verdict([60], [50])["verdict"] == "one seed"  # which has no error


def test_the_numbers_are_paired_by_seed():
    row = claims.judge("03_x", "A4", "a > b", {1: 70.0, 0: 50.0, 2: 90.0}, {0: 49.0, 1: 68.0, 2: 87.0})
    assert (row["n"], row["mean_a"], row["mean_b"], row["difference"]) == (3, 70, 68, 2)
    assert row["standard_error"] == pytest.approx(1 / 3**0.5) and row["verdict"] == "holds"
    assert list(row)[:8] == "claim comparison n mean_a mean_b difference standard_error verdict".split()


def test_what_cannot_be_judged():
    with pytest.raises(ValueError, match=r"seeds \[0, 1\] with seeds \[0\]"):
        claims.judge("03_x", "A1", "a > b", {0: 1, 1: 1}, {0: 1})
    with pytest.raises(ValueError, match=r"seeds \[\]"):
        claims.judge("03_x", "A1", "a > b", {}, {})
    with pytest.raises(ValueError, match="unknown claim 'A9'"):
        claims.judge("03_x", "A9", "a > b", {0: 1}, {0: 1})


def test_by_seed():
    table = pd.DataFrame({"method": ["a", "a", "b"], "clusters": ["x", "y", "x"], "seed": [0, 0, 0], "top1": [1.0, 2, 3]})
    assert claims.by_seed(table[1:2]) == {0: 2.0} and claims.by_seed(table[2:], "top1") == {0: 3.0}
    with pytest.raises(ValueError, match="one run a seed, and this selection has a on x, a on y: name the clusters"):
        claims.by_seed(table[:2])
    with pytest.raises(ValueError, match="this selection has no runs"):
        claims.by_seed(table[:0])


def test_counted():
    rows = pd.DataFrame([verdict([60, 61], [50, 51.5]), verdict([60, 61], [50, 51.5]), verdict([1], [2])])
    assert claims.counted(rows).to_dict() == {"A1": "holds 2, one seed 1"}


def test_record_replaces_only_its_own_experiment():
    one, two = pd.DataFrame({"experiment": ["b"], "x": [1]}), pd.DataFrame({"experiment": ["a", "a"], "x": [2, 3]})
    figures.record(one, "results", "test", "b")
    figures.record(two, "results", "test", "a")
    table = figures.record(one.assign(x=9), "results", "test", "b")
    assert table.values.tolist() == [["a", 2], ["a", 3], ["b", 9]]
    assert pd.read_csv(figures.folder("test") / "results.csv").equals(table)
