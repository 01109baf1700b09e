"""A record stands for its source and no other, and is believed only whole."""

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import count_trainings

from clsl import ROOT, data, evaluate, runs
from clsl.config import Pretraining
from clsl.lab import fingerprint, records
from clsl.methods import METHODS

CONFIG = Pretraining(epochs=1, batch_size=32)

PLAIN = '''
"""Says what the file does."""
import math
from pathlib import Path

HALF = 0.5


def f(x: int, y: float = 1.0) -> float:
    """Says, at length."""
    # why
    if x < 0:
        raise ValueError(f"x must not be negative, got {x}")
    for i in range(3):
        y = y * HALF if i % 2 else y + x
    return math.sqrt(y)


class C:
    """A class."""

    size: int = 4

    def g(self, x):
        return {"a": [f(x), None], **{}}
'''


@pytest.fixture
def code(tmp_path, monkeypatch):
    """What counts in a source."""
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    (tmp_path / "clsl").mkdir()

    def counted(source, reader=None):
        (tmp_path / "clsl" / "file.py").write_text(source)
        return list(fingerprint._code("file", reader))

    return counted


@pytest.mark.parametrize(
    "old, new",
    [
        ("x must not be negative, got {x}", "{x} is below zero"),
        ('ValueError(f"x must not be negative, got {x}")', "OSError from None"),
        ("Says, at length.", "Says it shorter."),
        ('    """Says, at length."""\n', ""),
        ("Says what the file does.", "Says more."),
        ("    # why\n", "\n\n"),
        ("  # why\n", "  # because\n"),
        ("x: int, y: float = 1.0) -> float", "x, y: 'torch.Tensor' = 1.0)"),
        ("size: int", "size: float"),
        ("import math\n", "import math, os\n"),
        ("    for i", "    import os\n\n    for i"),
        ("    for i", "    if y > 9:\n        raise OSError('too much')\n    for i"),
        ("    if x < 0:\n        raise ValueError(f\"x must not be negative, got {x}\")\n", ""),
        ("    return math.sqrt(y)", "    return (math.sqrt(\n        y\n    ))"),
        ("import math\n", "import math\nimport numpy as np\n"),
        ('"""Says what the file does."""\n', ""),
    ],
)
def test_what_changes_no_number_does_not_count(old, new, code):
    assert PLAIN.count(old) == 1
    assert code(PLAIN.replace(old, new)) == code(PLAIN)


@pytest.mark.parametrize(
    "old, new",
    [
        ("HALF = 0.5", "HALF = 0.25"),
        ("y + x", "y - x"),
        ("y + x", "x + y"),
        ("y: float = 1.0", "y: float = 2.0"),
        ("range(3)", "range(4)"),
        ("i % 2", "not i % 2"),
        ("math.sqrt", "math.cbrt"),
        ("size: int = 4", "size: int = 5"),
        ('"a"', '"b"'),
        ("None]", "0]"),
        ("None]", "[]]"),
        ("    for i", "    if y > 9:\n        y = 9\n    for i"),
        ("    for i", "    if y > 9:\n        raise OSError\n    else:\n        y = 9\n    for i"),
    ],
)
def test_what_changes_a_number_counts(old, new, code):
    assert PLAIN.count(old) == 1
    assert code(PLAIN.replace(old, new)) != code(PLAIN)


