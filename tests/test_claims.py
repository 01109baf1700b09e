import numpy as np
import pandas as pd
import pytest
import yaml

from clsl import ROOT
from clsl.lab import claims, figures, law, profiles


def table(**top1):
    """A tidy table of a few settings: top1=[a number a seed] under "method" or "method_level"."""
    rows = []
    for name, values in top1.items():
        method, _, level = name.partition("__")
        for seed, value in enumerate(values):
            row = {"method": method, "clusters": f"wordnet:level={level}" if level else "instances", "level": int(level) if level else pd.NA}
            rows.append(row | {"seed": seed, "setting": name, "config": f"{name}-{seed}", "top1": float(value), "part": "main"})
    return pd.DataFrame(rows).astype({"level": "Int64"})


EACH = {"claim": "A1", "words": "ours at level {level} > theirs", "a": {"method": "ours", "level": "each"}, "b": {"method": "theirs"}}


def judged(results, *comparisons):
    return claims.judged(claims.named(results, comparisons).assign(experiment="03_x"), results)


def test_each_is_a_comparison_for_each_value():
    results = table(ours__4=[1], ours__8=[2], theirs=[3], others__4=[4])
    rows = claims.named(results, [EACH])
    assert rows["comparison"].tolist() == ["ours at level 4 > theirs", "ours at level 8 > theirs"]
    assert rows["a"].tolist() == ["ours__4", "ours__8"] and rows["b"].tolist() == ["theirs"] * 2
    both = EACH | {"b": {"method": "others", "level": "each"}}
    assert claims.named(results, [both])["b"].tolist() == ["others__4"]  # at level 8 there is nothing to compare with


