"""The law of the map: what clusters are worth, from what they know; fitted to trainings, judged on families left out."""

import itertools

import numpy as np
import pandas as pd

_FAMILIES = {"labels": "the ends", "instances": "the ends"}
PENALTY = 0.1  # of squared coefficients, chosen on the reference, where 0.03 to 0.3 say much the same
_METHODS = {"supcon": "cl_infonce", "simclr": "cl_infonce"}  # Cl-InfoNCE on the labels, and on the images themselves


def points(results: pd.DataFrame, h_t: float, images: int) -> pd.DataFrame:
    """The clusterings of a tidy table, a row each: their family, information and companions, and the mean top1 of two methods on them.

    cl_infonce: with SimCLR as Cl-InfoNCE on the images themselves; cross_entropy: NaN where it was not trained. h_t: H(T) in bits;
    images: how many are trained on.
    """
    rows = results.drop_duplicates("config").assign(method=results["method"].replace(_METHODS))
    rows = rows[rows["method"].isin(["cl_infonce", "cross_entropy"])]
    ours = rows[rows["method"] == "cl_infonce"].groupby("clusters", sort=False)
    known = ours[["h_z", "i_zt", "h_z_given_t", "companions"]].mean()
    top1 = rows.pivot_table(index="clusters", columns="method", values="top1", sort=False)
    family = [_FAMILIES.get(kind, kind) for kind in known.index.str.split(":").str[0]]
    return known.join(top1).assign(family=family, h_t=h_t, images=images).dropna(subset="cl_infonce")


def predictors(points: pd.DataFrame) -> pd.DataFrame:
    """What could predict the accuracy on some clusterings, as `points` or `plane` have them; a column each, from 0 to about 1.

    known: I(Z;T) / H(T). noise: H(Z|T) as a share of the most there can be with N images, log2 N - H(T). NMI: I(Z;T) over
    the mean of H(Z) and H(T). log companions: log2(1 + the images of an image's cluster in its batch) / 7, 1 for 127 of them.
    """
    known = points["i_zt"] / points["h_t"]
    noise = points["h_z_given_t"] / (np.log2(points["images"]) - points["h_t"])
    nmi = 2 * points["i_zt"] / (points["h_z"] + points["h_t"])
    columns = {"known": known, "noise": noise, "known × noise": known * noise, "NMI": nmi}
    return pd.DataFrame(columns | {"log companions": np.log2(1 + points["companions"]) / 7})


def plane(points: pd.DataFrame, images: int, batch_size: int, steps: int = 60) -> pd.DataFrame:
    """Clusterings all over the plane, with clusters of one size: what `predictors` needs of them."""
    h_t = points["h_t"].iloc[0]
    i, h = np.meshgrid(np.linspace(0, h_t, steps), np.linspace(0, points["h_z_given_t"].max(), steps))
    out = pd.DataFrame({"i_zt": i.ravel(), "h_z_given_t": h.ravel(), "h_t": h_t, "images": images})
    out["h_z"] = out["i_zt"] + out["h_z_given_t"]
    return out.assign(companions=(batch_size - 1) * 2.0 ** -out["h_z"])


def fitted(x: pd.DataFrame, y: pd.Series) -> pd.Series:
    """Coefficients by ridge regression, and a constant, which is free; least squares foretold far families accuracies below 0."""
    centred = (x - x.mean()).to_numpy()
    weights = np.linalg.solve(centred.T @ centred + PENALTY * np.eye(x.shape[1]), centred.T @ (y - y.mean()).to_numpy())
    return pd.Series([y.mean() - x.mean() @ weights, *weights], ["constant", *x.columns])


def predicted(x: pd.DataFrame, coefficients: pd.Series) -> pd.Series:
    """What the law says of some rows of predictors."""
    return coefficients["constant"] + x[coefficients.index[1:]] @ coefficients.iloc[1:]


def left_out(x: pd.DataFrame, y: pd.Series, family: pd.Series) -> pd.Series:
    """The prediction of each family by the law fitted to all others."""
    parts = [predicted(x[family == each], fitted(x[family != each], y[family != each])) for each in family.unique()]
    return pd.concat(parts).reindex(y.index)


