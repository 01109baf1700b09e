"""Which of the clusters that one's images could have is worth training with: said before anything is trained.

What the candidates know of a few labels (candidates.py) is judged by the law of the map (law.py), which is fitted to the
trainings of the committed reference.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from .. import clusters, data
from ..config import Pretraining
from ..data import own
from . import candidates, figures, law, plan, runs

METHODS = ("cl_infonce", "cross_entropy")
_ROWS = 20  # of the table that are shown; the file has all
_DRAWS = 200  # of the law, the information and the error, for the interval of a gain


class Law(NamedTuple):
    """What a method gains over SimCLR, in percentage points, from what clusters know."""

    method: str
    fitted: pd.Series  # coefficients, as law.fitted has them
    drawn: pd.DataFrame  # coefficients by bootstrap, a row a draw
    errors: np.ndarray  # on families left out
    training: dict[str, Any]  # encoder and epochs of the trainings that it was fitted to


def mapped(results: pd.DataFrame, part: str = "main") -> pd.DataFrame:
    """The clusterings of notebook 07's plane, as law.points has them, with dataset, encoder and epochs; none without SimCLR.

    part: of the notebook, "elsewhere" for those of its other data set.
    """
    if "companions" not in results:
        return pd.DataFrame()
    asked = ["dataset", "encoder", "epochs", "part"]
    table = results.merge(results.query("experiment == '07_information' and part == @part")[asked].drop_duplicates())
    simclr = table.query("clusters == 'instances' and method == 'simclr'")
    if simclr.empty:
        return pd.DataFrame()
    points = law.points(table, simclr["i_zt"].iloc[0], int(simclr["num_clusters"].iloc[0]))
    return points.assign(**simclr[asked[:3]].iloc[0])


def laws(points: pd.DataFrame) -> dict[str, Law]:
    """For each method the law of its gain over SimCLR in percentage points, fitted to what `mapped` gives.

    The predictors are those of `law.chosen`. With fewer than four families of clusters that a method was trained
    on, there is no law.
    """
    found = {}
    for method in METHODS:
        mine = points.dropna(subset=method) if method in points else points.head(0)
        if len(mine) and mine["family"].nunique() > 3:
            x, gain, family = law.predictors(mine), mine[method] - points.loc["instances", "cl_infonce"], mine["family"]
            x = x[law.chosen(x, gain, family)[0]]
            errors = (gain - law.left_out(x, gain, family)).to_numpy()
            training = points[["encoder", "epochs"]].iloc[0].to_dict()
            found[method] = Law(method, law.fitted(x, gain), law.bootstrapped(x, gain, family, _DRAWS), errors, training)
    return found


def tested(results: pd.DataFrame, labelled: int) -> pd.DataFrame:
    """What the law of each of notebook 07's two data sets foretells of the other, from few labels, beside what was measured there.

    Rows as of `predicted`, with dataset and `measured`, the gain in points; none where there are no two laws. Left out are the ends and
    k-means, whose clusters a training makes.
    """
    planes, found = [mapped(results, part) for part in ("main", "elsewhere")], [pd.DataFrame()]
    for fitted, points in zip(planes, planes[::-1]):
        if points.empty or not (some := laws(fitted)):
            continue
        name, new = points["dataset"].iloc[0], points.query("family not in ('the ends', 'kmeans')")
        images = data.load(name, "train", int(points["images"].iloc[0]))
        z = {each: clusters.make(each, images) for each in new.index}
        t = candidates.labels(images, labelled=labelled)
        gains = new[[*some]].sub(points.loc["instances", "cl_infonce"]).stack().dropna().rename("measured").rename_axis(["clusters", "method"])
        told = predicted(candidates.known(z, t, name, settings(images, some)), some)
        found.append(told.merge(gains.reset_index()).assign(dataset=name))
    return pd.concat(found)


def committed() -> dict[str, Law]:
    """The laws of the committed reference, if it is there."""
    path = figures.folder("cpu") / "results.csv"
    return laws(mapped(pd.read_csv(path))) if path.exists() else {}


def settings(images: data.Images, some: Mapping[str, Law]) -> dict[str, Any]:
    """Encoder and epochs as in the trainings that the laws were fitted to, and for files a size of views: 64 pixels, less if most are smaller."""
    training, sides = next((each.training for each in some.values()), {}), []
    for file in (images.files or ())[:: len(images) // 100 + 1]:
        with contextlib.suppress(OSError), Image.open(file) as image:
            sides.append(min(image.size))
    most = data.packed_side(None)
    side = np.clip(data.packed_side(int(np.median(sides or most))), 8, most)
    return {**training} | ({} if images.files is None else {"image_size": int(side)})


def predicted(table: pd.DataFrame, some: dict[str, Law], seed: int = 0) -> pd.DataFrame:
    """Each method's gain over SimCLR on each candidate of `candidates.known`, in points, with a 90 % interval; the largest gain first.

    Without a law there is no gain, and the largest normalised mutual information with the label comes first.

    Three things are drawn for the interval: H(Z|T) within its own interval, the law's coefficients by bootstrap of families,
    and the error that the law makes on families left out.
    """
    random, rows, many = np.random.default_rng(seed), [], pd.concat([table] * _DRAWS)
    spread = (many["h_z_given_t_high"] - many["h_z_given_t_low"]) / 3.29  # a 90 % interval has 3.29 standard deviations
    for each in some.values():
        h = (many["h_z_given_t"] + spread * random.normal(size=len(many))).clip(0, many["h_z"])
        names = each.drawn.columns[1:]
        x = law.predictors(many.assign(h_z_given_t=h, i_zt=many["h_z"] - h))[names].to_numpy().reshape(_DRAWS, len(table), -1)
        drawn = each.drawn["constant"].to_numpy()[:, None] + (x * each.drawn[names].to_numpy()[:, None]).sum(2)
        gain = law.predicted(law.predictors(table), each.fitted)
        drawn = np.vstack([gain, drawn + random.choice(each.errors, drawn.shape)])
        low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
        low, high = np.minimum(low, gain), np.maximum(high, gain)
        rows.append(table.assign(method=each.method, gain=gain, gain_low=low, gain_high=high))
    if not rows:
        table = table.assign(method="cl_infonce", gain=np.nan, gain_low=np.nan, gain_high=np.nan)
        return table.sort_values("clusters", key=lambda _: -law.predictors(table)["NMI"], kind="stable").reset_index()
    return pd.concat(rows).reset_index().sort_values("gain", ascending=False, kind="stable", ignore_index=True)


def shown(ranked: pd.DataFrame) -> pd.DataFrame:
    """The ranked table in words."""

    def interval(column: str, form: str) -> list[str]:
        columns = ranked[[column, f"{column}_low", f"{column}_high"]].itertuples(index=False)
        return [f"{v:{form}} ({low:{form}} to {high:{form}})" if v == v else "no law" for v, low, high in columns]

    out = {"clusters Z": ranked["clusters"], "how many": ranked["num_clusters"].astype(str)}
    out |= {"companions": ranked["companions"].map("{:.1f}".format), "I(Z;T), bits": interval("i_zt", ".2f")}
    out |= {"H(Z|T), bits": interval("h_z_given_t", ".2f"), "method": ranked["method"].map(figures.NAMES).where(ranked["gain"].notna(), "–")}
    return pd.DataFrame(out | {"batch": ranked["batch_size"].astype(str), "gain over SimCLR, points": interval("gain", "+z.1f")})


def said(ranked: pd.DataFrame, minutes: float) -> str:
    """The advice in a sentence; minutes: what the advised training would take here."""
    if ranked.empty:
        return "Train with SimCLR: nothing is known of these images that puts some of them together."
    if ranked["gain"].isna().all():
        return (
            f"No advice: the reference in {figures.folder('cpu')} lacks the map of notebook 07, which ./reproduce.sh cpu makes; "
            f"the clusters that agree best with the labels (NMI), {ranked['clusters'].iloc[0]}, come first."
        )
    best, time = ranked.iloc[0], "about a minute" if minutes < 1.5 else f"about {minutes:.0f} minutes"
    gain = f"{best['gain']:+z.1f} points (90 %: {best['gain_low']:+z.1f} to {best['gain_high']:+z.1f})"
    what = f"{figures.NAMES[best['method']]} on {best['clusters']}"
    if best["gain"] <= 0:
        return f"Train with SimCLR, {time} here: with {what}, the best of the others, the law predicts {gain}."
    sure = "" if best["gain_low"] > 0 else ", which is not sure to be more than nothing"
    same = best["h_z_given_t"] < 0.01 and best["i_zt"] > best["h_t"] - 0.01
    label = " These clusters are the label by another name." if same else ""
    return f"Train with {what}, in batches of {best['batch_size']}: {gain} over SimCLR{sure}; {time} here.{label}"


def draw(ranked: pd.DataFrame, some: dict[str, Law]) -> plt.Figure:
    """The candidates on the plane of H(Z|T) and I(Z;T), and where the laws say that clusters begin to pay."""
    figure, ax = plt.subplots(figsize=(7, 4.2))
    points = ranked.drop_duplicates("clusters")
    reach = points.head(1).assign(h_z_given_t=1.1 * max(points["h_z_given_t_high"].max(), 0.5))
    plane = law.plane(reach, int(reach["images"].iloc[0]), int(reach["batch_size"].iloc[0]))
    for each in some.values():
        lines = pd.concat([each.fitted.to_frame().T, each.drawn.head(40)])
        law.draw_zero(ax, plane, lines, figures.COLOURS[each.method], f"{figures.NAMES[each.method]} as good as SimCLR")
    x, y = points["h_z_given_t"], points["i_zt"]
    errors = [[(v - points[f"{v.name}_low"]).clip(0), (points[f"{v.name}_high"] - v).clip(0)] for v in (x, y)]
    ax.errorbar(x, y, xerr=errors[0], yerr=errors[1], ls="", color="0.6", lw=1, zorder=1)
    most = np.nanmax([1, *points["gain"].abs()])
    looks = dict(cmap="coolwarm_r", edgecolor="black", norm=plt.Normalize(-most, most), zorder=2, clip_on=False)
    drawn = ax.scatter(x, y, 60, points["gain"].fillna(0), **looks)
    for each in dict.fromkeys([points.index[0], x.idxmax(), y.idxmin()]):  # the best, and the ends
        looks = dict(textcoords="offset points", fontsize=9, bbox=dict(facecolor="white", alpha=0.7, lw=0, pad=1))
        ax.annotate(points["clusters"][each], (x[each], y[each]), (7, -16 if y[each] > y.mean() else 5), **looks)
    ax.set(xlabel="H(Z|T) (bits), better to the left", ylabel="I(Z;T) (bits), better above")
    if some:
        figure.colorbar(drawn, label="predicted gain over SimCLR, points")
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def advise(dataset: str, column: str | None = None, labelled: int | None = None, minutes: float | None = None) -> str:
    """The whole advice on a data set's training images as text; its picture and its table are saved to figures/advise/, under the folder's name.

    column, labelled: as candidates.labels takes them; where fewer images than that have a label, candidates.ask writes labels.csv
    here. minutes: train the advised clusters and SimCLR within these, too. Raises what these, data.read and estimates.estimated
    raise, and ValueError for minutes together with a column: a training is judged by the data set's own labels.
    """
    if minutes is not None and (column is not None or not 0 < minutes < np.inf):
        raise ValueError(f"--train takes minutes above 0, and no --labels, got {minutes:g} and {column}")
    images, some = candidates.described(dataset), committed()
    if column is None and labelled is not None and images.files and (images.labels >= 0).sum() < labelled:
        return candidates.ask(images, labelled, Path("labels.csv"))
    t, training = candidates.labels(images, column, labelled), settings(images, some)
    if (t < 0).all():
        n = min(300, len(t))
        raise ValueError(f"no image of {dataset} has a label: --labelled {n} writes a file of {n} to fill in")
    found = candidates.of(images, leave_out=[column] if column in (images.columns or {}) else [])
    if not found:
        return said(pd.DataFrame(), 0)
    ranked = predicted(candidates.known(found, t, dataset, training), some)
    trained = int((images.labels >= 0).sum()) or len(images)
    best, simclr = configurations(ranked.assign(images=trained), dataset, training)
    hours = plan.cost(best if ranked["gain"].iloc[0] > 0 else simclr)["hours"]
    lines = [shown(ranked.head(_ROWS)).to_string(index=False), "Companions: the other images of its cluster that an image meets in a batch."]
    if ks := [int(name.partition("=")[2]) for name in found if name.startswith("attributes:")]:
        order = [images.attribute_names[i] for i in clusters.most_informative(images.attributes, max(ks))]
        lines.append(f"attributes:k=… are the first k of {', '.join(order)}.")
    lines.append(said(ranked, 60 * hours))
    figures.style()
    name, place = (own.root_of(dataset) or Path(dataset)).resolve().name, figures.folder("advise")
    figures.save(draw(ranked, some), name, "map", place.name)
    ranked.to_csv(place / f"{name}_ranked.csv", index=False)
    lines.append(f"{(t >= 0).sum()} of the {len(t)} images to train on have a label.")
    lines.append(f"The map, {name}_map.png, and the table with all {len(ranked)} rows, {name}_ranked.csv: {place}")
    lines += [f"left out: {line}" for line in images.left_out]
    if minutes and trained < len(images):
        lines.append(f"Trained on are only the {trained} images that have a label, though the prediction is for all {len(images)}.")
    return "\n".join(lines + ([tried(ranked.iloc[0], best, simclr, minutes)] if minutes else []))


def configurations(ranked: pd.DataFrame, dataset: str, training: Mapping[str, Any]) -> list[Pretraining]:
    """The trainings of the first row and of SimCLR, in batches of no more images than there are."""
    best = ranked.iloc[0]
    methods = best[["method", "clusters"]].to_dict(), {"method": "simclr"}
    both = [Pretraining(dataset=dataset, **each, **training) for each in methods]
    return [dataclasses.replace(each, batch_size=min(each.batch_size, int(best["images"]))) for each in both]


def tried(row: pd.Series, best: Pretraining, simclr: Pretraining, minutes: float) -> str:
    """Train the advised clusters and SimCLR, as long as both fit into some minutes; say whether the prediction held, and their names."""
    hours = sum(plan.cost(config)["hours"] / (config.epochs + 1) for config in (best, simclr))
    epochs = max(1, int(minutes / 60 / hours) - 1)  # the evaluation takes about as long as an epoch
    pair = [dataclasses.replace(config, epochs=epochs) for config in (best, simclr)]
    both = runs.get_all(pair)
    (a, b), (named, plain) = [run.result["top1"] for run in both], [run.path.parent.name for run in both]
    held = "held" if row["gain_low"] <= a - b <= row["gain_high"] else "did not hold"
    held = f"the prediction, for {best.epochs} epochs, {held}" if pd.notna(row["gain"]) else "there was no prediction"
    what = f"{a:.1f} % with {figures.NAMES[best.method]} on {best.clusters}, {b:.1f} % with SimCLR"
    use = f"python -m clsl embed {best.dataset} --encoder {plain} --out features.npy --suspects COLUMN"
    why = f"Encoders: {named}, and {plain}, which has seen no clusters and so finds wrong entries in them best: {use}"
    return f"After {epochs} epochs each: {what}, {a - b:+z.1f} points; {held}.\n{why}"
