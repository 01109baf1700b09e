"""A claim of a paper, the measured numbers, a verdict: the statistics of a trial."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

# In our words, after the abstracts of the papers (A: arXiv 2202.06670, A0: arXiv 2106.02869, its first
# version, B: arXiv 2412.02121).
CLAIMS = {
    "A1": "auxiliary information brings representations closer to supervised ones (A, A0)",
    "A2": "Cl-InfoNCE is best in most cases among methods with the same information (A; cross-entropy: A0)",
    "A3": "with k-means clusters, Cl-InfoNCE is a strong unsupervised method, ahead of PCL (A0)",
    "A4": "the larger I(Z;T) and the smaller H(Z|T), the better the representation (A0)",
    "B1": "pseudo-labels, refreshed and ever stronger, improve each of four self-supervised objectives (B)",
}


def compared(experiment: str, claim: str, comparison: str, a: Mapping[int, float], b: Mapping[int, float]) -> dict:
    """Numbers by seed of "a is more than b", and their difference within each seed: the raw part of a row of claims.csv.

    Raises ValueError where a and b have different seeds or a number that is not finite, or for an unknown claim.
    """
    if claim not in CLAIMS:
        raise ValueError(f"unknown claim {claim!r}: choose from {', '.join(CLAIMS)}")
    if set(a) != set(b) or not a:
        raise ValueError(f"{comparison!r} compares seeds {sorted(a)} with seeds {sorted(b)}: they must be the same")
    if not all(map(math.isfinite, (*a.values(), *b.values()))):
        raise ValueError(f"{comparison!r} compares numbers that are not finite: {dict(a)} with {dict(b)}")
    a, b = pd.Series(a, dtype=float).sort_index(), pd.Series(b, dtype=float).sort_index()
    row = {"claim": claim, "comparison": comparison, "n": len(a), "mean_a": a.mean(), "mean_b": b.mean()}
    return row | {"difference": (a - b).mean(), "standard_error": (a - b).sem(), "experiment": experiment}


def judged(rows: pd.DataFrame, interest: float = 0.5, error: float = 0.05) -> pd.DataFrame:
    """Raw rows of claims.csv with their intervals and verdicts.

    With three seeds a comparison knows its own variance badly. All comparisons together know what variances are like, and
    each borrows from that (Smyth 2004, as limma does): t has the moderated variance and more degrees of freedom. `low`, `high`:
    the 1 - error interval of the difference; `p_holm`: corrected for all comparisons of the claim. The verdict is *no
    difference* where the interval lies within ± interest, *holds* or *contradicted* where p_holm is below error, by the sign;
    else *unknown*, and "one seed" where there is no variance at all.
    """
    rows = rows.copy()
    several = rows["n"] > 1
    rows[["low", "high", "p_holm"]], rows["verdict"] = float("nan"), "one seed"
    if not several.any():
        return rows
    n, difference = rows.loc[several, "n"], rows.loc[several, "difference"]
    variance, freedom = moderated(rows.loc[several, "standard_error"] ** 2 * n, n - 1)
    width = (variance / n) ** 0.5
    reach = stats.t.ppf(1 - error / 2, freedom) * width
    rows.loc[several, "low"], rows.loc[several, "high"] = difference - reach, difference + reach
    p = pd.Series(2 * stats.t.sf((difference / width).abs(), freedom), index=n.index)
    rows.loc[several, "p_holm"] = p.groupby(rows["claim"]).transform(holm)
    for i, row in rows[several].iterrows():
        sure = "holds" if row["difference"] > 0 else "contradicted"
        rows.loc[i, "verdict"] = sure if row["p_holm"] < error else "unknown"
        if -interest <= row["low"] and row["high"] <= interest:
            rows.loc[i, "verdict"] = "no difference"
    return rows


def moderated(variance: pd.Series, freedom: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Variances s² with d degrees of freedom, drawn toward their common prior: (d0 s0² + d s²) / (d0 + d), with d0 + d.

    The prior, s0² with d0, is fitted to the logarithms of all variances by their first two moments (Smyth 2004, section 6.2).
    """
    variance = variance.clip(lower=1e-5 * variance[variance > 0].median())  # two equal differences know nothing
    e = np.log(variance) - special.digamma(freedom / 2) + np.log(freedom / 2)
    spread = e.var() - special.polygamma(1, freedom / 2).mean() if len(e) > 1 else 0.0
    if spread <= 0:  # no more than chance: all have one variance
        return pd.Series(np.exp(e.mean()), variance.index), pd.Series(np.inf, variance.index)
    d0 = 2 * optimize.brentq(lambda x: special.polygamma(1, x) - spread, 1e-8, 1e8)
    s0 = np.exp(e.mean() + special.digamma(d0 / 2) - np.log(d0 / 2))
    return (d0 * s0 + freedom * variance) / (d0 + freedom), d0 + freedom


def holm(p: pd.Series) -> pd.Series:
    """p values corrected for how many there are (Holm 1979): none is false with probability 1 - α, taken together."""
    ordered = p.sort_values()
    factors = np.arange(len(p), 0, -1)
    return (ordered * factors).cummax().clip(upper=1).reindex(p.index)


def by_seed(rows: pd.DataFrame, column: str = "top1") -> dict[int, float]:
    """{seed: number} of some rows of a tidy table: one method, on the same clusters, after as many epochs.

    Raises ValueError where a seed has several numbers, or there are no rows.
    """
    if rows.empty or rows["seed"].duplicated().any():
        found = ", ".join(dict.fromkeys(rows["method"] + " on " + rows["clusters"])) or "no runs"
        raise ValueError(f"a comparison needs one run a seed, and this selection has {found}: name the clusters and the length")
    return dict(zip(rows["seed"].tolist(), rows[column].tolist()))


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard error over seeds of a tidy table: one row a method and clusters, in the table's order.

    Raises ValueError where a row would mean over runs that differ in more than their seed.
    """
    keys = ["experiment", "dataset", "encoder", "method", "clusters", "level", "k", "epochs", "probe"]
    if results.duplicated([*keys, "seed"]).any():
        twice = results[results.duplicated([*keys, "seed"])].iloc[0]
        raise ValueError(f"{twice.experiment} has several runs of {twice.method} on {twice.clusters} with seed {twice.seed}")
    groups = results.groupby(keys, sort=False, dropna=False)
    out = groups[["num_clusters", "i_zt", "h_z_given_t", "top1", "knn", "seconds"]].mean()
    out.insert(out.columns.get_loc("top1") + 1, "top1_se", groups["top1"].sem())
    out.insert(out.columns.get_loc("knn") + 1, "knn_se", groups["knn"].sem())
    out.insert(0, "seeds", groups.size())
    return out.reset_index()


def counted(rows: pd.DataFrame) -> pd.Series:
    """For each claim, its verdicts and how often each was reached: "holds 3, inconclusive 1"."""
    order = ["holds", "contradicted", "inconclusive", "one seed"]
    counts = rows.groupby("claim")["verdict"].value_counts().unstack(fill_value=0).reindex(columns=order, fill_value=0)
    return counts.apply(lambda row: ", ".join(f"{verdict} {n}" for verdict, n in row.items() if n), axis=1)


def beside(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """The rows of one claims.csv that another has too, with its verdict, difference and standard error (`…_reference`)."""
    columns = ["claim", "comparison", "experiment", "verdict", "difference", "standard_error"]
    return rows.merge(reference[columns], on=columns[:3], suffixes=("", "_reference"))
