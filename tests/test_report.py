import matplotlib.pyplot as plt
import pandas as pd

from clsl.lab import figures, report


def results(top1=(50.0, 52.0), **fields):
    rows = []
    for seed, value in enumerate(top1):
        row = {"experiment": "03_x", "dataset": "d", "encoder": "tiny", "method": "simclr", "clusters": "instances"}
        row |= {"level": pd.NA, "k": pd.NA, "num_clusters": 9, "seed": seed, "epochs": 2, "h_z": 3.0, "i_zt": 1.0}
        row |= {"h_z_given_t": 2.0, "top1": value, "knn": 40.0, "seconds": 60, "config": f"c{seed}", "probe": "lbfgs"}
        row |= {"part": "main", "batch_size": 128, "changed": "nothing", "companions": 3.0, "hardware": "cpu"}
        row |= dict.fromkeys(("top1_1percent", "top1_10percent", "within", "transfer"), 30.0)
        row |= fields
        rows.append(row | {"setting": " ".join(str(row[name]) for name in ("method", "clusters", "epochs", "k"))})
    return pd.DataFrame(rows)


def verdicts(*differences, claim="A1", verdict="holds"):
    rows = []
    for i, difference in enumerate(differences):
        row = {"claim": claim, "comparison": f"a{i} > b", "n": 2, "mean_a": 50 + difference, "mean_b": 50.0, "difference": difference}
        row |= {"standard_error": 0.1, "low": difference - 0.2, "high": difference + 0.2, "p_holm": 0.01}
        sure = "unknown" if abs(difference) < 0.1 else "holds" if difference > 0 else "contradicted"
        rows.append(row | {"verdict": sure, "experiment": "03_x"})
    return pd.DataFrame(rows)


def test_a_claim_is_one_line():
    (line,) = report.verdict_lines(verdicts(4.0, 3.0, 0.001))
    assert line.startswith("- A1: auxiliary information") and line.endswith("**holds** (holds 2, unknown 1; +0.0 to +4.0 points)")


def test_the_forest_shows_every_comparison_once():
    figure = figures.forest(verdicts(4.0, -3.0, 0.001))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["A1  a2 > b", "A1  a1 > b", "A1  a0 > b"]  # the first on top
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["unknown", "contradicted", "holds"]
    plt.close(figure)


def test_a_figure_in_words():
    figures.style()
    figure, axes = plt.subplots(1, 2)
    for ax, k in zip(axes, (2, 4)):
        figures.curves(ax, results(k=k, method="cmc"), "k", ["cmc"], ["simclr"], title=f"part {k}", xlabel="clusters,\nin all")
    figures.save(figure, "03_x", "both", "test")
    words = "A drawing: linear probe, top-1 (%), against clusters, in all; parts: part 2, part 4; shown: SimCLR, CMC."
    assert figures.in_words(figure) == words
    svg = (figures.folder("test") / "03_x_both.svg").read_text()
    assert f"<title>{words}</title>" in svg and ">part 2</text>" in svg  # text that can be selected
    plt.close(figure)


def test_what_representations_are_worth():
    table = figures.worth(results())
    assert table.loc[0].tolist() == ["SimCLR", "instances", "51.0 ± 1.0", *["30.0 ± 0.0"] * 4]
    assert "elsewhere" not in figures.worth(results(transfer=float("nan")))


def test_the_table_of_results_is_in_words():
    row = figures.table(results()).iloc[0]
    assert row["method"] == "SimCLR" and row["clusters Z"] == "instances" and row["how many"] == "9"
    assert row["linear probe, %"] == "51.0 ± 1.0" and row["k-NN, %"] == "40.0 ± 0.0"
    assert figures.table(results((50.0,)))["linear probe, %"].item() == "50.0"  # one seed has no error
    both = figures.table(pd.concat([results(), results(epochs=4).assign(config=["d", "e"])]))
    assert both["epochs"].tolist() == ["2", "4"] and "epochs" not in figures.table(results())
    assert not both.isna().any(axis=None)


def test_curves():
    """A line where a method has several x, a point where it has one; a baseline across; every label once."""
    rows = [results(k=k, method="cl_infonce") for k in (2, 4)] + [results(k=4, method="cmc"), results()]
    figure, axes = plt.subplots(1, 2)
    for ax in axes:
        figures.curves(ax, pd.concat(rows), "k", ("cl_infonce", "cmc", "pcl"), ["simclr"], {2: "two", 4: "four"}, xlabel="k")
    several, one = (container.lines[0] for container in axes[0].containers)
    assert several.get_xdata().tolist() == [2, 4] and several.get_linestyle() == "-"
    assert one.get_xdata().tolist() == [4] and one.get_linestyle() == "None"
    assert axes[0].get_lines()[-1].get_ydata() == [51, 51]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["two", "four"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SimCLR", "Cl-InfoNCE", "CMC"] and len(figure.legends) == 1
    plt.close(figure)


def test_markdown():
    table = pd.DataFrame({"a|b": ["1"], "c": ["2"]})
    assert figures.markdown(table) == "| a\\|b | c |\n| --- | --- |\n| 1 | 2 |"


def test_ones_own_differences_beside_the_reference():
    reference, mine = verdicts(4.0, -3.0, 0.001), verdicts(3.2, 1.0, 2.0, 5.0)
    lines = report.beside_lines(mine, reference)
    assert lines[0].startswith("A1: auxiliary information")
    assert lines[1] == "    a0 > b: here +3.2 (reference +4.0 ± 0.1, holds)"
    assert lines[2] == "    a1 > b: here +1.0 (reference -3.0 ± 0.1, contradicted)"
    assert len(lines) == 5  # what the reference does not have is left out
    assert lines[-1] == "1 of 2 differences that the reference is sure of have its sign here."


def test_the_finding_is_made_of_the_claims():
    rows = [
        ("A1", "Cl-InfoNCE on wordnet:level=4 > SimCLR", 4, "holds"),
        ("A1", "Cl-InfoNCE on tags:level=15 > SimCLR", 2, "holds"),
        ("A2", "Cl-InfoNCE > cross-entropy on wordnet:level=4", 5, "holds"),
        ("A2", "Cl-InfoNCE > cross-entropy on tags:level=15", -2.5, "contradicted"),
        ("A2", "Cl-InfoNCE > cross-entropy on tags:level=15, 150 epochs", 9, "unknown"),
        ("A2", "Cl-InfoNCE > CMC on tags:level=15", 1.5, "unknown"),
    ]
    said = report.finding(pd.DataFrame(rows, columns=["claim", "comparison", "difference", "verdict"]))
    assert said.startswith("Cl-InfoNCE with auxiliary information scores +3.0 points against SimCLR (mean of 2 comparisons, +2.0 to +4.0)")
    assert "+1.2 points against cross-entropy on the same clusters (mean of 2 comparisons, -2.5 to +5.0)" in said and "+1.5 points against CMC" in said
    assert said.endswith("By the rule written down before the trainings: A1 holds, A2 depends. Not tried in these trainings: A3, A4, B1.")


def test_what_made_the_results():
    made_by = {"03_x": {"command": "./reproduce.sh test", "commit": "a" * 40 + " with uncommitted changes"}}
    line = report.provenance_line(made_by, results())
    assert line == (
        "`./reproduce.sh test` at commit aaaaaaa with uncommitted changes, seeds 0, 1; cpu; 2 trainings in 2 min; linear probe: lbfgs."
    )
