"""Slides of executed notebooks, figures/<profile>/slides/: one folder that works without a network, reveal.js in it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

from ..data import downloads
from . import figures, report, site

_REVEAL = ("reveal.js@4.6.1", "4f4121ef2b8e7e9398bdecd7b3b6ce5e0ee3a2f5af221708eb6c4ce03bcae6be", 2303288)  # of npm; SHA-256, bytes
# nbconvert's slides without its other libraries: formulas are MathML, and nothing else here needs a script.
_TEMPLATE = """{% extends 'reveal/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block input_group %}{% if cell.source %}{{ super() }}{% endif %}{% endblock %}
{% block html_head_css %}<style>
.reveal .slides section section { height: 100%; padding: 0 0 40px; overflow-y: auto; text-align: left; font-size: 24px; line-height: 1.4 }
.reveal .slides h1, .reveal .slides h2 { text-transform: none; font-size: 40px }
.jp-Cell { padding: 2px 0 } .jp-InputPrompt, .jp-OutputPrompt, .jp-InputCollapser, .jp-OutputCollapser { display: none }
.jp-RenderedHTMLCommon, .jp-OutputArea-output pre { font-size: 24px; line-height: 1.4 } .jp-CodeMirrorEditor pre, .jp-OutputArea-output pre { font-size: 20px }
figure { margin: 0 } figure svg, .jp-OutputArea-output img { display: block; margin: auto; width: 100%; height: auto; max-height: 430px }
</style>{% endblock %}
{% block footer_js %}<script src="{{ resources.reveal.url_prefix }}/dist/reveal.js"></script>
<script>Reveal.initialize({ width: 1280, height: 720, center: false, hash: true, slideNumber: true, transition: "none" });</script>{% endblock %}
"""


def write(profile: str) -> Path:
    """Write slides of each executed notebook of a profile, and reveal.js beside them; the folder.

    Raises ValueError where no notebook was executed; what downloads.once raises where reveal.js cannot be had.
    """
    notebooks = sorted(figures.folder(profile).glob("[0-9]*_*.ipynb"))
    if not notebooks:
        raise ValueError(f"{report.shown(figures.folder(profile))} has no executed notebooks: run ./reproduce.sh {profile} first")
    package, sha256, size = _REVEAL
    kept = downloads.once(package, lambda into: downloads.from_npm(package, sha256, into, size))
    folder = figures.folder(profile) / "slides"
    shutil.copytree(kept / "package" / "dist", folder / "reveal.js" / "dist", dirs_exist_ok=True)
    shutil.copy(kept / "package" / "LICENSE", folder / "reveal.js")
    options = dict(raw_template=_TEMPLATE, reveal_url_prefix="reveal.js", reveal_theme="white", exclude_input_prompt=True, exclude_output_prompt=True)
    for path in notebooks:
        notebook = site.prepared(path)
        notebook.cells = list(_parts(notebook.cells))
        text, _ = SlidesExporter(**options).from_notebook_node(notebook)
        (folder / f"{path.stem}.html").write_text(text, encoding="utf-8")
    return folder


def _parts(cells: list[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """Cells as what slides are made of.

    A heading begins one, and so do what the slide before has no room for, and the figure that somebody was asked to predict. Code is left out where it only imports, or where a figure, a table or a print shows what it does.
    """
    heading, used, asked = "", 0, False
    for cell in cells:
        if cell.cell_type == "code":
            if {kind for output in cell.outputs for kind in output.get("data", {"stream": ""})} - {"text/plain"}:
                cell.source = ""
            elif not cell.source.strip() or re.search(r"^(import|from) |^profile = ", cell.source, flags=re.M):
                continue
        begins, height = cell.cell_type == "markdown" and cell.source.startswith("#"), _height(cell)
        if begins:
            heading = re.match(r"#+ (.+)", cell.source).group(1)
            used, asked = 0, False
        elif used + height > 640 or (asked and "<figure>" in str(cell.get("outputs", ""))):
            yield _slide(nbformat.v4.new_markdown_cell(f"## {heading}"), True)
            used, asked = 60, False
        used, asked = used + height, asked or "**Predict first" in cell.source
        yield _slide(cell, begins)


def _height(cell: nbformat.NotebookNode) -> float:
    """About how many of a slide's 720 pixels a cell takes."""
    if cell.cell_type == "markdown":
        text = re.sub(r"<math.*?</math>", "x = y", re.sub(r"<details>.*?</details>", "", cell.source, flags=re.S), flags=re.S)
        return 34 * sum(1 + len(line) / 105 for line in re.split(r"\n\s*\n|\n(?=[|\d-])", text)) + 40 * text.count("#")
    height = 26 * len(cell.source.splitlines()) + 10
    for output in cell.outputs:
        data = output.get("data", {"text/plain": output.get("text", "")})
        drawn = "image/png" in data or "<figure>" in data.get("text/html", "")
        height += 440 if drawn else 34 * data["text/html"].count("<tr") if "text/html" in data else 28 * data["text/plain"].count("\n")
    return height


def _slide(cell: nbformat.NotebookNode, begins: bool) -> nbformat.NotebookNode:
    cell.metadata["slideshow"] = {"slide_type": "slide" if begins else "-"}
    return cell
