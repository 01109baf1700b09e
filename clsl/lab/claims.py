"""A claim of a paper, the measured numbers, a verdict: the statistics of a trial."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from .. import ROOT, config

# In our words, after the abstracts of the papers (A: arXiv 2202.06670, A0: arXiv 2106.02869, its first
# version, B: arXiv 2412.02121).
CLAIMS = {
    "A1": "auxiliary information brings representations closer to supervised ones (A, A0)",
    "A2": "Cl-InfoNCE is best in most cases among methods with the same information (A; cross-entropy: A0)",
    "A3": "with k-means clusters, Cl-InfoNCE is a strong unsupervised method, ahead of PCL (A0)",
    "A4": "the larger I(Z;T) and the smaller H(Z|T), the better the representation (A0)",
    "B1": "pseudo-labels, refreshed and ever stronger, improve each of four self-supervised objectives (B)",
}
# What is measured of a run, in the order of the tidy table.
MEASURED = "num_clusters h_z i_zt h_z_given_t companions top1 knn top1_1percent top1_10percent within transfer seconds".split()
REFERENCE = "cpu"  # the profile whose results are committed, and that the register is about
REGISTER = ROOT / "notebooks" / "claims.yml"


def registered(experiment: str, profile: str) -> dict[str, list[dict[str, Any]]]:
    """The comparisons that notebooks/claims.yml names for an experiment at a profile: those of each of its parts. Raises ValueError."""
    named = config.named_values(REGISTER)["comparisons"]
    parts = next((parts for name, parts in named.items() if experiment == name or experiment.startswith(f"{name}_")), {})
    return {part: [each for each in some if profile in each.get("profile", profile)] for part, some in parts.items()}


def check_registered(experiment: str, table: pd.DataFrame) -> None:
    """Raise ValueError where a registered comparison finds no trainings in a table of what is asked for, or too few seeds."""
    for part, comparisons in registered(experiment, REFERENCE).items():
        mine = table[table["part"] == part]
        for each in comparisons:
            pairs, wanted = named(mine, [each]), each.get("seeds", 3)
            if pairs.empty:
                raise ValueError(f"{REGISTER.name} compares {each['words']!r}, but {experiment} trains nothing of the kind")
            least = mine.groupby("setting")["seed"].nunique()[[*pairs["a"], *pairs["b"]]].min()
            if least < wanted:
                raise ValueError(f"{REGISTER.name} wants {wanted} seeds for {each['words']!r}, and {experiment} trains {least}")


def named(table: pd.DataFrame, comparisons: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What some comparisons, as notebooks/claims.yml has them, compare in a tidy table: claim, comparison, and the settings a and b.

    {claim, words, a: {column: value, …}, b: …}: the rows that have these values; `each` as the value of a column of a means one
    comparison for each value found there, for which {column} stands in the words, and `each` in b. Comparisons of which one
    side was not trained are left out. Raises ValueError for an unknown claim or column, or a side that is of several settings.
    """
    rows = []
    for each in comparisons:
        if each["claim"] not in CLAIMS:
            raise ValueError(f"unknown claim {each['claim']!r}: choose from {', '.join(CLAIMS)}")
        if unknown := {*each["a"], *each["b"]} - set(table.columns):
            raise ValueError(f"{each['words']!r} asks for a column {min(unknown)!r}: there are {', '.join(table.columns)}")
        for values in _values(table, each["a"]):
            words = each["words"].format(**values)
            a, b = (chosen(table, **{name: values.get(name, value) for name, value in each[side].items()}) for side in "ab")
            if len(a) and len(b):
                rows.append({"claim": each["claim"], "comparison": words, "a": _setting(a, words), "b": _setting(b, words)})
    return pd.DataFrame(rows, columns=["claim", "comparison", "a", "b"])


