import json

import pandas as pd

from clsl import claims, figures, report


def results(top1=(50.0, 52.0), **fields):
    rows = []
    for seed, value in enumerate(top1):
        row = {"experiment": "03_x", "dataset": "d", "encoder": "tiny", "method": "simclr", "clusters": "instances"}
        row |= {"num_clusters": 9, "seed": seed, "epochs": 2, "h_z": 3.0, "i_zt": 1.0, "h_z_given_t": 2.0, "top1": value}
        rows.append(row | {"knn": 40.0, "seconds": 60, "config": f"c{seed}", "probe": "lbfgs", "hardware": "cpu"} | fields)
    return pd.DataFrame(rows)


def test_the_table_of_results():
    row = report.results_table(results()).iloc[0]
    assert row["method"] == "SimCLR" and row["clusters Z"] == "instances (9)" and row["top1 %"] == "51.0 ± 1.0"
    assert report.results_table(results((50.0,)))["top1 %"].item() == "50.0"  # one seed has no error


def test_beside_the_reference():
    same, other = results((51.0, 53.5)), results((60.0, 61.0))
    assert report.results_table(results(), same)["reference top1 %"].item() == "52.2 ± 1.2"
    assert report.agreement(results(), same).startswith("0 of the 1 means")
    assert "1 of the 1 means" in report.agreement(results(), other) and "03_x simclr on instances" in report.agreement(
        results(), other
    )
    new = results(method="moco")
    assert report.results_table(new, same)["reference top1 %"].item() == ""
    assert report.agreement(new, same).startswith("0 of the 0 means")
    assert report.agreement(results((90.0,)), same).startswith("0 of the 0 means")  # one seed has no error


def test_markdown():
    table = pd.DataFrame({"a|b": ["1"], "c": ["2"]})
    assert report.markdown(table) == "| a\\|b | c |\n| --- | --- |\n| 1 | 2 |"


def test_the_page_stands_alone():
    figures.record(results(), "results", "test", "03_x")
    verdict = claims.judge("03_x", "A4", "less H(Z|T) > more", {0: 2.0, 1: 3.0}, {0: 1.0, 1: 1.9})
    figures.record(pd.DataFrame([verdict]), "claims", "test", "03_x")
    folder = figures.folder("test")
    (folder / "03_x_plot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    origin = {"command": "./reproduce.sh test", "wall_seconds": 3, "commit": "abc with uncommitted changes", "torch": "2"}
    (folder / "provenance.json").write_text(json.dumps({"03_x": origin}))
    page = report.write("test").read_text()
    for text in ("51.0 ± 1.0", "less H(Z|T) &gt; more", "holds", 'src="data:image/svg+xml;base64,', 'href="03_x.ipynb"'):
        assert text in page
    assert "with uncommitted changes" in page and "./reproduce.sh test" in page and "seeds 0, 1" in page
    assert 'src="http' not in page and "<script" not in page and 'name="viewport"' in page