def chosen(x: pd.DataFrame, y: pd.Series, family: pd.Series) -> tuple[list[str], float]:
    """The predictors, one to three, of a law that predicts families left out, and its R² there.

    The fewest whose squared error is within one standard error, over families, of the least; of as many those with the least (Hastie,
    Tibshirani and Friedman 2009, section 7.10). R² is 1 - squared error over the variance of y; below 0 the mean of all would be
    better. Raises ValueError for fewer than three families.
    """
    if family.nunique() < 3:
        raise ValueError(f"a law needs at least three families of clusters, got {', '.join(family.unique())}")
    candidates = [list(names) for n in (1, 2, 3) for names in itertools.combinations(x.columns, n)]
    errors = pd.DataFrame([(left_out(x[names], y, family) - y) ** 2 for names in candidates]).T.set_axis(range(len(candidates)), axis=1)
    mean = errors.mean()
    by_family = (errors[mean.idxmin()] - mean.min()).groupby(family).sum()
    one = (by_family.pow(2).sum() * len(by_family) / (len(by_family) - 1)) ** 0.5 / len(y)
    enough = [i for i in mean.index if mean[i] <= mean.min() + one]
    best = min(enough, key=lambda i: (len(candidates[i]), mean[i]))
    return candidates[best], 1 - mean[best] / y.var(ddof=0)


def explained(guess: pd.Series, y: pd.Series) -> float:
    """R²: 1 - squared error over the variance of y."""
    return 1 - ((guess - y) ** 2).mean() / y.var(ddof=0)


def tested(x: pd.DataFrame, y: pd.Series, family: pd.Series) -> pd.Series:
    """The prediction of each family by a law of whose predictors and coefficients the family knows nothing: chosen without it, too.

    Raises ValueError for fewer than four families.
    """
    parts = []
    for each in family.unique():
        mine, others = family == each, family != each
        names, _ = chosen(x[others], y[others], family[others])
        parts.append(predicted(x.loc[mine, names], fitted(x.loc[others, names], y[others])))
    return pd.concat(parts).reindex(y.index)


def bootstrapped(x: pd.DataFrame, y: pd.Series, family: pd.Series, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The coefficients of a law for families drawn anew, with replacement: a row a draw."""
    random, found = np.random.default_rng(seed), []
    for _ in range(draws):
        rows = np.concatenate([np.flatnonzero(family == each) for each in random.choice(family.unique(), family.nunique())])
        found.append(fitted(x.iloc[rows], y.iloc[rows]))
    return pd.DataFrame(found)


def lines(x: pd.DataFrame, y: pd.Series, family: pd.Series, draws: int = 40) -> pd.DataFrame:
    """The coefficients of a law, and below them those for families drawn anew: a row each, as `draw_zero` draws them."""
    return pd.concat([fitted(x, y).to_frame().T, bootstrapped(x, y, family, draws)])


def alike(points: pd.DataFrame, bits: float = 0.35) -> pd.DataFrame:
    """Pairs of clusterings whose I(Z;T) and H(Z|T) differ by less than so many bits, the most unlike in accuracy first: the law's limit."""
    pairs = []
    for one, other in itertools.combinations(points.index, 2):
        a, b = points.loc[one], points.loc[other]
        if max(abs(a["i_zt"] - b["i_zt"]), abs(a["h_z_given_t"] - b["h_z_given_t"])) < bits:
            pairs.append((one, other, a["cl_infonce"] - b["cl_infonce"]))
    table = pd.DataFrame(pairs, columns=["clusters", "other clusters", "points apart"])
    return table.sort_values("points apart", key=abs, ascending=False, ignore_index=True)


def draw_zero(ax, plane: pd.DataFrame, laws: pd.DataFrame, color: str, label: str) -> None:
    """Where a law is zero on a `plane`, as a line over H(Z|T) and I(Z;T); laws: rows of coefficients, one line each, the first in bold."""
    x, somewhere = predictors(plane), False
    for i, (_, law) in enumerate(laws.iterrows()):
        grid = plane.assign(value=predicted(x, law)).pivot(index="i_zt", columns="h_z_given_t", values="value")
        if grid.min(axis=None) < 0 < grid.max(axis=None):
            somewhere |= i == 0
            ax.contour(grid.columns, grid.index, grid, levels=[0], colors=color, alpha=1 if i == 0 else 0.08)
    ax.plot([], [], color=color, label=label if somewhere else f"{label}: nowhere here")