def _values(table: pd.DataFrame, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The values that the columns `each` have among the rows that fit the rest."""
    columns = [name for name, value in wanted.items() if value == "each"]
    fixed = chosen(table, **{name: value for name, value in wanted.items() if value != "each"})
    return fixed[columns].dropna().drop_duplicates().to_dict("records") if columns else [{}]


def chosen(table: pd.DataFrame, /, **values: Any) -> pd.DataFrame:
    """The rows of a tidy table with these values in its columns: chosen(results, method="cl_infonce", level=4)."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def _setting(rows: pd.DataFrame, words: str) -> str:
    if rows["setting"].nunique() > 1:
        found = ", ".join(dict.fromkeys(rows["method"] + " on " + rows["clusters"]))
        raise ValueError(f"{words!r} compares several settings at once ({found}): name the clusters, the length, the batch")
    return rows["setting"].iloc[0]


def judged(rows: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """The rows of claims.csv: what `named` compares, with numbers from all results of a profile, intervals and verdicts.

    The difference is of the means over seeds, taken as independent samples. With three seeds a setting knows its own variance badly;
    all settings together know what variances are like, and each borrows from that (`moderated`). The variance of the difference is the
    sum of both sides', with the fewer degrees of freedom of the two. `low`, `high`: the 95 % interval; `p_holm`: that there is no
    difference, corrected for all comparisons of the claim; `p_same`: that it is at least `interest` points either way, corrected too
    (two one-sided tests). With the `error` of claims.yml the verdict is *holds* or *contradicted* by p_holm and the sign, *no
    difference* by p_same, else *unknown*. One seed has no variance: "one seed". The same two settings are compared once a claim.
    Raises ValueError where a number is not finite.
    """
    if not np.isfinite(results["top1"]).all():
        raise ValueError(f"results hold numbers that are not finite: {results.loc[~np.isfinite(results['top1']), 'config'].iloc[0]}")
    limits = config.named_values(REGISTER)
    groups = results.drop_duplicates("config").groupby("setting")["top1"]
    known = pd.DataFrame({"mean": groups.mean(), "n": groups.size(), "variance": groups.var()})
    known["moderated"], known["freedom"] = moderated(known["variance"], known["n"] - 1)
    rows = rows[rows["a"].isin(known.index) & rows["b"].isin(known.index)].drop_duplicates(["claim", "a", "b"])
    a, b = (known.loc[rows[side]].set_axis(rows.index) for side in "ab")
    out = rows[["claim", "comparison"]].assign(n=np.minimum(a["n"], b["n"]), mean_a=a["mean"], mean_b=b["mean"])
    out["difference"] = a["mean"] - b["mean"]
    out["standard_error"] = (a["moderated"] / a["n"] + b["moderated"] / b["n"]) ** 0.5
    freedom = np.minimum(a["freedom"], b["freedom"])
    reach = stats.t.ppf(0.975, freedom) * out["standard_error"]
    out["low"], out["high"] = out["difference"] - reach, out["difference"] + reach

    def p_beyond(points: pd.Series) -> pd.Series:
        return pd.Series(stats.t.sf(points / out["standard_error"], freedom), out.index)

    size = out["difference"].abs()
    for name, p in (("p_holm", 2 * p_beyond(size)), ("p_same", p_beyond(limits["interest"] - size))):
        out[name] = p.groupby(out["claim"]).transform(holm)
    sure = np.where(out["difference"] > 0, "holds", "contradicted")
    out["verdict"] = np.where(out["p_holm"] < limits["error"], sure, "unknown")
    out.loc[out["p_same"] < limits["error"], "verdict"] = "no difference"
    out.loc[out["low"].isna(), "verdict"] = "one seed"
    return out.assign(experiment=rows["experiment"], a=rows["a"], b=rows["b"])


def moderated(variance: pd.Series, freedom: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Variances s² with d degrees of freedom, drawn toward what all have in common: (d0 s0² + d s²) / (d0 + d), and d0 + d.

    The prior, s0² with d0, is fitted to the logarithms of all variances by their first two moments (Smyth 2004, section 6.2);
    together they have no more degrees of freedom than all variances have, as in limma. NaN where d is 0.
    """
    known = variance[freedom > 0]
    if known.empty:
        return variance * np.nan, freedom * np.nan
    s2, d = known.clip(lower=1e-5 * known.median()), freedom[freedom > 0]  # two equal numbers know nothing
    e = np.log(s2.where(s2 > 0)) - special.digamma(d / 2) + np.log(d / 2)
    spread = e.var() - special.polygamma(1, d / 2).mean()
    if not spread > 0:  # no more than chance, or too few: all have one variance
        return (variance * 0).add((s2 * d).sum() / d.sum()), (freedom * np.nan).where(freedom == 0, d.sum())
    d0 = 2 * optimize.brentq(lambda x: special.polygamma(1, x) - spread, 1e-8, 1e8)
    s0 = np.exp(e.mean() + special.digamma(d0 / 2) - np.log(d0 / 2))
    return ((d0 * s0 + d * s2) / (d0 + d)).reindex(variance.index), (d0 + d).clip(upper=d.sum()).reindex(variance.index)


def holm(p: pd.Series) -> pd.Series:
    """p values corrected for how many there are (Holm 1979): that one of them is wrongly small has probability α at most."""
    ordered = p.sort_values()
    factors = np.arange(p.notna().sum(), 0, -1)
    return (ordered.dropna() * factors).cummax().clip(upper=1).reindex(p.index)


def answer(rows: pd.DataFrame) -> str:
    """What a claim's comparisons say of it together, by the rule in claims.yml."""
    counts = rows["verdict"].value_counts()
    holds, contradicted = (counts.get(verdict, 0) for verdict in ("holds", "contradicted"))
    if holds and contradicted:
        return "depends"
    for n, verdict in ((holds, "holds"), (contradicted, "is contradicted")):
        if n > len(rows) / 2:
            return verdict
    return "no difference" if counts.get("no difference", 0) > len(rows) / 2 else "unknown"


def resampled(arms: Sequence[np.ndarray], statistic: Callable[..., float], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a statistic of accuracies in percent, where test images are drawn anew together with seeds.

    arms: for each accuracy whether each test image was recognised, bool [seeds, M].
    """
    random, found = np.random.default_rng(seed), []
    for _ in range(draws):
        images = random.integers(arms[0].shape[1], size=arms[0].shape[1])
        found.append(statistic(*(100 * each[random.integers(len(each), size=len(each))].mean(0)[images].mean() for each in arms)))
    return tuple(np.quantile(found, [0.025, 0.975]))


def crossing(views: Sequence[int], difference: Sequence[float], error: Sequence[float], draws: int = 4000, seed: int = 0) -> tuple[float, ...]:
    """After how many views a difference is above zero to the end: estimate, and 95 % interval from its errors at each length.

    Between two lengths it changes evenly with the logarithm of the views. 0: from the shortest on; infinity: not by the longest.
    """
    views, difference, error = (np.asarray(each, float) for each in (views, difference, error))
    drawn = difference + np.nan_to_num(error) * np.random.default_rng(seed).normal(size=(draws, len(views)))
    first, *others = (_last_crossing(np.log(views), each) for each in [difference, *drawn])
    return tuple(np.exp([first, *np.quantile(others, [0.025, 0.975], method="nearest")]))


def _last_crossing(x: np.ndarray, y: np.ndarray) -> float:
    below = np.flatnonzero(y <= 0)
    if not len(below):
        return -np.inf
    i = below[-1]
    return np.inf if i + 1 == len(y) else x[i] + (x[i + 1] - x[i]) * -y[i] / (y[i + 1] - y[i])


def say_crossing(*race: Sequence[float]) -> str:
    """`crossing` in words, of the same."""
    estimate, low, high = crossing(*race)
    words = {0: "at every length", np.inf: "not by the last length"}
    said = [words.get(n, f"from {float(f'{n:.2g}'):,.0f} views on") for n in (estimate, low, high)]
    return f"{said[0]} (95 %: {said[1]} to {said[2]})" if low < high else said[0]


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of a tidy table, and standard errors of what is measured in %: one row a setting, in the table's order.

    Raises ValueError where a seed of a setting comes twice.
    """
    keys = "experiment part setting dataset encoder method clusters level k epochs batch_size changed probe".split()
    if results.duplicated([*keys, "seed"]).any():
        twice = results[results.duplicated([*keys, "seed"])].iloc[0]
        raise ValueError(f"{twice.experiment} has several runs of {twice.method} on {twice.clusters} with seed {twice.seed}")
    groups = results.groupby(keys, sort=False, dropna=False)
    out = groups[MEASURED].mean()
    for name in out.columns[out.columns.get_loc("top1") : -1]:
        out.insert(out.columns.get_loc(name) + 1, f"{name}_se", groups[name].sem())
    out.insert(0, "seeds", groups.size())
    return out.reset_index()


def counted(rows: pd.DataFrame) -> pd.Series:
    """For each claim, its verdicts and how often each was reached: "holds 3, unknown 1"."""
    order = ["holds", "contradicted", "no difference", "unknown", "one seed"]
    counts = rows.groupby("claim")["verdict"].value_counts().unstack(fill_value=0).reindex(columns=order, fill_value=0)
    return counts.apply(lambda row: ", ".join(f"{verdict} {n}" for verdict, n in row.items() if n), axis=1)
