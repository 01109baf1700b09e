"""Slides of executed notebooks, a heading a slide; reveal.js and what draws formulas lie beside them, so that they work offline."""

import re
import shutil
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

from ..data import downloads
from . import figures

_LIBRARIES = {  # npm package: SHA-256 of its archive, its bytes
    "reveal.js@4.6.1": ("4f4121ef2b8e7e9398bdecd7b3b6ce5e0ee3a2f5af221708eb6c4ce03bcae6be", 2303288),
    "requirejs@2.3.7": ("31f3330c978fb28684622fe71165dc946432cf0210b2ea8a1ca0233e70f2737d", 251809),
    "jquery@3.7.1": ("68a9f787516da47c680e09c187bcbac4536b6f85d90eb882844e12919e583f53", 404231),
    "mathjax@2.7.9": ("7131e739848edc14aa661a5516995866b81a477fab8b039d7cc324930e71f786", 21105225),
}
_WHERE = dict(
    reveal_url_prefix="slides/reveal.js",
    require_js_url="slides/requirejs/require.js",
    jquery_url="slides/jquery/dist/jquery.min.js",
    mathjax_url="slides/mathjax/MathJax.js?config=TeX-AMS_CHTML-full,Safe",
    mermaid_js_url="",
)


def write(profile: str) -> list[Path]:
    """Write figures/<profile>/<notebook>.slides.html of each executed notebook; their paths. Raises ValueError where there is none."""
    folder = figures.folder(profile)
    notebooks = sorted(folder.glob("[0-9]*_*.ipynb"))
    if not notebooks:
        raise ValueError(f"{folder} has no executed notebooks: run ./reproduce.sh {profile} first")
    for package, (sha256, size) in _LIBRARIES.items():
        name = package.partition("@")[0]
        kept = downloads.once(package, lambda into: downloads.from_npm(package, sha256, into, size))
        shutil.copytree(kept / "package", folder / "slides" / name, dirs_exist_ok=True)
    exporter = SlidesExporter(exclude_input_prompt=True, exclude_output_prompt=True, reveal_scroll=True, **_WHERE)
    return [_write(path, exporter) for path in notebooks]


def _write(path: Path, exporter: SlidesExporter) -> Path:
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [part for cell in notebook.cells for part in _parts(cell)]
    text, _ = exporter.from_notebook_node(notebook)
    page = path.with_suffix(".slides.html")
    page.write_text(text)
    return page


def _parts(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """A cell as what slides are made of: a heading begins one; its code is left out where it draws or prints, what came out stays."""
    heading = cell.cell_type == "markdown" and re.match(r"#+ ", cell.source)
    cell.metadata["slideshow"] = {"slide_type": "slide" if heading else "-"}
    if cell.cell_type == "code":
        if not cell.outputs:
            return []
        cell.metadata["jupyter"] = {"source_hidden": True}
        cell.source = ""
    return [cell]
