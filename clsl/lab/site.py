"""The page to read, figures/<profile>/index.html, and the notebooks as pages beside it: one folder that opens from disk."""

import re
from pathlib import Path
from typing import NamedTuple

import jinja2
import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from .. import config
from . import claims, figures, report

_OFFLINE = dict(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="", widget_renderer_url="")
_WHY = {  # what may make the papers' answer another: in our words
    "A1": "The papers train for hundreds of epochs on larger networks and images.",
    "A2": "To name clusters is learned fast; contrastive learning gains from length. The papers train up to a hundred times longer.",
    "A3": "k-means groups what a network already finds alike; a small network after few epochs finds little.",
    "A4": "Which classes are put together matters too, and how many companions an image meets in its batch.",
    "B1": "Neither the loss of the pseudo-labels nor the rise of their weight is known; the paper trains for a thousand epochs.",
}
_MAIN = {  # the figure of a claim: notebook and name
    "A1": "03_wordnet_levels", "A2": "03_wordnet_lengths", "A3": "05_kmeans_k", "A4": "07_information_plane",
    "B1": "08_partial_information_objectives",
}  # fmt: skip


class Picture(NamedTuple):
    """A figure: its name, its SVG as text, and the heading that it stands under in its notebook."""

    name: str
    svg: str
    caption: str


def write(profile: str) -> Path:
    """Write the page of a profile's results, and a page for each executed notebook; the path of the first."""
    folder = figures.folder(profile)
    results, verdicts = (pd.read_csv(folder / f"{name}.csv") for name in ("results", "claims"))
    notebooks = sorted(folder.glob("[0-9]*_*.ipynb"))
    pictures = {picture.name: picture for path in notebooks for picture in _pictures(path)}
    for path in notebooks:
        _notebook(path)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    text = environment.get_template("site.html").render(
        profile=profile,
        setting=_setting(results),
        cards=[_card(claim, mine, pictures) for claim, mine in verdicts.groupby("claim")],
        forest=pictures.get("00_overview_forest"),
        finding=report.finding(verdicts),
        rule=config.named_values(claims.REGISTER)["rule"],
        provenance=report.provenance_line(report.made_by(profile), results),
        verdicts=figures.verdicts(verdicts),
        tables=[(name, figures.table(rows)) for name, rows in results.groupby("experiment")],
        pictures=[picture for name, picture in pictures.items() if not name.startswith("00")],
        notebooks=[(path.with_suffix(".html").name, _title(path)) for path in notebooks],
    )
    (folder / "index.html").write_text(text)
    return folder / "index.html"


def _setting(results: pd.DataFrame) -> str:
    """In a sentence: which images, which network, how long, how many trainings."""
    once = results.drop_duplicates("config")
    data, networks = (" and ".join(once[name].unique()) for name in ("dataset", "encoder"))
    return (
        f"{len(once)} trainings of {len(once['method'].unique())} methods on {data}, network {networks}, "
        f"{once['epochs'].min()} to {once['epochs'].max()} epochs, seeds {', '.join(map(str, sorted(once['seed'].unique())))}."
    )


def _card(claim: str, rows: pd.DataFrame, pictures: dict[str, Picture]) -> dict:
    """What is said of a claim: claimed, found, how sure, why it may differ, its figure."""
    least, most = rows["difference"].min(), rows["difference"].max()
    seeds = sorted(rows["n"].unique())
    return {
        "claim": claim,
        "claimed": claims.CLAIMS[claim],
        "answer": claims.answer(rows),
        "found": f"{claims.counted(rows)[claim]} of {len(rows)} comparisons; differences from {least:+.1f} to {most:+.1f} points.",
        "sure": f"{' or '.join(map(str, seeds))} trainings on either side of each; intervals of 95 %, corrected for {len(rows)} comparisons.",
        "why": _WHY[claim],
        "picture": pictures.get(_MAIN[claim]),
    }


def _pictures(path: Path) -> list[Picture]:
    """The figures that an executed notebook saved, in their order, with the last heading before each."""
    heading, found = path.stem, []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            heading = ([heading] + re.findall(r"^#+ (.+)$", cell.source, flags=re.M))[-1]
            continue
        for name in re.findall(r'\.save\(.*?"(\w+)"\)', cell.source):
            svg = path.with_name(f"{path.stem}_{name}.svg")
            if svg.exists():
                found.append(Picture(svg.stem, _inline(svg, heading), heading))
    return found


def _inline(svg: Path, words: str) -> str:
    """An SVG to stand in a page: without its XML head, ids of its own, and said in words to whoever cannot see it."""
    text = svg.read_text()
    text = text[text.index("<svg") :]
    names = set(re.findall(r'id="([^"]+)"', text))
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf'(id="|href="#|url\(#){re.escape(name)}(?=["\)])', rf"\g<1>{svg.stem}-{name}", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{words}"', 1)


def _title(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return next(line.removeprefix("# ") for cell in cells for line in cell.source.splitlines() if line.startswith("# "))


def _notebook(path: Path) -> None:
    """An executed notebook as a page, code folded away, pictures in the place of widgets."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["title"] = _title(path)
    text, _ = HTMLExporter(**_OFFLINE).from_notebook_node(notebook)
    path.with_suffix(".html").write_text(text)