def test_of_a_readers_file_only_what_the_reader_uses_counts(code):
    source = "A = 1\nC = 3\ndef help(x): return x + C\ndef mine(x): return help(x)\ndef other(x): return x + A\n"
    before = code(source, "mine")
    assert code(source.replace("x + A", "x - A"), "mine") == code(source.replace("A = 1", "A = 7"), "mine") == before
    assert code(source.replace("x + C", "x - C"), "mine") != before and code(source.replace("C = 3", "C = 4"), "mine") != before
    assert code(source.replace("x + A", "x - A"), "other") != code(source, "other")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The source of a configuration once a file's text was changed, in a copy."""
    shutil.copytree(ROOT / "clsl", tmp_path / "clsl", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    monkeypatch.setattr(fingerprint, "_digest", fingerprint._digest.__wrapped__)  # without its cache

    def changed(config, file=None, old="", new=""):
        if file is None:
            return fingerprint.source(config)
        path = tmp_path / "clsl" / f"{file}.py"
        before = path.read_text()
        assert before.count(old) == 1, (file, old)
        path.write_text(before.replace(old, new))
        try:
            return fingerprint.source(config)
        finally:
            path.write_text(before)

    return changed


CUB = Pretraining(dataset="cub200")


@pytest.mark.parametrize(
    "config, file, old, new, counts",
    [
        (CUB, "data/layouts", "(root, split, sorted(at), 0.7)", "(root, split, sorted(at), 0.6)", False),  # utzappos50k
        (CUB, "data/layouts", "int(label[i]) - 1", "int(label[i]) - 2", True),
        (CUB, "data/layouts", "line.split(maxsplit=1)", "line.split(maxsplit=2)", True),  # its helper _pairs
        (CUB, "data/layouts", "lacks {missing[0]}", "has no {missing[0]}", False),  # its helper _need, which raises
        (CUB, "data/packing", "BILINEAR", "BICUBIC", True),
        (CUB, "data/cifar", "rsplit(\"_s_\", 1)[0]", "rsplit(\"_s_\", 1)[1]", False),
        (CONFIG, "data/cifar", "rsplit(\"_s_\", 1)[0]", "rsplit(\"_s_\", 1)[1]", True),
        (CONFIG, "data/packing", "BILINEAR", "BICUBIC", False),
        (CONFIG, "data/layouts", "int(label[i]) - 1", "int(label[i]) - 2", False),
        (CONFIG, "losses", "redundancy: float = 5e-3", "redundancy: float = 1e-3", True),
        (CONFIG, "methods/momentum", "self.momentum = config", "self.momentum = 2 * config", False),
        (CONFIG, "methods/contrastive", "len(projections) // 2", "len(projections) // 3", True),
        (CONFIG, "lab/runs", "maxsize=4", "maxsize=5", False),
        (Pretraining(dataset="folder"), "data/columns", '{"0", "0.0", "-1"', '{"none", "0", "0.0", "-1"', True),  # assigned together
        (Pretraining(dataset="folder"), "data/spreadsheet", '"utf-8-sig"', '"utf-8"', True),
        (CONFIG, "data/columns", '{"0", "0.0", "-1"', '{"none", "0", "0.0", "-1"', False),
        (CONFIG, "__main__", "import argparse", "import re, argparse", False),
    ],
)
def test_the_source_of_a_configuration(config, file, old, new, counts, source):
    assert (source(config, file, old, new) != source(config)) == counts


def test_a_method_counts_with_all_that_it_is_made_of(source):
    change = ("methods/without_negatives", "dimensions = 64", "dimensions = 65")
    for method, counts in (("w_mse", True), ("w_mse+progressive", True), ("simclr+progressive", False)):
        config = Pretraining(method=method, clusters="kmeans:k=4" if "+" in method else None)
        assert (source(config, *change) != source(config)) == counts


def test_every_configuration_has_a_source(source):
    for method in METHODS:
        clusters = "kmeans:k=4" if METHODS[method].clusters == "kmeans" else METHODS[method].clusters or "labels"
        assert len(source(Pretraining(method=method, clusters=clusters))) == 12
    for name in data.DATASETS:
        assert len(source(Pretraining(dataset=name))) == 12


def written(path, config=CONFIG, noise=None, epochs=1, **result):
    """A record as a training of a configuration leaves it, without the training."""
    t = torch.arange(10_000) % 10 if noise is None else noise.labels
    predicted = torch.randint(0, int(t.max()) + 1, t.shape, generator=torch.Generator().manual_seed(0))
    row = {"loss": 5.412345678901234, "lr": 0.0123456789012345, "num_clusters": 96, "h_z": 6.5, "i_zt": 1.9, "h_z_given_t": 4.6}
    history = [{"epoch": epoch + 1} | row | {"seconds": 1.2345678901234567} for epoch in range(epochs)]
    scores = {name: row[name] for name in ("num_clusters", "h_z", "i_zt", "h_z_given_t")}
    scores |= {"top1": evaluate.accuracy(predicted, t), "knn": 25.0, "seconds": 1.2} | result
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write(path, config, scores, history, predicted)
    return predicted


def test_a_record_keeps_what_it_was_given(tmp_path):
    predicted = written(tmp_path / "record.json", epochs=20)
    record = records.read(tmp_path / "record.json", CONFIG)
    assert record["config"] == dataclasses.asdict(CONFIG) and len(record["history"]) == 20
    assert torch.equal(records.predicted(record), predicted)
    assert record["made_by"]["source"] == fingerprint.source(CONFIG) and record["made_by"].keys() >= records.machine().keys()
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_ten_thousand_predictions_are_small(tmp_path):
    written(tmp_path / "record.json", epochs=20)
    assert (tmp_path / "record.json").stat().st_size < 20_000


def test_no_flip_and_no_cut_passes_for_the_record(tmp_path, noise):
    path = tmp_path / "record.json"
    written(path, noise=noise)
    whole, expected = path.read_bytes(), records.read(path, CONFIG)
    for i in range(0, len(whole) - 1, 7):
        for bits in (whole[:i], whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]):
            path.write_bytes(bits)
            try:
                assert records.read(path, CONFIG) == expected  # the last digit of 17 may say nothing
            except records.Damaged as error:
                assert str(error) == f"the record {path} is damaged"
            else:
                assert len(bits) == len(whole)


