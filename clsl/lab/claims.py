"""A claim of a paper, the measured numbers, a verdict: the statistics of a trial."""

import math
from collections.abc import Mapping

import pandas as pd

# In our words, after the abstracts of the papers (A: arXiv 2202.06670, A0: arXiv 2106.02869, its first
# version, B: arXiv 2412.02121).
CLAIMS = {
    "A1": "auxiliary information brings representations closer to supervised ones (A, A0)",
    "A2": "Cl-InfoNCE is best in most cases among methods with the same information (A; cross-entropy: A0)",
    "A3": "with k-means clusters, Cl-InfoNCE is a strong unsupervised method, ahead of PCL (A0)",
    "A4": "the larger I(Z;T) and the smaller H(Z|T), the better the representation (A0)",
    "B1": "pseudo-labels, refreshed and ever stronger, improve each of four self-supervised objectives (B)",
}


def judge(experiment: str, claim: str, comparison: str, a: Mapping[int, float], b: Mapping[int, float]) -> dict:
    """A verdict on "a is more than b", from numbers by seed; the row of claims.csv.

    Over the differences within a seed: holds if their mean is above two standard errors, contradicted if below minus two, else
    inconclusive. A single seed has no standard error, and gives no verdict: "one seed". Raises ValueError where a and b have
    different seeds or a number that is not finite, or for an unknown claim.
    """
    if claim not in CLAIMS:
        raise ValueError(f"unknown claim {claim!r}: choose from {', '.join(CLAIMS)}")
    if set(a) != set(b) or not a:
        raise ValueError(f"{comparison!r} compares seeds {sorted(a)} with seeds {sorted(b)}: they must be the same")
    if not all(map(math.isfinite, (*a.values(), *b.values()))):
        raise ValueError(f"{comparison!r} compares numbers that are not finite: {dict(a)} with {dict(b)}")
    a, b = pd.Series(a, dtype=float).sort_index(), pd.Series(b, dtype=float).sort_index()
    difference, error = (a - b).mean(), (a - b).sem()
    verdict = "one seed" if len(a) == 1 else "inconclusive"
    if difference > 2 * error:
        verdict = "holds"
    if difference < -2 * error:
        verdict = "contradicted"
    row = {"claim": claim, "comparison": comparison, "n": len(a), "mean_a": a.mean(), "mean_b": b.mean()}
    return row | {"difference": difference, "standard_error": error, "verdict": verdict, "experiment": experiment}


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
