"""The law of the map: found where there is one, and not where there is none."""

import itertools

import numpy as np
import pandas as pd
import pytest

from clsl.lab import law


def clusterings(n=40, seed=0):
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"i_zt": random.uniform(0, 6.6, n), "h_z_given_t": random.uniform(0, 6, n), "h_t": 6.64, "images": 10_000})
    rows["h_z"], rows["companions"] = rows["i_zt"] + rows["h_z_given_t"], 127 * 2.0 ** -(rows["i_zt"] + rows["h_z_given_t"])
    return rows, pd.Series(np.arange(n) % 5, name="family")


def test_the_law_finds_what_decides(monkeypatch):
    rows, family = clusterings()
    monkeypatch.setattr(law, "PENALTY", 1e-9)
    x = law.predictors(rows)
    y = 20 + 15 * x["known"] - 10 * x["known × noise"]
    names, r2 = law.chosen(x, y, family)
    assert set(names) == {"known", "known × noise"} and r2 == pytest.approx(1)
    assert law.left_out(x[names], y, family).to_numpy() == pytest.approx(y.to_numpy())
    assert law.explained(law.tested(x, y, family), y) == pytest.approx(1)
    for draw in law.bootstrapped(x[names], y, family, draws=5).to_numpy():
        assert draw == pytest.approx([20, *({"known": 15, "known × noise": -10}[name] for name in names)])
    assert law.chosen(x[["NMI"]], y, family)[1] < 0.95
    with pytest.raises(ValueError, match="at least three families of clusters, got "):
        law.chosen(x, y, pd.Series("one", x.index))


def test_of_predictors_about_as_good_the_fewest_are_chosen():
    """What decides is one predictor, and chance; a second that helps by a hair on families left out is no reason."""
    rows, family = clusterings(40, seed=1)
    x, sizes = law.predictors(rows), []
    for seed in range(10):
        y = 30 * x["NMI"] + np.random.default_rng(seed).normal(size=len(rows))
        names, r2 = law.chosen(x, y, family)
        least = max(law.explained(law.left_out(x[[*some]], y, family), y) for n in (1, 2, 3) for some in itertools.combinations(x, n))
        assert "NMI" in names and r2 <= least < r2 + 0.1
        sizes.append(len(names))
    assert sizes.count(1) >= 8


def test_predictors_at_the_corners():
    corners = pd.DataFrame({"i_zt": [2.0, 2, 0], "h_z_given_t": [0.0, 8, 0], "h_z": [2.0, 10, 0], "h_t": 2.0, "images": 1024, "companions": [3.0, 0, 127]})
    x = law.predictors(corners)
    assert x["known"].tolist() == [1, 1, 0] and x["noise"].tolist() == [0, 1, 0]
    assert x["NMI"].tolist() == pytest.approx([1, 1 / 3, 0]) and x["log companions"].tolist() == [2 / 7, 0, 1]


def test_points_of_a_table():
    rows = [("supcon", "labels", 60), ("supcon", "labels", 62), ("simclr", "instances", 30)]
    rows += [("cl_infonce", "wordnet:level=4", 50), ("cross_entropy", "wordnet:level=4", 55)]
    results = pd.DataFrame(rows, columns=["method", "clusters", "top1"]).assign(h_z=3.0, i_zt=2.0, h_z_given_t=1.0, companions=4.0)
    results["config"] = range(len(results))
    points = law.points(results, 3.3, 1000)
    assert points["cl_infonce"].to_dict() == {"labels": 61, "instances": 30, "wordnet:level=4": 50}
    assert points.loc["wordnet:level=4", "cross_entropy"] == 55 and points["cross_entropy"].isna().sum() == 2
    assert points["family"].tolist() == ["the ends", "the ends", "wordnet"]


def test_a_family_far_from_the_others_is_not_foretold_the_absurd():
    """The others differ by a hair in a predictor in which the family left out is far away, and their accuracies by chance."""
    x = pd.DataFrame({"a": [0.0, 0.1, 0.01, 0.11, 1.0], "b": [0.0, 0.1, 0.011, 0.109, 0.0]})
    y, family = pd.Series([30.0, 31.0, 30.5, 30.7, 33.0]), pd.Series([*"aabb", "far"])
    assert 28 < law.left_out(x, y, family).iloc[-1] < 34


def test_chance_is_not_a_law():
    """The score of predictors chosen by their score is too good; that of `tested` is not."""
    rows, family = clusterings(30, seed=3)
    x, found = law.predictors(rows), []
    for seed in range(20):
        y = pd.Series(np.random.default_rng(seed).normal(size=len(rows)))
        found.append((law.chosen(x, y, family)[1], law.explained(law.tested(x, y, family), y)))
    chosen, tested = np.mean(found, axis=0)
    assert tested < 0 and tested < chosen


def test_clusterings_alike():
    points = pd.DataFrame({"i_zt": [4.3, 4.2, 4.2], "h_z_given_t": [0.0, 0.1, 3], "cl_infonce": [37.0, 33, 30]}, ["a", "b", "c"])
    assert law.alike(points).values.tolist() == [["a", "b", 4.0]]
