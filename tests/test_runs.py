import json
import multiprocessing
import os
import pathlib
import random
import re
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from clsl import ROOT, claims, evaluate, provenance, runs, train
from clsl.train import Pretraining

SHORT = dict(epochs=2, batch_size=32)


def count_trainings(monkeypatch):
    trained, fit = [], train.fit
    monkeypatch.setattr(train, "fit", lambda config, *rest: trained.append(config) or fit(config, *rest))
    return trained


def test_nothing_is_trained_twice(on_noise, monkeypatch):
    trained = count_trainings(monkeypatch)
    config = Pretraining(**SHORT)
    first = runs.get(config)
    second = runs.get_all([config, Pretraining(seed=1, **SHORT), config])
    assert [c.seed for c in trained] == [0, 1]
    assert second[0] == first == second[2] and second[1].folder != first.folder


def test_what_lies_in_a_run(on_noise, noise):
    run = runs.get(Pretraining(method="supcon", **SHORT))
    assert sorted(p.name for p in run.folder.iterdir()) == ["config.json", "encoder.safetensors", "history.csv", "result.json"]
    assert json.loads((run.folder / "config.json").read_text())["clusters"] == "labels"
    assert run.history["epoch"].tolist() == [1, 2]
    assert run.result["num_clusters"] == 4 and run.result["h_z_given_t"] == pytest.approx(0, abs=1e-12)
    scores = evaluate.evaluate(run.encoder(), noise, noise, "lbfgs", 0)
    assert scores["top1"] == run.result["top1"] and scores["knn"] == run.result["knn"]


def test_an_interrupted_run_goes_on(on_noise, monkeypatch):
    config = Pretraining(epochs=4, batch_size=32)
    expected = runs.get(config).history["loss"].tolist()
    for path in runs.get(config).folder.iterdir():
        path.unlink()
    epoch, calls = train._epoch, []

    def interrupted(*arguments, **more):
        calls.append(more["epoch"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return epoch(*arguments, **more)

    monkeypatch.setattr(train, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.get(config)
    assert runs.get(config).history["loss"].tolist() == expected
    assert calls == [0, 1, 2, 2, 3]


def test_killed_at_any_moment_is_never_killed(tmp_path, monkeypatch):
    """The process, not only the loop: SIGKILL at random moments, then the same numbers bit for bit."""
    code = (
        "from clsl import runs; from clsl.train import Pretraining\n"
        "print(runs.get(Pretraining(train_size=256, test_size=100, epochs=12, batch_size=64)).folder)"
    )

    def start(folder):
        environment = {**os.environ, "CLSL_RUNS": str(folder)}
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)

    killed = 0
    for _ in range(3):
        process = start(tmp_path / "killed")
        while process.poll() is None and not list((tmp_path / "killed").glob("*/checkpoint.pt")):
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.8))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    folders = [pathlib.Path(start(tmp_path / name).communicate()[0].splitlines()[-1]) for name in ("killed", "whole")]
    assert killed
    losses = [pd.read_csv(folder / "history.csv")["loss"].tolist() for folder in folders]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    encoders = [(folder / "encoder.safetensors").read_bytes() for folder in folders]
    assert encoders[0] == encoders[1]


def test_a_training_that_diverges_leaves_nothing(on_noise, tmp_path):
    with pytest.raises(ValueError, match="lower lr"):
        runs.get(Pretraining(method="cross_entropy", clusters="labels", lr=1e30, **SHORT))
    assert not [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]


def _ask(queue):
    trained, fit = [], train.fit
    train.fit = lambda config, *rest: trained.append(1) or fit(config, *rest)
    run = runs.get(Pretraining(train_size=200, test_size=100, epochs=3, batch_size=50))
    queue.put((len(trained), run.result["top1"]))


def test_two_processes_train_once():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_ask, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(trained for trained, _ in answers) == [0, 1]
    assert answers[0][1] == answers[1][1]


def test_held_out_images_that_are_trained_on_are_refused():
    config = Pretraining(train_size=49_000, test_size=1001, tested_on="held_out")
    with pytest.raises(ValueError, match="1001 held-out images are too many: 49000 of the same split are trained on"):
        runs.get(config)


def test_everything_is_checked_before_anything_is_trained(monkeypatch):
    trained = count_trainings(monkeypatch)
    good = Pretraining(train_size=100, test_size=50, epochs=1, batch_size=20)
    bad = Pretraining(method="cl_infonce", clusters="wordnet:level=40", train_size=100, test_size=50, epochs=1, batch_size=20)
    with pytest.raises(ValueError, match="level 40 is out of range"):
        runs.get_all([good, bad])
    assert not trained


def test_the_name_of_a_run_is_its_configuration_and_its_code(monkeypatch):
    name = runs._folder(Pretraining()).name
    assert re.fullmatch(r"simclr-[0-9a-f]{12}", name)
    assert name != runs._folder(Pretraining(lr=0.1)).name
    monkeypatch.setattr(provenance, "source_digest", lambda: "another")
    assert name != runs._folder(Pretraining()).name


def test_comments_and_docstrings_do_not_count():
    code = 'def f(x):\n    """Says,\n    at length."""\n    # why\n    return x + 1\n'
    assert provenance._code(code) == provenance._code("def f(x):\n    return x + 1\n")
    assert provenance._code(code) != provenance._code("def f(x):\n    return x + 2\n")
    assert provenance._code("x = 1  # why\n\n\ny = '# not a comment'\n") == "x = 1\ny = '# not a comment'"
    assert "information" in provenance.SOURCES and "evaluate" in provenance.SOURCES
    for name in provenance.SOURCES:
        assert (ROOT / "clsl" / f"{name}.py").exists()


def test_table_and_summary(on_noise):
    table = runs.table(runs.get_all([Pretraining(seed=seed, **SHORT) for seed in (0, 1)]), "an_experiment")
    first = "experiment dataset encoder method clusters num_clusters seed epochs h_z i_zt h_z_given_t top1 knn seconds config"
    assert list(table)[:15] == first.split()
    summary = claims.summary(table)
    assert len(summary) == 1 and summary["seeds"].item() == 2
    assert summary["top1"].item() == pytest.approx(table["top1"].mean())
    with pytest.raises(ValueError, match="several runs of simclr on instances with seed 0"):
        claims.summary(pd.concat([table, table[:1]]))
    assert summary["top1_se"].item() == pytest.approx(table["top1"].std() / 2**0.5)


def test_a_checkpoint_with_code_in_it_is_refused(on_noise, noise, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("code was run",)

    checkpoint = tmp_path / "checkpoint.pt"
    torch.save({"method": Evil()}, checkpoint)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        train.fit(Pretraining(**SHORT), noise, torch.arange(96), checkpoint)


def test_progress_goes_to_the_file_that_reproduce_watches(on_noise, monkeypatch, tmp_path):
    monkeypatch.setenv("CLSL_PROGRESS", str(tmp_path / "progress"))
    runs.get_all([Pretraining(seed=seed, **SHORT) for seed in (0, 1)])
    lines = [line.strip() for line in (tmp_path / "progress").read_text().splitlines() if line.strip()]
    assert lines[0].startswith("run 1 of 2, simclr on instances, epoch 1 of 2 · 0")
    assert lines[-1].startswith("run 2 of 2, simclr on instances, epoch 2 of 2 · 00:00 left")