def _rewritten(path, **values):
    """A record with other values, and the checksum that goes with them."""
    record = json.loads(path.read_text()) | values
    record.pop("sha256")
    path.write_text(json.dumps(record | {"sha256": records._checksum(record)}))


def _other_source(path, noise):
    _rewritten(path, made_by=json.loads(path.read_text())["made_by"] | {"source": "0" * 12})


WRONG = {
    "truncated": lambda path, noise: path.write_bytes(path.read_bytes()[:-300]),
    "flipped": lambda path, noise: path.write_text(path.read_text().replace('"knn": 25.0', '"knn": 35.0')),
    "without fields": lambda path, noise: path.write_text("{}"),
    "a list": lambda path, noise: path.write_text("[1]"),
    "empty": lambda path, noise: path.write_text(""),
    "no text": lambda path, noise: path.write_bytes(b"\xff\x00"),
    "of another form": lambda path, noise: _rewritten(path, form=records.FORM + 1),
    "of another source": _other_source,
    "of another configuration": lambda path, noise: written(path, dataclasses.replace(CONFIG, seed=1), noise),
    "of another score": lambda path, noise: written(path, noise=noise, top1=99.0),
    "of fewer images": lambda path, noise: written(path, noise=noise.subset(torch.arange(95))),
}
SAID = {"of another source": "is of another configuration or source than its name says"}
SAID |= {"of another configuration": SAID["of another source"]}
SAID |= dict.fromkeys(["of another score", "of fewer images"], "has predictions that do not fit its result")


@pytest.fixture
def kept(tmp_path, monkeypatch, on_noise, noise):
    """The path of CONFIG's record among the committed ones."""
    monkeypatch.setenv("CLSL_RECORDS", str(tmp_path / "records"))
    path = tmp_path / "records" / f"{fingerprint.name(CONFIG)}.json"
    written(path, noise=noise)
    return path


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_record_is_named_and_trained_anew(wrong, kept, noise, monkeypatch, capsys):
    trained = count_trainings(monkeypatch)
    WRONG[wrong](kept, noise)
    run = runs.get(CONFIG)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clsl: ")]
    assert said == [f"clsl: the record {kept} {SAID.get(wrong, 'is damaged')}: it does not count"]
    assert trained == [CONFIG] and run.path != kept and run.result["knn"] != 35


@pytest.mark.parametrize("wrong", ["truncated", "of another source", "of another score"])
def test_a_wrong_record_of_a_run_is_replaced(wrong, kept, noise, monkeypatch, capsys):
    kept.unlink()
    trained, path = count_trainings(monkeypatch), runs._folder(CONFIG) / "record.json"
    written(path, noise=noise)
    assert runs.find(CONFIG).path == path
    WRONG[wrong](path, noise)
    capsys.readouterr()
    assert runs.find(CONFIG) is None
    assert capsys.readouterr().err == f"clsl: the record {path} {SAID.get(wrong, 'is damaged')}: it does not count\n"
    assert runs.get(CONFIG).path == path and trained == [CONFIG]
    assert runs.find(CONFIG).result["top1"] != 99 and (path.parent / "encoder.safetensors").exists()


def test_a_committed_record_is_taken_without_training(kept, monkeypatch, tmp_path, capsys):
    trained = count_trainings(monkeypatch)
    run = runs.get(CONFIG)
    assert run.path == kept and run.result["knn"] == 25 and run.history["epoch"].tolist() == [1]
    assert not trained and not (tmp_path / "runs").exists()
    assert capsys.readouterr().err == "1 trainings: 1 there already, 1 of them from committed records, 0 to do\n"
    message = f"of {kept.stem} only the record is kept, not the weights: runs.get(config, fresh=True) trains it"
    with pytest.raises(OSError) as error:
        run.encoder()
    assert str(error.value) == message
    fresh = runs.get(CONFIG, fresh=True)
    assert trained == [CONFIG] and fresh.path != kept and fresh.result["knn"] != 25
    assert fresh.encoder().dim == 384
    assert runs.get(CONFIG).path == fresh.path and trained == [CONFIG]


def test_what_is_not_at_hand_is_believed_by_its_checksum(kept, noise, monkeypatch):
    monkeypatch.setattr(runs.data, "found", lambda name: False)
    written(kept, noise=noise, top1=99.0)
    assert runs.find(CONFIG).result["top1"] == 99
