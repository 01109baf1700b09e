"""One plotting style, tables in words; figures and tables are saved to figures/<profile>/."""

import html
import io
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import IPython
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from pandas.io.formats.style import Styler

from .. import ROOT, printable
from ..data import Images, kept
from . import claims, records

# method → its name, colour and marker: Okabe and Ito's colours, apart for the colour-blind and, with the markers, in grey.
_LOOKS = {
    "simclr": ("SimCLR", "#7f7f7f", "s"),
    "cl_infonce": ("Cl-InfoNCE", "#0072b2", "o"),
    "cross_entropy": ("cross-entropy", "#d55e00", "^"),
    "cross_entropy_head": ("cross-entropy, same head", "#f0a060", ">"),
    "cl_infonce_moco": ("Cl-InfoNCE on MoCo", "#4b9fd5", "h"),
    "supcon": ("supervised contrastive", "#000000", "D"),
    "attribute_prediction": ("attribute prediction", "#e69f00", "v"),
    "cmc": ("CMC", "#009e73", "P"),
    "moco": ("MoCo v2", "#56b4e9", "X"),
    "pcl": ("PCL", "#cc79a7", "p"),
    "dual_head": ("dual head", "#332288", "*"),
    "instance_head": ("instance head alone", "#aaaaaa", "<"),
    "cluster_head": ("cluster head alone", "#88ccee", ">"),
    "byol": ("BYOL", "#882255", "H"),
    "w_mse": ("W-MSE", "#117733", "8"),
    "barlow_twins": ("Barlow Twins", "#999933", "d"),
}
for _method in ("simclr", "byol", "w_mse", "barlow_twins", "cl_infonce"):
    _name, _colour, _marker = _LOOKS[_method]
    _LOOKS[f"{_method}+progressive"] = (f"{_name}, progressive", _colour, _marker)
COMPARISON = "is the first more?"
NAMES, COLOURS = ({method: look[i] for method, look in _LOOKS.items()} for i in range(2))


def style(context: str = "notebook") -> None:
    """The look of every figure: small, plain, legible in print and on a screen; with context "talk" from the last row of a lecture room."""
    pd.set_option("display.max_colwidth", None)  # comparisons are read to their end
    sns.set_theme(context=context, style="ticks", palette=list(COLOURS.values()), font_scale=0.9)
    plt.rcParams.update({"figure.figsize": (6, 3.7), "figure.constrained_layout.use": True, "savefig.dpi": 160, "legend.frameon": False})
    plt.rcParams.update({"axes.spines.right": False, "axes.spines.top": False, "image.interpolation": "none"})  # pixels as they are
    # the same figure gives the same file, with text that can be selected and found
    plt.rcParams.update({"svg.hashsalt": "clsl", "svg.fonttype": "none"})
    if context == "talk" and IPython.get_ipython():  # sharp at any size
        set_matplotlib_formats("svg")


def look(method: str) -> dict[str, str]:
    """Colour, marker and label of a method (a name in METHODS), for ax.plot, ax.errorbar, ax.axhline."""
    name, colour, marker = _LOOKS[method]
    return {"color": colour, "marker": marker, "label": name}


def curves(
    ax: plt.Axes, results: pd.DataFrame, x: str, methods: Sequence[str], baselines=(), ticks=None, y="top1", **texts: Any
) -> None:
    """y against x, columns of a table, a curve for each method: means over seeds with standard errors; one legend a figure.

    baselines: methods whose mean goes across the whole width, with a band of one standard error. A method trained at one x only is
    a point. ticks: place on the x axis → what stands there; texts: for ax.set.
    """
    for method in methods:
        points = results[results["method"] == method].groupby(x)[y].agg(["mean", "sem"])
        if len(points):
            line = "-" if len(points) > 1 else ""
            ax.errorbar(points.index.astype(float), points["mean"], points["sem"], ls=line, capsize=3, **look(method))
    for method in baselines:
        mean, error = results.loc[results["method"] == method, y].agg(["mean", "sem"])
        ax.axhline(mean, lw=1, clip_on=False, **look(method) | {"marker": ""})
        if error > 0:
            ax.axhspan(mean - error, mean + error, color=COLOURS[method], alpha=0.15, lw=0)
    if pd.api.types.is_integer_dtype(results[x]):
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # no half epochs
    if y == "top1" and ax.get_subplotspec().is_first_col():
        ax.set_ylabel("linear probe, top-1 (%)")
    ax.set(**texts)
    if ticks:
        ax.set_xticks(list(ticks), list(ticks.values()))
        ax.minorticks_off()
    one_legend(ax.figure)


