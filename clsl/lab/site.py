"""The page to read, figures/<profile>/index.html, and the notebooks as pages beside it: one folder that opens from disk."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import latex2mathml.converter
import nbformat
import pandas as pd
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from .. import config
from . import claims, figures, profiles, report

_SAID = {  # of a claim: the notebook and the name of its figure, and what may make the papers' answer another, in our words
    "A1": ("03_wordnet", "levels", "The papers train larger networks on larger images, for hundreds of epochs."),
    "A2": ("03_wordnet", "lengths", "Contrastive learning may gain more from a long training than naming clusters does: see the race. The papers' trainings are longer than any here."),
    "A3": ("05_kmeans", "k", "k-means groups what the network finds alike already, and a small network finds little after a short training."),
    "A4": ("07_information", "plane", "The two numbers do not tell which classes are put together, nor how many companions an image meets in its batch."),
    "B1": ("08_partial_information", "objectives", "The loss of the pseudo-labels and the rise of its weight are not known, and the paper trains for a thousand epochs."),
}  # fmt: skip
_NETWORKS = {"tiny": "a network of four convolutions", "resnet18": "a ResNet-18", "resnet50": "a ResNet-50"}
_DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet100": "ImageNet-100"}


class Picture(NamedTuple):
    """A figure: its name, the heading above it in its notebook, what is written before it, what was found, as HTML, and in a sentence."""

    name: str
    heading: str
    caption: str
    found: str
    alt: str
    svg: str


def write(profile: str) -> Path:
    """Write the page of a profile's results, and a page for each executed notebook; the path of the first.

    Raises ValueError where nothing was compared yet.
    """
    folder = figures.folder(profile)
    if not (folder / "claims.csv").exists():
        raise ValueError(f"{report.shown(folder)} has no claims.csv: run ./reproduce.sh {profile} first")
    results, verdicts = (pd.read_csv(folder / f"{name}.csv") for name in ("results", "claims"))
    paths = sorted(folder.glob("[0-9]*_*.ipynb"))
    notebooks = [_notebook(path, results) for path in paths]
    pictures = [picture for each in notebooks for picture in each["pictures"]]
    missing = _missing(profile, results)
    _render(
        folder / "index.html",
        title=f"Cl-InfoNCE on trial ({profile})",
        setting=_setting(results),
        missing=", ".join(missing),
        command=f"./reproduce.sh {profile} " + " ".join(dict.fromkeys(name[:2] for name in missing)),
        cards=[_card(claim, verdicts, pictures, profile, missing) for claim in claims.CLAIMS],
        forest=_forest(verdicts),
        rule=config.named_values(claims.REGISTER)["rule"],
        interest=config.named_values(claims.REGISTER)["interest"],
        provenance=rendered(report.provenance_line(report.made_by(profile), results)),
        notebooks=notebooks,
    )
    for path in paths:
        _render(path.with_suffix(".html"), title=_title(path), body=_body(path))
    return folder / "index.html"


def _render(path: Path, **values: Any) -> None:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    path.write_text(environment.get_template("site.html").render(**values), encoding="utf-8")


def _setting(results: pd.DataFrame) -> str:
    """In a sentence: how many trainings of which network, on which images, how long."""
    once = results.drop_duplicates("config")
    networks = " and ".join(_NETWORKS.get(name, name) for name in once["encoder"].unique())
    datasets = " and ".join(_DATASETS.get(name, name) for name in once["dataset"].value_counts().index)
    images = claims.chosen(once, clusters="instances")["num_clusters"]  # as many clusters as images
    number = f"{images.mode().iloc[0]:,.0f} images of " if len(images) else ""
    lengths = sorted({once["epochs"].min(), once["epochs"].max()})
    epochs = f"{lengths[0]} to " * (len(lengths) > 1) + _number(lengths[-1], "epoch")
    methods, seeds = (_number(once[name].nunique(), name) for name in ("method", "seed"))
    trainings = _number(len(once), "training")
    return f"{trainings} of {networks} on {number}{datasets}, with {methods}, for {epochs} each, from {seeds}"


def _number(n: int, what: str) -> str:
    return f"{n} {what}" + ("s" if n != 1 else "")


def _missing(profile: str, results: pd.DataFrame) -> list[str]:
    """The experiments of a profile that train something and are not in its results."""
    if profile not in profiles.names():
        return []
    planned = [each for each in profiles.planned(profile) if "here.train(" in each.notebook.read_text(encoding="utf-8")]
    return [each.experiment for each in planned if each.experiment not in set(results["experiment"])]


def _card(claim: str, verdicts: pd.DataFrame, pictures: Sequence[Picture], profile: str, missing: Sequence[str]) -> dict[str, Any]:
    """What is said of a claim: claimed, found, how sure, why it may differ, its figure."""
    notebook, name, why = _SAID[claim]
    rows = claims.chosen(verdicts, claim=claim)
    drawn = [each for each in pictures if each.name.startswith(notebook) and each.name.endswith(f"_{name}")]
    card = {"claim": claim, "claimed": _claimed(claim), "why": why, "picture": drawn[0] if drawn and len(rows) else None}
    asked = config.named_values(claims.REGISTER)["comparisons"]
    tried = [name[:2] for name, parts in asked.items() if any(each["claim"] == claim for some in parts.values() for each in some)]
    rest = [name for name in missing if name[:2] in tried]
    if rows.empty:
        return card | {"answer": "not tried", "brief": "", "found": "Nothing", "sure": f"To train: ./reproduce.sh {profile} {' '.join(tried)}."}
    card |= _found(rows)
    return card | {"sure": f"{card['sure']} Not trained yet: {', '.join(rest)}."} if rest else card


def _claimed(claim: str) -> str:
    words = claims.CLAIMS[claim]
    return words[0].upper() + words[1:]


def _found(rows: pd.DataFrame) -> dict[str, str]:
    """The answer of a claim's comparisons, what was found, and how sure that is."""
    best, worst = (rows.loc[each] for each in (rows["difference"].idxmax(), rows["difference"].idxmin()))
    counts = claims.counted(rows).iloc[0]
    span = f"{best['difference']:+z.1f} points ({best['comparison']})"
    if len(rows) > 1:
        span = f"from {worst['difference']:+z.1f} points ({worst['comparison']}) to {span}"
    alone = (rows["n"] == 1).all()
    found = f"{_number(len(rows), 'comparison')}{'' if alone else f': {counts}'}. Differences {span}."
    if alone:
        return {"answer": "no verdict", "brief": "", "found": found, "sure": "One training on each side: chance cannot be told from effect."}
    least, most = rows["n"].min(), rows["n"].max()
    trainings = str(least) if least == most else f"{least} to {most}"
    reach = ((rows["high"] - rows["low"]) / 2).median()
    sure = f"{trainings} trainings on each side; the median 95 % interval is ±{reach:.1f} points."
    brief = f"({counts}; {worst['difference']:+z.1f} to {best['difference']:+z.1f} points)"
    return {"answer": claims.answer(rows), "brief": brief, "found": found, "sure": f"{sure} Verdicts are corrected for {len(rows)} comparisons."}


