import json
import os
import re
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest
import yaml

from clsl import ROOT, __main__, figures, provenance, reproduce

NOTEBOOKS = sorted(reproduce.NOTEBOOKS.glob("[0-9]*.ipynb"))


def clsl(*arguments):
    return subprocess.run([sys.executable, "-m", "clsl", *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Every notebook at the smoke profile, from the command line; the folder of its results, and what was printed."""
    folder = tmp_path_factory.mktemp("smoke")
    os.environ["CLSL_RUNS"], os.environ["CLSL_FIGURES"] = str(folder / "runs"), str(folder / "figures")
    done = clsl("reproduce", "smoke")
    assert done.returncode == 0, done.stderr
    return folder / "figures" / "smoke", done.stdout


def test_every_notebook_runs(smoke):
    folder, printed = smoke
    for notebook in NOTEBOOKS:
        executed = nbformat.read(folder / notebook.name, as_version=4)
        assert all(c.execution_count for c in executed.cells if c.cell_type == "code"), notebook.name
        assert re.search(rf"\] {notebook.stem} · \d+:\d\d min", printed)


def test_the_results_of_03(smoke):
    folder, printed = smoke
    results = pd.read_csv(folder / "results.csv")
    results = results[results["experiment"] == "03_wordnet"]
    counts = results[results["epochs"] == 1]["method"].value_counts().to_dict()
    assert counts == {"cl_infonce": 4, "cross_entropy": 2, "cmc": 2, "simclr": 1, "supcon": 1}
    assert results["top1"].between(5, 60).all() and results["knn"].between(5, 60).all()
    assert results[results["epochs"] == 2]["method"].tolist() == ["cl_infonce", "cross_entropy"]
    wordnet = results[(results["method"] == "cl_infonce") & (results["epochs"] == 1)]
    assert wordnet["num_clusters"].tolist() == [2, 3, 6, 8]
    assert wordnet["i_zt"].is_monotonic_increasing and (wordnet["h_z_given_t"] < 1e-9).all()
    simclr = results[results["method"] == "simclr"].iloc[0]
    assert simclr["num_clusters"] == 512 and simclr["h_z"] == 9


def test_the_results_of_07(smoke):
    """An objective with and without pseudo-labels, four times, and Cl-InfoNCE beside them, after the same number of epochs."""
    results = pd.read_csv(smoke[0] / "results.csv")
    results = results[results["experiment"] == "07_partial_information"]
    names = ["simclr", "byol", "w_mse", "barlow_twins", "cl_infonce"]
    assert sorted(results["method"]) == sorted(names + [f"{name}+progressive" for name in names])
    assert results["epochs"].nunique() == 1


def test_every_claim_gets_verdicts(smoke):
    folder, printed = smoke
    claims = pd.read_csv(folder / "claims.csv")
    counts = claims.groupby(["claim", "experiment"]).size().to_dict()
    assert counts[("A1", "03_wordnet")] == 4 and counts[("A2", "03_wordnet")] == 5 and counts[("A2", "02_attributes")] == 3
    assert counts[("A3", "04_kmeans")] == 5 and counts[("A3", "05_dual_head")] == 2 and counts[("A4", "06_information")] >= 5
    assert counts[("B1", "07_partial_information")] == 4
    assert (claims["verdict"] == "inconclusive").all()  # one seed
    assert re.search(r"`./reproduce.sh smoke` at commit \w{7}.*, seeds 0; .* trainings in .*; linear probe: lbfgs", printed)
    assert "| 03_wordnet | SimCLR | instances (512) | 1 |" in printed and "A1: " in printed and "index.html" in printed


def test_runs_are_shared(smoke):
    """SimCLR is in four notebooks and trained once; 06 has it with Cl-InfoNCE's settings."""
    folder, _ = smoke
    results = pd.read_csv(folder / "results.csv")
    simclr = results[(results["method"] == "simclr") & (results["epochs"] == 1)]
    assert len(simclr) == 5 and simclr[simclr["experiment"] != "06_information"]["config"].nunique() == 1
    assert len(list((folder.parent.parent / "runs").glob("*/result.json"))) == results["config"].nunique()


def test_the_overview_reads_what_the_others_found(smoke):
    folder, _ = smoke
    cells = nbformat.read(folder / "00_overview.ipynb", as_version=4).cells
    shown = "".join(str(output) for cell in cells for output in cell.get("outputs", []))
    assert "Results of the profile **smoke**" in shown and "[06_information](06_information.ipynb)" in shown


def test_figures_tables_and_provenance(smoke):
    folder, _ = smoke
    stems = {path.stem for path in folder.glob("*.svg")}
    assert stems == {path.stem for path in folder.glob("*.png")}
    assert stems >= {"00_overview_method", "01_loss_circle", "02_attributes_k", "03_wordnet_levels", "04_kmeans_growth"}
    assert stems >= {"03_wordnet_lengths", "05_dual_head_heads", "06_information_plane", "06_information_families"}
    assert all(stem in (folder / "index.html").read_text() for stem in stems)
    assert "clsl notebook 03_wordnet, profile smoke, source" in (folder / "03_wordnet_levels.svg").read_text()
    performance = pd.read_csv(folder / "performance.csv")
    assert len(performance) == 5 and (performance["ratio"] > 0).all()
    notebooks = json.loads((folder / "provenance.json").read_text())
    assert sorted(notebooks) == [notebook.stem for notebook in NOTEBOOKS]
    for made_by in notebooks.values():
        assert made_by["command"] == "./reproduce.sh smoke" and made_by["source"] == provenance.source_digest()


def test_again_trains_nothing(smoke, monkeypatch):
    folder, _ = smoke
    monkeypatch.setenv("CLSL_RUNS", str(folder.parent.parent / "runs"))
    monkeypatch.setenv("CLSL_FIGURES", str(folder.parent))
    before = (folder / "results.csv").read_text()
    made = {path: path.stat().st_mtime for path in (folder.parent.parent / "runs").glob("*/result.json")}
    assert len(made) > 8 and clsl("reproduce", "smoke", "03").returncode == 0
    assert made == {path: path.stat().st_mtime for path in (folder.parent.parent / "runs").glob("*/result.json")}
    assert (folder / "results.csv").read_text() == before


def test_a_dry_run_trains_nothing(tmp_path):
    done = clsl("reproduce", "gpu", "05", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## 05_dual_head\n")
    assert "| cifar100 | resnet18 | dual_head | kmeans:k=1000 | 50000 | 100 | 9700 | 512 | 1 | 3 |" in done.stdout
    assert "\n9 of 9 trainings to do, about " in done.stdout and "planned with stand-ins: cifar100" in done.stdout
    assert not (tmp_path / "runs").exists() and not (tmp_path / "figures").exists()


def test_plain_papermill_runs_them_too(tmp_path, smoke, monkeypatch):
    monkeypatch.setenv("CLSL_RUNS", str(smoke[0].parent.parent / "runs"))
    out = tmp_path / "out.ipynb"
    command = ["notebooks/03_wordnet.ipynb", str(out), "-f", "notebooks/profiles/smoke.yml", "--no-progress-bar"]
    done = subprocess.run([sys.executable, "-m", "papermill", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (figures.folder("scratch") / "results.csv").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["reproduce", "quik"], "unknown profile 'quik': choose from smoke, quick, cpu"),
        (["reproduce", "smoke", "13"], "unknown notebook '13': choose from 00_overview, 01_loss, "),
        (["reproduce", "smoke", "-p", "epoch", "3"], "unknown parameter 'epoch': the notebooks to run declare"),
        (["reproduce", "smoke", "01", "-p", "epochs", "3"], "unknown parameter 'epochs'"),
        (["reproduce", "smoke", "-p", "epochs", "three"], "parameter epochs must be of type int, like 3, got 'three'"),
        (["reproduce", "smoke", "-p", "seeds", "[a]"], "parameter seeds[0] must be of type int, like 0, got 'a'"),
        (["reproduce", "smoke", "-p", "levels", "[4"], "parameter levels has a value that is neither YAML nor JSON: '[4'"),
        (["reproduce", "smoke", "-p", "profile", "cpu"], "the profile is the first argument"),
        (["reproduce", "smoke", "-p", "dataset", "cifar11"], "unknown data set 'cifar11'"),
        (["data", "cifar11"], "unknown data set 'cifar11'"),
        (["train", "nothing.yml"], "No such file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, tmp_path):
    done = clsl(*arguments)
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("clsl: ")
    assert not done.stdout and not (tmp_path / "runs").exists() and not list(tmp_path.glob("figures/*/*"))


def test_a_profile_with_a_typo(monkeypatch, tmp_path):
    profiles = tmp_path / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    (tmp_path / "notebooks" / "03_wordnet.ipynb").write_text((reproduce.NOTEBOOKS / "03_wordnet.ipynb").read_text())
    (profiles / "mine.yml").write_text("dataset: cifar10\nepoch: 3\n")
    (profiles / "odd.yml").write_text("dataset: cifar10\nseeds: 3\n")
    (profiles / "own.yml").write_text("dataset: cifar10\n03_wordnet:\n  epoch: 3\n")
    (profiles / "list.yml").write_text("dataset: cifar10\n03_wordnet:\n  - epochs: 3\n")
    (profiles / "empty.yml").write_text("")
    (profiles / "broken.yml").write_text("dataset: [cifar10\n")
    monkeypatch.setattr(reproduce, "NOTEBOOKS", tmp_path / "notebooks")
    for name, message in [
        ("own", "profile own sets 'epoch' for 03_wordnet, which does not declare it"),
        ("list", "profile list: 03_wordnet needs NAME: VALUE lines, or a list of them with a dataset each"),
        ("mine", "profile mine sets 'epoch', which no notebook declares: choose from batch_size, "),
        ("odd", r"parameter seeds must be of type list, like \[0\], got 3"),
        ("empty", "profile empty is not a list of NAME: VALUE"),
        ("broken", "profile broken is not a list of NAME: VALUE"),
    ]:
        with pytest.raises(ValueError, match=message):
            reproduce.reproduce(name)


def test_values_get_the_type_of_the_default():
    assert reproduce._typed("lr", 1, 0.5) == 1.0 and isinstance(reproduce._typed("lr", 1, 0.5), float)
    assert reproduce._typed("epochs", 3, 6) == 3
    assert reproduce._typed("lr", reproduce._parsed("lr", "1e-2"), 0.5) == 0.01  # which YAML takes for text
    assert reproduce._typed("levels", [4, 9], [1]) == [4, 9]
    for value, default in [("3", 6), (3.5, 6), (True, 6), (6, True), (3, "x"), (3, [1]), (["a"], [1]), ("x", 0.5)]:
        with pytest.raises(ValueError, match="must be of type"):
            reproduce._typed("name", value, default)


def test_a_failing_cell_is_named(tmp_path):
    done = clsl("reproduce", "smoke", "03", "-p", "levels", "[40]")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("clsl: 03_wordnet failed in cell ") and "ValueError: level 40 is out of range" in line
    assert line.endswith("03_wordnet.ipynb") and "smoke" in line
    assert not list((tmp_path / "runs").glob("*")) and "Traceback" not in done.stderr


def test_the_live_line_shows_the_last_of_the_progress(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with reproduce._live_line("[1/3] 03_wordnet"):
        with open(os.environ["CLSL_PROGRESS"], "w", newline="") as file:
            file.write("run 1 of 2 · 00:20 left\rrun 2 of 2, epoch 3 of 5 · 00:10 left\n\r")
        time.sleep(1.2)
    printed = capsys.readouterr().out
    assert "[1/3] 03_wordnet · run 2 of 2, epoch 3 of 5 · 00:10 left" in printed
    assert "run 1" not in printed and "\n" not in printed and printed.endswith("\r\033[K")


def test_train_from_a_file(tmp_path):
    config = {"method": "supcon", "train_size": 128, "test_size": 50, "epochs": 1, "batch_size": 32}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    done = clsl("train", str(tmp_path / "config.yml"))
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout[: done.stdout.rindex("}") + 1])["top1"] <= 100
    for text, message in [
        ("methd: simclr", "unknown fields (methd)"),
        ("epochs: three", "epochs must be int, got 'three'"),
        ("clusters: 4", "clusters must be str | None, got 4"),
        ("- epochs", "unknown fields (list)"),
        ("epochs: [", "is neither YAML nor JSON"),
    ]:
        (tmp_path / "config.yml").write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            __main__._train(tmp_path / "config.yml")


def test_data_says_what_is_there():
    done = clsl("data", "cifar10")
    assert done.returncode == 0, done.stderr
    assert "cifar10 train: 50000×32×32×3 uint8, 10 classes; also known: synsets\ncifar10 test: 10000×" in done.stdout
    assert "clusters wordnet:level=9: 6, I(Z;T) = 2.32 of H(T) = 3.32 bits, H(Z|T) = 0.00 bits" in done.stdout
    assert (figures.folder("data") / "cifar10_wordnet_level_9.png").exists()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean(notebook):
    stored = nbformat.read(notebook, as_version=4)
    nbformat.validate(stored)
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert all(
        "#" in line for cell in cells if "parameters" in cell.metadata.get("tags", []) for line in cell.source.splitlines()
    )


@pytest.mark.parametrize("profile", reproduce.profiles())
def test_profiles_fit_the_notebooks(profile):
    planned = reproduce._parameters(NOTEBOOKS, profile, reproduce._read(profile), {})
    assert {path for path, _, _ in planned} == set(NOTEBOOKS)
    assert len({experiment for _, experiment, _ in planned}) == len(planned)


def test_a_notebook_can_have_values_of_its_own_and_several_of_them():
    values = reproduce._read("paper")
    planned = {experiment: chosen for _, experiment, chosen in reproduce._parameters(NOTEBOOKS, "paper", values, {})}
    assert [name for name in planned if name.startswith("02")] == [
        f"02_attributes_{d}" for d in ("utzappos50k", "cub200", "wider")
    ]
    wider, wordnet = planned["02_attributes_wider"], planned["03_wordnet"]
    assert wider["dataset"] == "wider" and wider["batch_size"] == 40 and wider["momentum"] == wordnet["momentum"] == 0.95
    assert wordnet["dataset"] == "imagenet100" and wordnet["lr"] == 0.01 and wider["experiment"] == "02_attributes_wider"
    more = planned["04_kmeans"]["more"]
    assert more["queue_size"] == 16384 and more["base_temperature"] == 0.07  # its own, beside that of all
    assert reproduce.profile_values("paper")["momentum"] == 0.95 and "03_wordnet" not in reproduce.profile_values("paper")


def test_the_defaults_are_the_quick_profile():
    """So that what ./reproduce.sh trained comes back at once in Jupyter."""
    values = reproduce.profile_values("quick")
    assert values == reproduce._read("quick")
    for notebook in NOTEBOOKS:
        defaults = reproduce._defaults(notebook)
        assert defaults.pop("profile") == "scratch" and defaults.pop("experiment", notebook.stem) == notebook.stem
        for name in set(defaults) & set(values):
            assert defaults[name] == values[name], (notebook.stem, name)