def one_legend(figure: Figure) -> None:
    """Every label of a figure's axes once, beside them, in place of an earlier legend."""
    figure.legends.clear()
    named = {label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(named.values(), named.keys(), loc="outside right center")


def sheet(images: Images, z: torch.Tensor, titles: Sequence[str] | Mapping[int, str], columns: int = 12) -> Figure:
    """The first images of some clusters, a cluster a row; titles: of the clusters 0, 1, …, or id → title."""
    rows = dict(titles if isinstance(titles, Mapping) else enumerate(titles))
    figure, axes = plt.subplots(len(rows), 1, figsize=(7, 0.62 * len(rows)), squeeze=False)
    for (k, title), ax in zip(rows.items(), axes[:, 0]):
        shown = images.subset((z == k).nonzero()[:columns, 0]).images
        ax.imshow(shown.transpose(1, 0, 2, 3).reshape(shown.shape[1], -1, 3))
        ax.set(xticks=[], yticks=[], xlim=(0, columns * shown.shape[1]))
        ax.spines[:].set_visible(False)
        ax.set_ylabel(printable(title), rotation=0, ha="right", va="center")
    return figure


def folder(profile: str) -> Path:
    """figures/<profile>, made if need be ($CLSL_FIGURES stands for figures/)."""
    path = Path(os.environ.get("CLSL_FIGURES") or ROOT / "figures") / profile
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(figure: Figure, experiment: str, name: str, profile: str) -> None:
    """Save a figure as <experiment>_<name>.svg and .png; the metadata of each file tell what is drawn, and what made it."""
    made_by = f"clsl notebook {experiment}, profile {profile}, commit {records.commit()}"
    words = {"Title": in_words(figure), "Description": made_by}
    for suffix, date in ((".svg", {"Date": None}), (".png", {})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], metadata=words | date)
        kept.write(folder(profile) / f"{experiment}_{name}{suffix}", content.getvalue())


def in_words(figure: Figure) -> str:
    """A sentence for whoever cannot see a figure: what is drawn against what, in which parts, for whom."""
    axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]

    def said(*texts: str) -> str:
        return ", ".join(dict.fromkeys(" ".join(text.split()) for text in texts if text))

    y, x = (said(*(ax.get_label_text() for ax in some)) for some in ([ax.yaxis for ax in axes], [ax.xaxis for ax in axes]))
    kind = "Images" if any(ax.images for ax in axes) else "A drawing"
    parts = {": ": y, ", against ": x, "; parts: ": said(*(ax.get_title() for ax in axes))}
    parts["; shown: "] = said(*(text.get_text() for legend in figure.legends for text in legend.get_texts()))
    return printable(kind + "".join(word + text for word, text in parts.items() if text) + ".")


def record(
    rows: pd.DataFrame, file: str, profile: str, experiment: str, finish: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows
) -> pd.DataFrame:
    """Put an experiment's rows into figures/<profile>/<file>.csv in place of its earlier ones; the whole table, as `finish` makes it."""
    path = folder(profile) / f"{file}.csv"
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            others = pd.read_csv(path)
            rows = pd.concat([others[others["experiment"] != experiment], rows])
        rows = finish(rows.sort_values("experiment", kind="stable").reset_index(drop=True))
        kept.write(path, rows.to_csv(index=False, float_format="%.6g").encode())
    return rows