def _forest(verdicts: pd.DataFrame) -> list[dict[str, Any]]:
    """For each claim its comparisons, with places on a common axis in percent of its width."""
    rows = verdicts.assign(low=verdicts["low"].fillna(verdicts["difference"]), high=verdicts["high"].fillna(verdicts["difference"]))
    reach = math.floor(rows[["low", "high"]].abs().max(axis=None)) + 1
    for name in ("low", "high", "difference"):
        rows[f"{name}_at"] = 50 + 50 * rows[name] / reach
    rows["numbers"] = rows["difference"].map("{:+z.1f}".format)
    sure = verdicts["low"].notna()
    rows.loc[sure, "numbers"] += [f" ({low:+z.1f} to {high:+z.1f})" for low, high in verdicts.loc[sure, ["low", "high"]].values]
    return [
        {"claim": claim, "claimed": _claimed(claim), "rows": mine.to_dict("records"), "reach": reach}
        for claim, mine in rows.groupby("claim")
    ]


def _notebook(path: Path, results: pd.DataFrame) -> dict[str, Any]:
    """What the page says of an executed notebook: its page, its title, its figures and its trainings."""
    rows = claims.chosen(results, experiment=path.stem)
    table = figures.table(rows) if len(rows) else None
    return {"page": path.with_suffix(".html").name, "title": _title(path), "pictures": _pictures(path), "table": table}


