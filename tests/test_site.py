import re

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from clsl import ROOT
from clsl.lab import claims, figures, site, slides
from test_report import results, verdicts

PROSE = "## How much?\n\nIt is $\\frac{1}{2N}$ of `$x$`.\n\n**Predict first.** What?"


def executed(experiment: str, profile: str, prose: str = PROSE) -> None:
    """An executed notebook with a formula, a figure, what is printed of it, and a table."""
    figure, ax = plt.subplots()
    ax.plot([0, 1], label="one <b>")
    ax.set(xlabel="x & y", ylabel="accuracy")
    figures.one_legend(figure)
    figures.save(figure, experiment, "levels", profile)
    plt.close(figure)
    new = nbformat.v4
    codes = [new.new_code_cell('here.save(figure, "levels")'), new.new_code_cell("print(1)"), new.new_code_cell("table")]
    codes[0].outputs = [new.new_output("display_data", {"image/png": "AAAA", "text/plain": "<Figure>"})]
    codes[1].outputs = [new.new_output("stream", text="+2.0 points <script>alert(1)</script>\n")]
    codes[2].outputs = [new.new_output("execute_result", {"text/html": "<table><tr><td>1</td></tr></table>", "text/plain": "1"})]
    title = new.new_markdown_cell("# A title\n\nSee [another](04_attributes.ipynb).")
    cells = [title, new.new_markdown_cell(prose), *codes]
    nbformat.write(new.new_notebook(cells=cells), figures.folder(profile) / f"{experiment}.ipynb")


def tables(profile: str, rows: pd.DataFrame, **fields) -> None:
    for name, table in (("claims", rows), ("results", results(experiment="03_wordnet", **fields))):
        table.to_csv(figures.folder(profile) / f"{name}.csv", index=False)


def made(profile: str = "smoke"):
    """A page of one experiment, with two claims."""
    executed("03_wordnet", profile)
    tables(profile, pd.concat([verdicts(4.0, -3.0, 0.001), verdicts(2.0, claim="A2")]))
    return site.write(profile)


def text(page) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script|svg).*?</\1>", "", page.read_text(), flags=re.S)).split())


def test_the_page_says_what_was_claimed_found_and_how_sure():
    page = made()
    said = text(page)
    assert "by 2 trainings of a network of four convolutions on 9 images of d, with 1 method, for 2 epochs each, from 2 seeds." in said
    assert "A1: depends Claimed Auxiliary information brings" in said and "A2: holds Claimed Cl-InfoNCE is best" in said
    assert "Differences from -3.0 points (a1 &gt; b) to +4.0 points (a0 &gt; b)." in said
    assert "2 trainings on each side; the median 95 % interval is ±0.2 points." in said
    assert page.read_text().count('<td class="bar') == 4  # every comparison once


def test_the_page_says_what_is_not_trained_yet():
    said = text(made())
    missing = "04_attributes, 05_kmeans, 06_dual_head, 07_information, 08_partial_information"
    assert f"Not trained yet: {missing}. What trains them: ./reproduce.sh smoke 04 05 06 07 08" in said
    assert "A3: not tried" in said and "To train: ./reproduce.sh smoke 05 06. Why" in said
    assert "corrected for 3 comparisons. Not trained yet: 04_attributes." in said  # of A1


def test_a_page_of_one_seed_has_no_verdicts():
    executed("03_wordnet", "smoke")
    nothing = dict.fromkeys(("low", "high", "p_holm", "standard_error"), float("nan"))
    tables("smoke", verdicts(4.0, -3.0).assign(n=1, verdict="one seed", **nothing), top1=(50.0,))
    said = text(site.write("smoke"))
    assert "A1: no verdict" in said and "chance cannot be told from effect" in said and "from 1 seed." in said and "nan" not in said


def test_the_page_stands_alone():
    """No address is asked for anything, nothing of a notebook runs, and the notebook's links go to pages."""
    page = made()
    for each in (page, page.with_name("03_wordnet.html")):
        written = each.read_text()
        assert not re.search(r'(src|href)="(?!#|data:|https://arxiv|[\w.]+")', written) and "@import" not in written
        assert "alert(1)" in written and "<script>alert" not in written
        for link in re.findall(r'href="([\w.]+)"', written):
            assert link == "04_attributes.html" or (each.parent / link).exists(), link


def test_a_figure_has_its_caption_and_a_sentence():
    written = made().read_text()
    (svg,) = set(re.findall(r'<svg role="img" class="drawing" aria-label="([^"]*)"', written))
    assert svg.startswith("How much?. +2.0 points &lt;script") and "A drawing: accuracy, against x &amp; y; shown: one" in svg
    assert "It is <math " in written and "<code>$x$</code>" in written and "Predict first" not in written
    ids = re.findall(r'\bid="([^"]+)"', written)
    assert len(ids) == len(set(ids)) > 20  # the figure stands there twice


def test_a_notebook_as_a_page_folds_code_that_shows_something():
    page = made().with_name("03_wordnet.html").read_text()
    assert "<title>A title</title>" in page and "data:image/png" not in page and 'role="img"' in page
    assert page.count('<details class="code"><summary>') == 3 and "<math " in page


def test_without_results_there_is_no_page():
    with pytest.raises(ValueError, match="has no claims.csv: run ./reproduce.sh smoke first"):
        site.write("smoke")
    with pytest.raises(ValueError, match="no executed notebooks: run ./reproduce.sh smoke first"):
        slides.write("smoke")


def test_every_claim_has_its_words():
    assert list(site._SAID) == list(claims.CLAIMS)
    for notebook, name, _ in site._SAID.values():
        assert f'"{name}")' in (ROOT / "notebooks" / f"{notebook}.ipynb").read_text().replace('\\"', '"')


def test_formulas():
    assert "<msubsup><mi>p</mi><mi>i</mi><mn>2</mn></msubsup>" in site.in_mathml("$p_i^2$")
    assert site.in_mathml("`$a$` and\n```\n$b$\n```") == "`$a$` and\n```\n$b$\n```"
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                drawn = re.findall(r"<math.*?</math>", site.in_mathml(cell.source))
                assert not any("\\" in each for each in drawn), drawn


def test_slides_begin_at_headings_and_at_a_predicted_figure():
    executed("03_wordnet", "smoke")
    notebook = site.prepared(figures.folder("smoke") / "03_wordnet.ipynb")
    parts = list(slides._parts(notebook.cells))
    begins = [part.source.splitlines()[0] for part in parts if part.metadata.slideshow["slide_type"] == "slide"]
    assert begins == ["# A title", "## How much?", "## How much?"]
    assert not any(part.source for part in parts if part.cell_type == "code")