def table(results: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard error over seeds of a tidy table, in words, a row for each method and its clusters; each training counts once."""
    summary, out = _means(results.drop_duplicates("config").assign(part="all"))
    out["how many"] = summary["num_clusters"].round().astype(int).astype(str)
    out["I(Z;T), bits"], out["H(Z|T), bits"] = (summary[name].map("{:.2f}".format) for name in ("i_zt", "h_z_given_t"))
    for name, words in (("dataset", "data set"), ("epochs", "epochs"), ("batch_size", "batch")):
        if summary[name].nunique() > 1:
            out[words] = summary[name].astype(str)
    if summary["changed"].nunique() > 1:
        out["changed"] = summary["changed"]
    out["companions"] = summary["companions"].map("{:.1f}".format)
    out["linear probe, %"] = list(map(with_error, summary["top1"], summary["top1_se"]))
    out["k-NN, %"] = list(map(with_error, summary["knn"], summary["knn_se"]))
    return out


def worth(results: pd.DataFrame) -> pd.DataFrame:
    """What representations are worth beside the linear probe on all labels: with few labels, within a superclass, elsewhere; in % ± standard error."""
    summary, out = _means(results)
    columns = {"top1": "all labels", "top1_10percent": "10 %", "top1_1percent": "1 %"}
    columns |= {"within": "within a superclass", "transfer": "elsewhere"}
    columns = {name: words for name, words in columns.items() if summary[name].notna().any()}
    return out.assign(**{words: list(map(with_error, summary[name], summary[f"{name}_se"])) for name, words in columns.items()})


def _means(results: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means over seeds, and the first columns of a table in words."""
    summary = claims.summary(results)
    return summary, pd.DataFrame({"method": summary["method"].map(lambda name: NAMES.get(name, name)), "clusters Z": summary["clusters"]})


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Every comparison made for a claim and its verdict, in words."""
    return pd.DataFrame(
        {
            "claim": rows["claim"],
            COMPARISON: rows["comparison"],
            "first, %": rows["mean_a"].map("{:.1f}".format),
            "second, %": rows["mean_b"].map("{:.1f}".format),
            "difference": rows["difference"].map("{:+z.1f}".format),
            "95 % interval": [f"{low:+z.1f} to {high:+z.1f}" if pd.notna(low) else "" for low, high in rows[["low", "high"]].values],
            "seeds": rows["n"].astype(str),
            "verdict": rows["verdict"],
        }
    )


def shown(table: pd.DataFrame, caption: str = "") -> Styler:
    """A table of text as a notebook shows it: without row numbers, all to the left, and only comparisons break into lines."""
    looks = {"th, td, caption": "text-align: left", "td": "white-space: nowrap", "td.wide": "white-space: normal"}
    name = f"{zlib.crc32(' '.join(table.columns).encode()):x}"  # the same in every execution
    styler = Styler(table, uuid=name, cell_ids=False, table_attributes='class="dataframe"').hide(axis="index")
    wide = pd.DataFrame({COMPARISON: "wide"}, table.index)
    return styler.set_td_classes(wide).set_caption(caption).set_table_styles([{"selector": k, "props": v} for k, v in looks.items()])


VERDICTS = {"holds": "#009e73", "contradicted": "#d55e00", "no difference": "#0072b2", "unknown": "0.5", "one seed": "0.8"}


def forest(rows: pd.DataFrame) -> Figure:
    """Every comparison of claims.csv as a difference with its 95 % interval, claim by claim, coloured by its verdict."""
    rows = rows.sort_values("claim", kind="stable").iloc[::-1].reset_index(drop=True)
    place = rows.index + 1.5 * (rows["claim"] != rows["claim"].shift()).cumsum()  # a gap between claims
    figure, ax = plt.subplots(figsize=(10, 0.8 + 0.21 * place.max()))
    ax.axvline(0, color="0.7", lw=1)
    for verdict, mine in rows.groupby("verdict", sort=False):
        reach = mine["high"] - mine["difference"]
        ax.errorbar(mine["difference"], place[mine.index], xerr=reach, ls="", marker="o", ms=4, color=VERDICTS[verdict], label=verdict)
    ax.set_yticks(place, rows["claim"] + "  " + rows["comparison"], fontsize=8)
    ax.set(xlabel="first minus second, points (95 %)\nright of 0: as claimed", ylim=(place.min() - 0.7, place.max() + 0.7))
    figure.legend(loc="outside upper right", ncols=len(VERDICTS))  # the words at the left need the width
    return figure


def with_error(mean: float, error: float, sign: str = "", digits: int = 1) -> str:
    """A mean ± its standard error, where there is one."""
    if pd.isna(mean):
        return ""
    return f"{mean:{sign}.{digits}f}" + ("" if pd.isna(error) else f" ± {error:.{digits}f}")


def markdown(frame: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.values]
    return "\n".join("| " + " | ".join(_escaped(str(cell)) for cell in row) + " |" for row in rows)


def _escaped(text: str) -> str:
    """Text that Markdown, HTML and a terminal show as it is, on one line."""
    return html.escape(printable(text.replace("\n", " ")), quote=False).replace("|", "\\|")