def _title(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return next((line[2:] for cell in cells for line in cell.source.splitlines() if line.startswith("# ")), path.stem)


def _saved(cell: nbformat.NotebookNode, path: Path) -> list[Path]:
    """The figures that a cell of an executed notebook saved; none where it drew nothing, whatever an earlier execution left there."""
    drew = cell.cell_type == "code" and any("image/png" in output.get("data", {}) for output in cell.outputs)
    names = re.findall(r'\.save\(.*?"(\w+)"\)', cell.source, flags=re.S) if drew else []
    return [svg for name in names if (svg := path.with_name(f"{path.stem}_{name}.svg")).exists()]


def _pictures(path: Path) -> list[Picture]:
    """The figures that an executed notebook saved, in their order, each with what stands above it and what is printed below it."""
    cells = nbformat.read(path, as_version=4).cells
    heading, prose, found = _title(path), "", []
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            text = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.S)
            if headings := re.findall(r"^#+ (.+)$", text, flags=re.M):
                heading = headings[-1]
            paragraphs = re.split(r"\n\s*\n", re.split(r"^#+ .+$", text, flags=re.M)[-1].strip())
            prose = next((each for each in paragraphs[::-1] if not re.match(r"\*\*(Predict|Try)|[|$]", each)), "")
        for svg in _saved(cell, path):
            said = _printed([cell, *cells[i + 1 :]], path)
            found.append(Picture(svg.stem, heading, rendered(prose), said, *inline(svg, f"{heading}. {said}")))
            prose = ""
    return found


def _printed(cells: Sequence[nbformat.NotebookNode], path: Path) -> str:
    """What a cell and those after it print, up to the next text or figure."""
    lines = []
    for i, cell in enumerate(cells):
        if cell.cell_type != "code" or (i and _saved(cell, path)):
            break
        lines += [output.text.strip() for output in cell.outputs if output.output_type == "stream" and output.name == "stdout"]
    return "\n".join(lines)


def inline(svg: Path, words: str) -> tuple[str, str]:
    """An SVG said in a sentence, and as an element to stand in a page: with ids of its own and that sentence for whoever cannot see it."""
    text = svg.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    drawn = re.search(r"<title>(.*?)</title>", text, flags=re.S)
    said = " ".join(f"{words} {drawn.group(1) if drawn else ''}".split())[:500].replace('"', "'").replace("<", "&lt;")
    text = re.sub(r"\s*<(title|metadata)>.*?</\1>", "", text, flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{svg.stem}-", text)
    kind = "photographs" if "<image" in text else "drawing"
    return said, text.replace("<svg", f'<svg role="img" class="{kind}" aria-label="{said}"', 1)


def rendered(markdown: str) -> str:
    """Markdown with formulas as HTML."""
    return markdown2html(in_mathml(markdown))


def in_mathml(markdown: str) -> str:
    """Markdown with its formulas, $…$ and $$…$$, as MathML, which browsers draw without a script; what is code stays."""

    def replaced(found: re.Match) -> str:
        shown, inline = found.groups()
        if not (shown or inline):
            return found[0]
        drawn = latex2mathml.converter.convert(shown or inline, display="block" if shown else "inline")
        return drawn.replace("<math", '<math tabindex="0"', 1) if shown else drawn  # a long one scrolls, by keys too

    return re.sub(r"```.*?```|`[^`]*`|\$\$(.+?)\$\$|\$([^$]+?)\$", replaced, markdown, flags=re.S)


def prepared(path: Path) -> nbformat.NotebookNode:
    """An executed notebook for a page without scripts: formulas as MathML, every saved figure as SVG, the others with a sentence."""
    notebook, heading = nbformat.read(path, as_version=4), path.stem
    notebook.metadata = {"title": _title(path)}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.+)$", cell.source, flags=re.M) or [heading])[-1]
            cell.source = re.sub(r"\(((\d\d_\w+)\.)ipynb\)", r"(\1html)", in_mathml(cell.source))
            continue
        if svgs := _saved(cell, path):
            drawn = "".join(f"<figure>{inline(svg, heading)[1]}</figure>" for svg in svgs)
            others = [output for output in cell.outputs if "image/png" not in output.get("data", {})]
            cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": drawn}), *others]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {"alt": f"{heading}. {' '.join(output.data.get('text/plain', '').split())}"[:500]}
    return notebook


_FOLDED = """{% extends 'basic/index.html.j2' %}
{% block input_group %}{% set default = "parameters" in cell.metadata.tags | default([]) %}
<details class="code"{% if not cell.outputs and not default %} open{% endif %}><summary>{{ "parameters, if none are given" if default else "code" }}</summary>{{ super() }}</details>{% endblock %}"""


def _body(path: Path) -> str:
    """An executed notebook as HTML; where a cell has something to show, its code is folded."""
    exporter = HTMLExporter(raw_template=_FOLDED, exclude_input_prompt=True, exclude_output_prompt=True, exclude_anchor_links=True)
    text, _ = exporter.from_notebook_node(prepared(path))
    return re.sub(r'<pre>|<div class="output_html', lambda found: found[0][:4] + ' tabindex="0"' + found[0][4:], text)
