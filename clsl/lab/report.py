"""What came out: the tables in the terminal, set beside the committed ones, and one page to read in a browser."""

import base64
import html
import io
import json
import math
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from . import ROOT, claims, figures

_KEYS = ["experiment", "method", "clusters", "epochs"]
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.5rem; } img { max-width: 100%; height: auto; } figure { margin: 1.5rem 0; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
td:nth-child(n+4) { white-space: nowrap; }
"""


def closing(profile: str) -> str:
    """What made the results, the results, the verdicts and where everything lies, as Markdown for the terminal."""
    folder = figures.folder(profile)
    parts = [f"Figures, tables and executed notebooks: {shown(folder)}", f"To read: {shown(folder / 'index.html')}"]
    if found := _tables(folder):
        results, verdicts = found
        reference = committed(profile)
        parts = [
            provenance_line(made_by(profile), results),
            markdown(results_table(results, reference)),
            *([agreement(results, reference)] if reference is not None else []),
            markdown(verdicts_table(verdicts)),
            "\n".join(verdict_lines(verdicts)),
            *parts,
        ]
    return "\n\n".join(parts)


def write(profile: str) -> Path:
    """figures/<profile>/index.html: claims, tables, figures and what made them, in one file that needs no other."""
    folder = figures.folder(profile)
    parts = [f"<h1>Cl-InfoNCE, profile {html.escape(profile)}</h1>"]
    if found := _tables(folder):
        results, verdicts = found
        line = html.escape(provenance_line(made_by(profile), results)).replace("`", "")
        parts += [f"<p>{line}</p>", "<h2>Claims</h2><ul>"]
        parts += [f"<li>{html.escape(line)}</li>" for line in verdict_lines(verdicts)] + ["</ul>"]
        parts += [_html(verdicts_table(verdicts)), "<h2>Results</h2>", _html(results_table(results, committed(profile)))]
    for notebook in made_by(profile):
        parts += [f'<h2>{notebook}</h2><p><a href="{notebook}.ipynb">the executed notebook</a></p>']
        parts += [_figure(path) for path in sorted(folder.glob(f"{notebook}_*.svg"))]
    if made_by(profile):
        origin = pd.DataFrame(made_by(profile)).T.rename_axis("notebook").reset_index()
        parts += ["<h2>What made this</h2>", _html(origin)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Cl-InfoNCE, {profile}</title>'
    page = folder / "index.html"
    page.write_text(
        f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    return page


def provenance_line(notebooks: Mapping[str, Mapping], results: pd.DataFrame) -> str:
    """The commands, commits, seeds, hardware, time and evaluation behind a tidy table; notebooks: what made each."""
    origins = [notebooks[name] for name in results["experiment"].unique() if name in notebooks]
    commands = dict.fromkeys(f"`{made['command']}` at commit {made['commit'][:7]}{made['commit'][40:]}" for made in origins)
    seeds = "seeds " + ", ".join(str(seed) for seed in sorted(results["seed"].unique()))
    hardware = " and ".join(results["hardware"].unique())
    once = results.drop_duplicates("config")
    trainings = f"{len(once)} trainings in {once['seconds'].sum() / 60:.0f} min"
    made = ", ".join([" and ".join(commands), seeds] if commands else [seeds])
    return f"{made}; {hardware}; {trainings}; linear probe: {', '.join(results['probe'].unique())}."


def results_table(results: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Means ± standard errors over seeds of a tidy table, as text; with the top1 of a reference where there is one."""
    summary = claims.summary(results)
    out = pd.DataFrame(
        {
            "experiment": summary["experiment"],
            "method": summary["method"].map(lambda name: figures.NAMES.get(name, name)),
            "clusters Z": summary["clusters"] + " (" + summary["num_clusters"].round().astype(int).astype(str) + ")",
            "epochs": summary["epochs"].astype(str),
            "I(Z;T) bits": summary["i_zt"].map("{:.2f}".format),
            "H(Z|T) bits": summary["h_z_given_t"].map("{:.2f}".format),
            "top1 %": list(map(_with_error, summary["top1"], summary["top1_se"])),
            "k-NN %": list(map(_with_error, summary["knn"], summary["knn_se"])),
        }
    )
    if reference is not None:
        beside = _beside(results, reference)
        out["reference top1 %"] = list(map(_with_error, beside["top1_reference"], beside["top1_se_reference"]))
    return out


def agreement(results: pd.DataFrame, reference: pd.DataFrame) -> str:
    """Which means differ from the reference's by more than three standard errors of the difference, in a sentence."""
    beside = _beside(results, reference).dropna(subset=["top1_se", "top1_se_reference"])
    error = (beside["top1_se"] ** 2 + beside["top1_se_reference"] ** 2).map(math.sqrt)
    apart = beside[(beside["top1"] - beside["top1_reference"]).abs() > 3 * error]
    names = "; ".join(f"{row.experiment} {row.method} on {row.clusters}" for row in apart.itertuples())
    counts = f"{len(apart)} of the {len(beside)} means that have errors here and in the committed reference"
    return f"{counts} differ from it by more than three standard errors{': ' + names if names else ''}."


def verdicts_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Every comparison made for a claim and its verdict, as text."""
    rows = rows.sort_values(["claim", "experiment"], kind="stable")
    return pd.DataFrame(
        {
            "claim": rows["claim"],
            "verdict": rows["verdict"],
            "is the first more?": rows["comparison"],
            "n": rows["n"].astype(str),
            "first": rows["mean_a"].map("{:.2f}".format),
            "second": rows["mean_b"].map("{:.2f}".format),
            "difference": [_with_error(*pair, sign="+", digits=2) for pair in zip(rows["difference"], rows["standard_error"])],
            "experiment": rows["experiment"],
        }
    )


def verdict_lines(rows: pd.DataFrame) -> list[str]:
    """For each claim a line: its words, and how often each verdict was reached."""
    return [f"{claim}: {claims.CLAIMS[claim]} — {counts}" for claim, counts in claims.counted(rows).items()]


def planned(experiment: str, notes: Path) -> str:
    """The trainings that a notebook would ask for, noted by plan.py as JSON lines, as a table; then their sum in a sentence."""
    rows = pd.read_json(notes, lines=True)
    rows["clusters"] = rows["clusters"].fillna("")
    keys = ["dataset", "encoder", "method", "clusters", "images", "epochs", "steps", "batch_size", "devices"]
    table = rows.groupby(keys, sort=False).agg(seeds=("seed", "size"), hours=("hours", "mean"), gigabytes=("gigabytes", "mean"))
    table = table.reset_index().rename(columns={"hours": "hours each", "gigabytes": "GB a device"}).round(2)
    todo = rows[rows["to_train"]]
    sentence = f"{len(todo)} of {len(rows)} trainings to do, about {todo['hours'].sum():.1f} hours on this machine"
    if gone := sorted(rows.loc[~rows["found"], "dataset"].unique()):
        sentence += f"; not at hand, planned with stand-ins: {', '.join(gone)}"
    return f"## {experiment}\n\n{markdown(table)}\n\n{sentence}.\n"


def markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.values]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def made_by(profile: str) -> dict[str, dict]:
    """{notebook: what made its figures and tables} of a profile."""
    path = figures.folder(profile) / "provenance.json"
    return json.loads(path.read_text()) if path.exists() else {}


def committed(profile: str) -> pd.DataFrame | None:
    """The tidy table that the checkout's last commit holds for a profile, if it does."""
    command = ["git", "-C", str(ROOT), "show", f"HEAD:figures/{profile}/results.csv"]
    try:
        return pd.read_csv(io.StringIO(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    except (OSError, subprocess.CalledProcessError):
        return None


def shown(path: Path) -> str:
    """A path as short as it can be written here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    paths = folder / "results.csv", folder / "claims.csv"
    return tuple(map(pd.read_csv, paths)) if all(path.exists() for path in paths) else None


def _beside(results: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    columns = [*_KEYS, "top1", "top1_se"]
    other = claims.summary(reference)[columns].drop_duplicates(_KEYS)
    return claims.summary(results)[columns].merge(other, on=_KEYS, how="left", suffixes=("", "_reference"))


def _with_error(mean: float, error: float, sign: str = "", digits: int = 1) -> str:
    if pd.isna(mean):
        return ""
    return f"{mean:{sign}.{digits}f}" + ("" if pd.isna(error) else f" ± {error:.{digits}f}")


def _html(table: pd.DataFrame) -> str:
    return f'<div class="table">{table.to_html(index=False, border=0)}</div>'


def _figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{path.stem}" src="data:image/svg+xml;base64,{data}"></figure>'
