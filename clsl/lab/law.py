"""The law of the map: what clusters are worth, from what they know; fitted to trainings, judged on families left out."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

PREDICTORS = ("known", "noise", "known × noise", "NMI", "log companions")


def predictors(rows: pd.DataFrame, images: int) -> pd.DataFrame:
    """Of each row of a tidy table, between 0 and 1 but for the last: what could predict its accuracy.

    known: I(Z;T) / H(T). noise: H(Z|T) as a share of the most there can be with so many images, log2 N - H(T). NMI: I(Z;T) over
    the mean of H(Z) and H(T). log companions: log2(1 + the images of an image's cluster in its batch).
    """
    h_t = rows["h_t"]
    known, noise = rows["i_zt"] / h_t, rows["h_z_given_t"] / (np.log2(images) - h_t)
    nmi = 2 * rows["i_zt"] / (rows["h_z"] + h_t)
    columns = (known, noise, known * noise, nmi, np.log2(1 + rows["companions"]))
    return pd.DataFrame(dict(zip(PREDICTORS, columns)))


def fitted(x: pd.DataFrame, y: pd.Series) -> pd.Series:
    """Coefficients by least squares, with a constant."""
    design = np.column_stack([np.ones(len(x)), x])
    return pd.Series(np.linalg.lstsq(design, y.to_numpy(), rcond=None)[0], ["constant", *x.columns])


def predicted(x: pd.DataFrame, coefficients: pd.Series) -> pd.Series:
    """What the law says of some rows of predictors."""
    return coefficients["constant"] + x[coefficients.index[1:]] @ coefficients.iloc[1:]


def left_out(x: pd.DataFrame, y: pd.Series, family: pd.Series) -> pd.Series:
    """The prediction of each family by the law fitted to all others."""
    parts = [predicted(x[family == each], fitted(x[family != each], y[family != each])) for each in family.unique()]
    return pd.concat(parts).reindex(y.index)


def chosen(x: pd.DataFrame, y: pd.Series, family: pd.Series, most: int = 3) -> tuple[list[str], float]:
    """The predictors whose law predicts families left out best, and its R² there; the fewer of equals.

    R² is 1 - squared error over the variance of y; below 0 the mean of all would be better.
    """
    if family.nunique() < 3:
        raise ValueError(f"a law needs at least three families of clusters, got {', '.join(family.unique())}")
    best: tuple[float, list[str]] = (-np.inf, [])
    for n in range(1, most + 1):
        for names in itertools.combinations(x.columns, n):
            error = ((left_out(x[list(names)], y, family) - y) ** 2).mean()
            r2 = 1 - error / y.var(ddof=0)
            if r2 > best[0] + 1e-9:
                best = r2, list(names)
    return best[1], best[0]


def crossing(a: pd.Series, b: pd.Series, x: pd.DataFrame, family: pd.Series, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The law of the difference a - b, and its coefficients' 95 % interval from a bootstrap over families."""
    y, names = a - b, list(x.columns)
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        some: Sequence = random.choice(family.unique(), family.nunique())
        rows = np.concatenate([np.flatnonzero(family == each) for each in some])
        found.append(fitted(x.iloc[rows][names], y.iloc[rows]))
    low, high = pd.DataFrame(found).quantile([0.025, 0.975]).to_numpy()
    return pd.DataFrame({"coefficient": fitted(x, y), "low": low, "high": high})


def racing(views: Sequence[int], difference: Sequence[float], error: Sequence[float], draws: int = 4000, seed: int = 0) -> tuple[float, ...]:
    """After how many views a difference is above zero to the end: estimate, and 95 % interval from its errors at each length.

    Between two lengths it changes evenly with the logarithm of the views. 0: from the shortest on; infinity: not by the longest.
    """
    views, difference, error = (np.asarray(each, float) for each in (views, difference, error))
    drawn = difference + np.nan_to_num(error) * np.random.default_rng(seed).normal(size=(draws, len(views)))
    first, *others = (_last_crossing(np.log(views), each) for each in [difference, *drawn])
    return tuple(np.exp([first, *np.quantile(others, [0.025, 0.975], method="nearest")]))


def _last_crossing(x: np.ndarray, y: np.ndarray) -> float:
    if y[-1] <= 0:
        return np.inf
    below = np.flatnonzero(y <= 0)
    if not len(below):
        return -np.inf
    i = below[-1]
    return x[i] + (x[i + 1] - x[i]) * -y[i] / (y[i + 1] - y[i])


def say_racing(estimate: float, low: float, high: float) -> str:
    """`racing` in words."""
    said = ["from the first length on" if n == 0 else "not by the last length" if np.isinf(n) else f"from {n:,.0f} views on" for n in (estimate, low, high)]
    return f"{said[0]} (between {said[1]} and {said[2]})" if low < high else said[0]
