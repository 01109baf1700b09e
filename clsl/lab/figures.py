"""One plotting style; figures and tables are saved to figures/<profile>/."""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from filelock import FileLock
from matplotlib.figure import Figure

from . import ROOT, provenance

# method → its name, colour and marker: Okabe and Ito's colours, apart for the colour-blind and, with the markers, in grey.
_LOOKS = {
    "simclr": ("SimCLR", "#7f7f7f", "s"),
    "cl_infonce": ("Cl-InfoNCE", "#0072b2", "o"),
    "cross_entropy": ("cross-entropy", "#d55e00", "^"),
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
NAMES, COLOURS = ({method: look[i] for method, look in _LOOKS.items()} for i in range(2))


def style() -> None:
    """The look of every figure: small, plain, legible in print and on a screen."""
    sns.set_theme(context="notebook", style="ticks", palette=list(COLOURS.values()), font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.figsize": (6, 3.7),
            "figure.constrained_layout.use": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "legend.frameon": False,
            "savefig.dpi": 160,
            "svg.hashsalt": "clsl",  # the same figure gives the same file
        }
    )


def look(method: str) -> dict[str, str]:
    """Colour, marker and label of a method (a name in METHODS), for ax.plot, ax.errorbar, ax.axhline."""
    name, colour, marker = _LOOKS[method]
    return {"color": colour, "marker": marker, "label": name}


def folder(profile: str) -> Path:
    """figures/<profile>, made if need be ($CLSL_FIGURES stands for figures/)."""
    path = Path(os.environ.get("CLSL_FIGURES") or ROOT / "figures") / profile
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(figure: Figure, experiment: str, name: str, profile: str) -> None:
    """Save a figure as <experiment>_<name>.svg and .png; each file's metadata tell what made it."""
    made_by = f"clsl notebook {experiment}, profile {profile}, source {provenance.source_digest()}"
    path = folder(profile) / f"{experiment}_{name}"
    figure.savefig(path.with_suffix(".svg"), metadata={"Description": made_by, "Date": None})
    figure.savefig(path.with_suffix(".png"), metadata={"Description": made_by})


def record(rows: pd.DataFrame, file: str, profile: str, experiment: str) -> pd.DataFrame:
    """Put an experiment's rows into figures/<profile>/<file>.csv in place of its earlier ones; the whole table."""
    path = folder(profile) / f"{file}.csv"
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            others = pd.read_csv(path)
            rows = pd.concat([others[others["experiment"] != experiment], rows])
        rows = rows.sort_values("experiment", kind="stable").reset_index(drop=True)
        unfinished = path.with_suffix(".unfinished")
        rows.to_csv(unfinished, index=False, float_format="%.6g")
        unfinished.replace(path)
    return rows