def test_what_cannot_be_compared():
    results = table(ours__4=[1], ours__8=[2], theirs=[3])
    for wrong, message in (
        ({"claim": "A9"}, "unknown claim 'A9': choose from A1"),
        ({"a": {"height": 4}}, "asks for a column 'height': there are method, "),
        ({"a": {"method": "ours"}}, r"compares several settings at once \(ours on wordnet:level=4, ours on wordnet:level=8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            claims.named(results, [EACH | {"words": "ours > theirs"} | wrong])


def test_verdicts():
    noise = np.array([-0.1, 0, 0.1])
    settings = {f"ours__{i}": 50 + d + noise for i, d in enumerate((5, -5, 0.05, 0.5))} | {"theirs": 50 + noise}
    rows = judged(table(**settings), EACH)
    assert rows["verdict"].tolist() == ["holds", "contradicted", "no difference", "unknown"] or rows["verdict"].iloc[3] == "holds"
    assert rows["difference"].tolist() == pytest.approx([5, -5, 0.05, 0.5]) and (rows["n"] == 3).all()
    assert ((rows["low"] < rows["difference"]) & (rows["difference"] < rows["high"])).all()
    assert judged(table(ours__4=[60], theirs=[50]), EACH)["verdict"].tolist() == ["one seed"]


def test_variances_are_drawn_to_what_they_have_in_common():
    """Against limma's squeezeVar on the same numbers: df.prior and var.prior of its fitFDist."""
    variance, freedom = pd.Series([0.01, 0.1, 0.2, 0.4, 1.6, np.nan]), pd.Series([2.0] * 5 + [0])
    moderated, more = claims.moderated(variance, freedom)
    assert (moderated[:5].diff()[1:] > 0).all() and moderated[0] > 0.01 and moderated[4] < 1.6
    assert (more[:5] > 2).all() and (more[:5] <= 10).all() and moderated[5:].isna().all() and more[5:].isna().all()
    same, all_of_them = claims.moderated(pd.Series([0.3, 0.3, 0.31]), pd.Series([4.0] * 3))
    assert same.nunique() == 1 and (all_of_them == 12).all()  # no more spread than chance makes


def test_the_prior_is_found_again():
    """Variances drawn from a known prior, 4 degrees of freedom around 0.25."""
    random = np.random.default_rng(0)
    true = 0.25 * 4 / random.chisquare(4, 20_000)
    s2 = pd.Series(true * random.chisquare(2, 20_000) / 2)
    moderated, freedom = claims.moderated(s2, pd.Series(2.0, s2.index))
    assert freedom[0] == pytest.approx(6, rel=0.1)
    assert moderated.min() == pytest.approx(0.25 * 4 / 6, rel=0.1)  # of a variance of nearly nothing


def test_holm():
    assert claims.holm(pd.Series([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert claims.holm(pd.Series([0.9, np.nan, 0.8])).tolist()[::2] == [1, 1]


@pytest.mark.parametrize("truth", [[0.0] * 24, [0.0] * 12 + [1.0] * 12], ids=["no difference", "half of them a point"])
def test_false_verdicts_are_rare(truth):
    """Simulated trials of three seeds with the spread of the committed reference: at most one claim in twenty has a false verdict."""
    random, false, trials = np.random.default_rng(1), 0, 60
    for _ in range(trials):
        spread = np.sqrt(0.4**2 * 4 / random.chisquare(4, 63))
        means = np.r_[truth, np.zeros(39)]
        settings = {f"ours__{i}" if i < 24 else f"s{i}": m + random.normal(size=3) * s for i, (m, s) in enumerate(zip(means, spread))}
        results = table(**settings).replace({"method": {"s24": "theirs"}})
        rows = judged(results, EACH)
        right = np.array(truth)
        sure = rows["verdict"].isin(["holds", "contradicted"]).to_numpy()
        false += bool((sure & ((right == 0) | (np.sign(rows["difference"]) != np.sign(right)))).any())
        false += bool(((rows["verdict"] == "no difference").to_numpy() & (right == 1)).any())
    assert false <= 0.05 * trials + 2 * (0.05 * 0.95 * trials) ** 0.5


def test_counted_and_answered():
    def rows(**counts):
        return pd.DataFrame([{"claim": "A1", "verdict": name.replace("_", " ")} for name, n in counts.items() for _ in range(n)])

    assert claims.counted(rows(holds=2, one_seed=1)).to_dict() == {"A1": "holds 2, one seed 1"}
    assert claims.answer(rows(holds=2, unknown=1)) == "holds" and claims.answer(rows(holds=1, unknown=1)) == "unknown"
    assert claims.answer(rows(holds=3, contradicted=1)) == "depends" and claims.answer(rows(contradicted=1)) == "is contradicted"
    assert claims.answer(rows(no_difference=2, unknown=1)) == "no difference"


def test_images_are_resampled_with_seeds():
    random = np.random.default_rng(0)
    a, b = random.random((5, 2000)) < 0.6, random.random((5, 2000)) < 0.5
    low, high = claims.resampled(a, b)
    assert low < 10 < high and 2 < high - low < 6


def test_the_register_fits_the_notebooks():
    register = yaml.safe_load(claims.REGISTER.read_text())
    names = {path.stem for path in profiles.NOTEBOOKS.glob("[0-9]*.ipynb")}
    assert set(register) <= names and {each["claim"] for parts in register.values() for some in parts.values() for each in some} == set(claims.CLAIMS)
    words = [each["words"] for parts in register.values() for some in parts.values() for each in some]
    assert len(set(words)) >= len(words) - 2  # a comparison may be made in two notebooks, of other trainings
    assert "claims.yml" in (ROOT / "notebooks" / "profiles" / "cpu.yml").read_text()


def test_a_register_that_asks_for_what_nobody_trains(monkeypatch):
    asked = table(ours__4=[0], theirs=[0]).drop(columns="top1")
    monkeypatch.setattr(claims, "registered", lambda name: {"main": [EACH | {"seeds": 2}]})
    with pytest.raises(ValueError, match="claims.yml wants 2 seeds for 'ours at level {level} > theirs', and 03_x trains 1"):
        claims.check_registered("03_x", asked)
    with pytest.raises(ValueError, match="claims.yml compares 'ours at level {level} > theirs', but 03_x trains nothing of the kind"):
        claims.check_registered("03_x", asked[asked["method"] == "ours"])


def test_record_replaces_only_its_own_experiment():
    one, two = pd.DataFrame({"experiment": ["b"], "x": [1]}), pd.DataFrame({"experiment": ["a", "a"], "x": [2, 3]})
    figures.record(one, "results", "test", "b")
    figures.record(two, "results", "test", "a")
    kept = figures.record(one.assign(x=9), "results", "test", "b")
    assert kept.values.tolist() == [["a", 2], ["a", 3], ["b", 9]]
    assert pd.read_csv(figures.folder("test") / "results.csv").equals(kept)


# The law of the map


def clusterings(n=40, seed=0):
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"i_zt": random.uniform(0, 6.6, n), "h_z_given_t": random.uniform(0, 6, n), "h_t": 6.64, "images": 10_000})
    rows["h_z"], rows["companions"] = rows["i_zt"] + rows["h_z_given_t"], 127 * 2.0 ** -(rows["i_zt"] + rows["h_z_given_t"])
    return rows, pd.Series(np.arange(n) % 5, name="family")


def test_the_law_finds_what_decides():
    rows, family = clusterings()
    x = law.predictors(rows)
    y = 20 + 15 * x["known"] - 10 * x["known × noise"]
    names, r2 = law.chosen(x, y, family)
    assert set(names) == {"known", "known × noise"} and r2 == pytest.approx(1)
    assert law.left_out(x[names], y, family).to_numpy() == pytest.approx(y.to_numpy())
    line = law.bootstrapped(x[names], y, family, draws=50)
    assert line["coefficient"].tolist() == pytest.approx([20, *({"known": 15, "known × noise": -10}[name] for name in names)])
    assert law.chosen(x[["NMI"]], y, family)[1] < 0.95
    with pytest.raises(ValueError, match="at least three families of clusters, got "):
        law.chosen(x, y, pd.Series("one", x.index))


def test_predictors_at_the_corners():
    corners = pd.DataFrame({"i_zt": [2.0, 2, 0], "h_z_given_t": [0.0, 8, 0], "h_z": [2.0, 10, 0], "h_t": 2.0, "images": 1024, "companions": [3.0, 0, 127]})
    x = law.predictors(corners)
    assert x["known"].tolist() == [1, 1, 0] and x["noise"].tolist() == [0, 1, 0]
    assert x["NMI"].tolist() == pytest.approx([1, 1 / 3, 0]) and x["log companions"].tolist() == [2, 0, 7]


def test_points_of_a_table():
    results = table(supcon=[60, 62], simclr=[30], cl_infonce__4=[50], cross_entropy__4=[55])
    results["clusters"] = results["clusters"].mask(results["method"] == "supcon", "labels")
    results = results.assign(h_z=3.0, i_zt=2.0, h_z_given_t=1.0, companions=4.0)
    points = law.points(results, 3.3, 1000)
    assert points["cl_infonce"].to_dict() == {"labels": 61, "instances": 30, "wordnet:level=4": 50}
    assert points.loc["wordnet:level=4", "cross_entropy"] == 55 and points["cross_entropy"].isna().sum() == 2
    assert points["family"].tolist() == ["the ends", "the ends", "wordnet"]


def test_a_race():
    views = [240_000, 720_000, 3_000_000]
    assert law.racing(views, [-2, 2, 3], [0, 0, 0])[0] == pytest.approx((240_000 * 720_000) ** 0.5)
    assert law.say_racing(*law.racing(views, [-2, -1, -1], [0.1] * 3)) == "not by the last length"
    assert law.say_racing(*law.racing(views, [1, 2, 3], [0.1] * 3)) == "from the first length on"
    estimate, low, high = law.racing(views, [-2, -0.5, 0.5], [0.5] * 3)
    assert low < estimate < high == np.inf
    assert law.say_racing(estimate, low, high).endswith("to not by the last length)")
