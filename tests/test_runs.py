import json
import multiprocessing
import os
import random
import re
import shutil
import time

import pandas as pd
import pytest
import torch
from conftest import count_trainings, make_noise
from safetensors.torch import load_file

from clsl import ROOT, augment, evaluate, runs, train
from clsl.config import Pretraining
from clsl.lab import claims, fingerprint, records

SHORT = dict(epochs=2, batch_size=32)


def test_nothing_is_trained_twice(on_noise, monkeypatch):
    trained = count_trainings(monkeypatch)
    config = Pretraining(**SHORT)
    first = runs.get(config)
    second = runs.get_all([config, Pretraining(seed=1, **SHORT), config])
    assert [c.seed for c in trained] == [0, 1]
    assert second[0] == first == second[2] and second[1].path != first.path


def test_what_lies_in_a_run(on_noise, noise):
    run = runs.get(Pretraining(method="supcon", **SHORT))
    assert sorted(path.name for path in run.path.parent.iterdir()) == ["encoder.safetensors", "record.json"]
    assert run.path.name == "record.json" and json.loads(run.path.read_text())["config"]["clusters"] == "labels"
    assert run.history["epoch"].tolist() == [1, 2]
    assert run.result["num_clusters"] == 4 and run.result["h_z_given_t"] == pytest.approx(0, abs=1e-12)
    assert run.result["seconds"] == run.history["seconds"].sum() and "left_out" not in run.result
    assert run.record["made_by"]["threads"] == torch.get_num_threads()
    scores, predicted = evaluate.evaluate(run.encoder(), noise, noise, "lbfgs", 0)
    assert scores["top1"] == run.result["top1"] and scores["knn"] == run.result["knn"]
    assert torch.equal(records.predicted(run.record), predicted)


def test_an_interrupted_run_goes_on(on_noise, monkeypatch):
    config = Pretraining(epochs=4, batch_size=32)
    run = runs.get(config)
    expected = run.history["loss"].tolist()
    shutil.rmtree(run.path.parent)
    batches, epochs = augment.batches, []

    def interrupted(config, epoch, *rest):
        epochs.append(epoch)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return batches(config, epoch, *rest)

    monkeypatch.setattr(augment, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt, match="^interrupted; nothing is lost: run the cell again"):
        runs.get(config)
    assert runs.get(config).history["loss"].tolist() == expected
    assert epochs == [0, 1, 2, 2, 3]


