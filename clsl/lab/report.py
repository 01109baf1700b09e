"""What came out: the closing lines in the terminal, and one's own numbers beside the committed ones."""

import io
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from .. import ROOT
from . import claims, figures
from .claims import REFERENCE


def closing(profile: str) -> str:
    """What made the results, the differences beside the committed ones, and where everything lies, for the terminal."""
    folder = figures.folder(profile)
    page = folder / "index.html"
    parts = [f"Figures, tables and executed notebooks: {shown(folder)}", *([f"To read: {shown(page)}"] if page.exists() else [])]
    if (folder / "claims.csv").exists():
        results, verdicts = (pd.read_csv(folder / f"{name}.csv") for name in ("results", "claims"))
        lines = verdict_lines(verdicts)
        if profile != REFERENCE and (reference := committed("claims")) is not None:
            lines = beside_lines(verdicts, reference)
        parts = [provenance_line(made_by(profile), results), "\n".join(lines), *parts]
    return "\n\n".join(parts)


def provenance_line(notebooks: Mapping[str, Mapping], results: pd.DataFrame) -> str:
    """The commands, commits, seeds, hardware, time and evaluation behind a tidy table; notebooks: what made each."""
    origins = [notebooks[name] for name in results["experiment"].unique() if name in notebooks]
    commands = dict.fromkeys(f"`{made['command']}` at commit {made['commit'][:7]}{made['commit'][40:]}" for made in origins)
    seeds = "seeds " + ", ".join(str(seed) for seed in sorted(results["seed"].unique()))
    once = results.drop_duplicates("config")
    trainings = f"{len(once)} trainings in {once['seconds'].sum() / 60:.0f} min"
    made = ", ".join([" and ".join(commands), seeds] if commands else [seeds])
    hardware = " and ".join(results["hardware"].unique())
    return f"{made}; {hardware}; {trainings}; linear probe: {', '.join(results['probe'].unique())}."


def verdict_lines(rows: pd.DataFrame) -> list[str]:
    """For each claim a line: its words, the answer of its comparisons together, how often each verdict was reached, and the differences."""
    lines = []
    for claim, mine in rows.groupby("claim"):
        least, most = mine["difference"].min(), mine["difference"].max()
        counts = claims.counted(mine)[claim]
        lines.append(f"- {claim}: {claims.CLAIMS[claim]}: **{claims.answer(mine)}** ({counts}; {least:+z.1f} to {most:+z.1f} points)")
    return lines


def beside_lines(rows: pd.DataFrame, reference: pd.DataFrame) -> list[str]:
    """Each difference beside the reference's, claim by claim; then how many have the reference's sign, where that is sure."""
    columns = ["claim", "comparison", "experiment", "verdict", "difference", "standard_error"]
    both, lines = rows.merge(reference[columns], on=columns[:3], suffixes=("", "_reference")), []
    for claim, mine in both.groupby("claim"):
        lines.append(f"{claim}: {claims.CLAIMS[claim]}")
        for row in mine.itertuples():
            known = figures.with_error(row.difference_reference, row.standard_error_reference, sign="+")
            lines.append(f"    {row.comparison}: here {row.difference:+z.1f} (reference {known}, {row.verdict_reference})")
    sure = both[both["verdict_reference"].isin(["holds", "contradicted"])]
    alike = (sure["difference"] * sure["difference_reference"] > 0).sum()
    lines.append(f"{alike} of {len(sure)} differences that the reference is sure of have its sign here.")
    return lines


def finding(rows: pd.DataFrame) -> str:
    """What the reference found, in a few sentences made of claims.csv; the README shows them."""
    rivals = {  # claim, and how its comparisons begin: what is said of them
        ("A1", "Cl-InfoNCE on .* > SimCLR"): "Cl-InfoNCE with auxiliary information scores {} against SimCLR",
        ("A2", "Cl-InfoNCE > cross-entropy on (?!.* epochs)"): "{} against cross-entropy on the same clusters",
        ("A2", "Cl-InfoNCE > (?:CMC|attribute prediction) on"): "{} against CMC and attribute prediction with the same information",
        ("A3", "Cl-InfoNCE on kmeans:[^,]* > SimCLR"): "with k-means clusters instead {} against SimCLR",
    }
    parts = []
    for (claim, words), said in rivals.items():
        d = rows.loc[(rows["claim"] == claim) & rows["comparison"].str.match(words), "difference"]
        if len(d):
            span = f"mean of {len(d)} comparisons, {d.min():+z.1f} to {d.max():+z.1f}" if len(d) > 1 else "one comparison"
            parts.append(f"{said.format(f'{d.mean():+z.1f} points')} ({span})")
    answers = [f"{claim} {claims.answer(mine)}" for claim, mine in rows.groupby("claim")]
    untried = [claim for claim in claims.CLAIMS if claim not in set(rows["claim"])]
    rest = f" Not tried in these trainings: {', '.join(untried)}." if untried else ""
    return f"{'; '.join(parts)}. By the rule written down before the trainings: {', '.join(answers)}.{rest}"


def made_by(profile: str) -> dict[str, dict]:
    """{notebook: what made its figures and tables} of a profile."""
    path = figures.folder(profile) / "provenance.json"
    return json.loads(path.read_text()) if path.exists() else {}


def committed(table: str) -> pd.DataFrame | None:
    """A table of the reference, "results" or "claims", as the checkout's last commit has it."""
    path = f"figures/{REFERENCE}/{table}.csv"
    try:
        command = ["git", "-C", str(ROOT), "show", f"HEAD:{path}"]
        return pd.read_csv(io.StringIO(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    except (OSError, subprocess.CalledProcessError):
        return pd.read_csv(ROOT / path) if (ROOT / path).exists() else None


def shown(path: Path) -> str:
    """A path as short as it can be written here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