def test_damaged_weights_are_trained_anew_when_asked(on_noise, monkeypatch, capsys):
    config = Pretraining(**SHORT)
    weights = runs.get(config).path.with_name("encoder.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    trained = count_trainings(monkeypatch)
    with pytest.raises(OSError, match=r"only the record is kept, not the weights: runs.get\(config, fresh=True\) trains it"):
        runs.get(config).encoder()
    assert "encoder.safetensors are damaged" in capsys.readouterr().err and not trained
    assert runs.get(config, fresh=True).encoder() and trained == [config] and weights.read_bytes() == whole


MANY = Pretraining(epochs=30, batch_size=32)


@pytest.fixture(scope="module")
def process():
    """Start a function in a process of its own, forked from one that has imported all it needs and waits."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_runs", "torch._dynamo"])
    started = []

    def start(target, *arguments):
        started.append(context.Process(target=target, args=arguments))
        started[-1].start()
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
        yield start
    for each in started:
        each.kill()


def _train(folder, queue=None):
    """In a process: MANY, on noise; how often it was trained there, and its score."""
    torch.set_num_threads(1)
    os.environ |= {"CLSL_RUNS": str(folder), "CLSL_RECORDS": ""}
    runs._images = lambda *_: make_noise()
    trained, fit = [], train.fit
    train.fit = lambda config, *rest: trained.append(config) or fit(config, *rest)
    run = runs.get(MANY)
    if queue:
        queue.put((len(trained), run.result["top1"]))


def test_killed_at_any_moment_is_never_killed(process, tmp_path):
    """The process, not only the loop: SIGKILL at random moments, then the same numbers bit for bit."""
    killed = 0
    for _ in range(10):
        running = process(_train, tmp_path / "killed")
        while running.is_alive() and not list((tmp_path / "killed").glob("*/checkpoint.pt")):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        killed += running.is_alive()
        running.kill()
        running.join()
    for name in ("killed", "whole"):
        running = process(_train, tmp_path / name)
        running.join()
        assert running.exitcode == 0
    assert killed
    folders = [tmp_path / name / fingerprint.name(MANY) for name in ("killed", "whole")]
    kept = [records.read(folder / "record.json", MANY) for folder in folders]
    losses = [[row["loss"] for row in record["history"]] for record in kept]
    assert losses[0] == losses[1] and len(losses[0]) == 30 and kept[0]["predicted"] == kept[1]["predicted"]
    encoders = [(folder / "encoder.safetensors").read_bytes() for folder in folders]
    assert encoders[0] == encoders[1] and load_file(folders[0] / "encoder.safetensors")


def test_two_processes_train_once(process, tmp_path):
    queue = multiprocessing.get_context("forkserver").Queue()
    both = [process(_train, tmp_path / "runs", queue) for _ in range(2)]
    answers = [queue.get(timeout=120) for _ in both]
    assert sorted(trained for trained, _ in answers) == [0, 1]
    assert answers[0][1] == answers[1][1]


def test_a_training_that_diverges_leaves_nothing(on_noise, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "learning_rate", lambda config, progress: 1e30)
    with pytest.raises(ValueError, match="lower lr"):
        runs.get(Pretraining(method="cross_entropy", clusters="labels", **SHORT))
    assert not [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]


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


def test_more_devices_than_there_are(on_noise, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="devices must be at least 1 and at most the 2 GPUs of this machine, got 3"):
        runs.get(Pretraining(**SHORT), devices=3)


def test_the_name_of_a_run_is_its_configuration_and_its_code(monkeypatch):
    name = runs._folder(Pretraining()).name
    assert re.fullmatch(r"simclr-[0-9a-f]{12}", name)
    assert name != runs._folder(Pretraining(lr=0.1)).name
    monkeypatch.setattr(fingerprint, "source", lambda config: "another")
    assert name != runs._folder(Pretraining()).name


def test_table_and_summary(on_noise):
    table = runs.table(runs.get_all([Pretraining(seed=seed, **SHORT) for seed in (0, 1)]), "an_experiment")
    asked = "experiment dataset encoder method clusters level k seed epochs batch_size changed num_clusters h_z i_zt h_z_given_t"
    measured = "companions top1 knn top1_1percent top1_10percent within transfer seconds config setting probe hardware"
    assert list(table) == [*asked.split(), *measured.split()] and table["setting"].nunique() == 1
    table = table.assign(part="main")
    assert table["config"].tolist() == [fingerprint.name(Pretraining(seed=seed, **SHORT)) for seed in (0, 1)]
    summary = claims.summary(table)
    assert len(summary) == 1 and summary["seeds"].item() == 2
    assert summary["top1"].item() == pytest.approx(table["top1"].mean())
    with pytest.raises(ValueError, match="several runs of simclr on instances with seed 0"):
        claims.summary(pd.concat([table, table[:1]]))
    for name in ("top1", "transfer"):
        assert summary[f"{name}_se"].item() == pytest.approx(table[name].std() / 2**0.5, nan_ok=True)


def test_progress_goes_to_the_file_that_reproduce_watches(on_noise, monkeypatch, tmp_path):
    monkeypatch.setenv("CLSL_PROGRESS", str(tmp_path / "progress"))
    configs = [Pretraining(seed=seed, train_size=96, **SHORT) for seed in (0, 1)]
    runs.get(Pretraining(seed=2, **SHORT))
    (tmp_path / "progress").unlink()
    runs.get_all([*configs, Pretraining(seed=2, **SHORT)])
    lines = [line.strip() for line in (tmp_path / "progress").read_text().splitlines() if line.strip()]
    assert lines[0] == "3 trainings: 1 there already, 2 to do"
    assert re.fullmatch(r"the 2 to do take about \d+:\d\d min here", lines[1])
    steps = [line for line in lines[2:] if line.startswith("training ")]
    assert steps[0].startswith("training 1 of 2, simclr on instances · ")
    assert steps[-1].startswith("training 2 of 2, simclr on instances · 100 % · 00:00 left")
