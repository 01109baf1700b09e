"""What is advised before anything is trained, with a law from a small table that has one by construction."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clsl import __main__, clusters, data, information
from clsl.lab import advise, candidates, figures, law
from clsl.lab.runs import Run

N, H_T = 1024, np.log2(100)


def results() -> pd.DataFrame:
    """Trainings on five families of clusters, of N images in 100 classes: accuracy is a line in what is known and what is noise."""
    kinds = {"merged:steps={}": (0.2, 0), "split:depth={}": (0, 0.5), "wordnet:level={}": (0.35, 0.02), "column:{}": (0.3, 0.3)}
    known = {"instances": (1, 1), "labels": (1, 0)}
    for kind, (less, noise) in kinds.items():
        known |= {kind.format(n): (1 - less * n / 2, noise * n / 2) for n in (1, 2)}
    rows = []
    for i, (name, (share, noise)) in enumerate(known.items()):
        i_zt, h = share * H_T, noise * (np.log2(N) - H_T)
        base = {"experiment": "07_information", "part": "main", "dataset": "cifar100", "encoder": "tiny", "epochs": 3, "clusters": name}
        base |= {"i_zt": i_zt, "h_z_given_t": h, "h_z": i_zt + h, "num_clusters": N if name == "instances" else 50}
        base |= {"companions": 127 * 2 ** -(i_zt + h), "seed": 0}
        first = {"instances": "simclr", "labels": "supcon"}.get(name, "cl_infonce")
        rows.append(base | {"method": first, "top1": 20 + 20 * share - 15 * noise, "config": f"a{i}"})
        if name != "instances":
            rows.append(base | {"method": "cross_entropy", "top1": 22 + 20 * share - 25 * noise, "config": f"b{i}"})
    return pd.DataFrame(rows)


@pytest.fixture
def images() -> data.Images:
    """Images of eight classes, with a good column, a bad one, one that is the good one renamed, tags and attributes."""
    random = np.random.default_rng(0)
    t = np.arange(N) % 8
    columns = {"good": t // 2, "bad": random.integers(0, 40, N), "again": 7 - t // 2, "same": 0 * t, "file": np.arange(N)}
    columns["caption"] = np.arange(N) - np.arange(N) % 3 * (np.arange(N) > 600)  # most have one of their own
    attributes = np.stack([t % 2, t // 2 % 2, t // 4, random.integers(0, 2, N), 0 * t], 1)
    return data.Images(
        np.broadcast_to(np.uint8(0), (N, 32, 32, 3)),
        torch.from_numpy(t),
        tuple("abcdefgh"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        attributes=torch.from_numpy(attributes == 1),
        tags=tuple(("dog", "cat", "car", "oak")[each // 2] for each in t),
        columns={name: torch.from_numpy(column) for name, column in columns.items()},
    )


def test_every_candidate_is_one_that_a_training_could_have(images):
    found = candidates.of(images)
    assert {"column:good", "column:bad", "attributes:k=1", "attributes:k=2", "attributes:k=4"} <= set(found)
    assert not {"column:again", "column:same", "column:file", "attributes:k=8", "tags:level=0"} & set(found)
    assert any(name.startswith("tags:level=") for name in found)
    for name, z in found.items():
        assert torch.equal(z, clusters.make(name, images))
    assert "column:bad" not in candidates.of(images, leave_out=["bad"])
    assert candidates.of(dataclasses.replace(images, attributes=None, tags=None, columns=None)) == {}


def test_levels_above_the_classes_are_for_those_who_know_every_label(cifar10):
    plain = dataclasses.replace(cifar10, tags=None, columns=None)
    assert candidates.of(plain) == {}
    assert all(name.startswith("wordnet:level=") for name in candidates.of(plain, of_classes=True))


def test_labels_are_the_images_own_or_a_columns(images):
    assert (candidates.labels(images) == images.labels.numpy()).all()
    some = candidates.labels(images, labelled=100)
    assert (some >= 0).sum() == 100 and (some[some >= 0] == images.labels.numpy()[some >= 0]).all()
    gaps = dataclasses.replace(images, columns={"kind": torch.where(images.labels < 6, images.labels, -1)})
    assert (candidates.labels(gaps, "kind") >= 0).sum() == (images.labels < 6).sum()
    for wrong, message in [({"column": "colour"}, "no column 'colour' .* have good, bad"), ({"labelled": 1}, "between 2 and the 1024")]:
        with pytest.raises(ValueError, match=message):
            candidates.labels(images, **wrong)


def test_the_law_is_found_again(monkeypatch):
    """A table without noise, made by a line in `known` and `noise`: without a penalty the law gives each gain back, of both methods."""
    monkeypatch.setattr(law, "PENALTY", 1e-9)
    table = results()
    found = advise.laws(advise.mapped(table))
    assert list(found) == ["cl_infonce", "cross_entropy"]
    points = law.points(table, H_T, N)
    guess = law.predicted(law.predictors(points), found["cl_infonce"].fitted)
    assert np.allclose(guess, points["cl_infonce"] - points.loc["instances", "cl_infonce"], atol=0.01)
    assert found["cl_infonce"].training == {"encoder": "tiny", "epochs": 3}


def test_without_enough_trainings_there_is_no_law():
    table = results()
    assert advise.laws(advise.mapped(table[~table["clusters"].str.contains("split|column")])) == {}
    assert advise.laws(advise.mapped(table.drop(columns="companions"))) == {}
    assert advise.laws(advise.mapped(table[table["clusters"] != "instances"])) == {}


def test_a_law_is_tested_on_another_data_set(images, monkeypatch):
    """Of which it has a few labels: what it foretells stands beside what was measured."""
    other = results().assign(part="elsewhere", dataset="cifar10")
    both = pd.concat([results(), other[~other["clusters"].str.contains("wordnet|column")]])
    both = both[(both["part"] == "main") | (both["clusters"] != "merged:steps=2") | (both["method"] != "cross_entropy")]  # not trained
    assert set(advise.mapped(both, "elsewhere")["family"]) == {"the ends", "merged", "split"}
    monkeypatch.setattr(advise.data, "load", lambda name, split, size: images)
    told = advise.tested(both, 200)  # two families make no law, so the other data set's is not tested
    assert told["dataset"].unique() == ["cifar10"] and advise.tested(results(), 200).empty
    assert len(told) == 7 and told["measured"].notna().all()
    table = told.set_index(["clusters", "method"]).sort_index()
    assert table["measured"]["split:depth=2", "cross_entropy"] == pytest.approx(22 + 20 - 25 * 0.5 - (20 + 20 - 15))
    assert (table.loc["split:depth=1", ["gain", "measured"]] > table.loc["split:depth=2", ["gain", "measured"]]).all(axis=None)


def test_the_better_clusters_come_first(images):
    found = {name: z for name, z in candidates.of(images).items() if name in ("column:good", "column:bad", "attributes:k=4")}
    table = candidates.known(found, candidates.labels(images, labelled=200), "cifar100", {"encoder": "tiny", "epochs": 3})
    for name, z in found.items():
        assert table.loc[name, "i_zt"] == pytest.approx(information.mutual_information(z, images.labels), abs=0.25)
        met = 127 if name == "column:bad" else table.loc[name, "batch_size"] - 1
        assert table.loc[name, "companions"] == pytest.approx(met * ((z[:, None] == z).sum(1) - 1).double().mean().item() / (N - 1))
    ranked = advise.predicted(table, advise.laws(advise.mapped(results())))
    assert len(ranked) == 6 and ranked["gain"].is_monotonic_decreasing and ranked["clusters"].iloc[-1] == "column:bad"
    assert (ranked["gain_low"] <= ranked["gain"]).all() and (ranked["gain"] <= ranked["gain_high"]).all()
    assert len(advise.shown(ranked)) == 6 and "train with" in advise.said(ranked, 3).lower()
    figure = advise.draw(ranked, advise.laws(advise.mapped(results())))
    assert {text.get_text() for text in figure.axes[0].texts} == {"column:good", "column:bad"}  # the best, and the ends


@pytest.mark.parametrize("gain, low, words", [(3, 1, "+3.0 points"), (3, -1, "not sure"), (-1, -3, "Train with SimCLR")])
def test_the_sentence(gain, low, words):
    row = {"clusters": "column:shop", "method": "cross_entropy", "batch_size": 128, "gain": gain, "gain_low": low, "gain_high": 5}
    row |= {"i_zt": 3.0, "h_t": 3.0, "h_z_given_t": 0.5}
    assert words in (said := advise.said(pd.DataFrame([row]), 7)) and "about 7 minutes" in said and "\n" not in said
    assert "the label by another name" not in said
    assert gain < 0 or advise.said(pd.DataFrame([row | {"h_z_given_t": 0}]), 7).endswith("These clusters are the label by another name.")


@pytest.fixture
def photographs(tmp_path):
    """Sixty small files in a folder with a table of a spreadsheet, and a law in the reference."""
    random, rows = np.random.default_rng(0), ["file_name,label,shop"]
    (tmp_path / "mine").mkdir()
    for i in range(60):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "mine" / f"{i}.png")
        rows.append(f"{i}.png,{'cat dog cow'.split()[i % 3]},{'north east south'.split()[(i + i // 30) % 3]}")
    (tmp_path / "mine" / "metadata.csv").write_text("\n".join(rows))
    results().to_csv(figures.folder("cpu") / "results.csv", index=False)
    return f"folder:{tmp_path / 'mine'}"


def test_views_are_no_larger_than_most_files(tmp_path):
    for side, expected in ((16, 16), (50, 64), (300, 64), (4, 8)):
        for i in range(3):
            Image.new("RGB", (side + 40 * i, side + 40 * (i > 1))).save(tmp_path / f"{i}.png")
        (tmp_path / "3.png").write_bytes(b"no image")
        images = dataclasses.replace(advise.plan.stand_in("cifar10", "train").subset(torch.arange(4)), files=tuple(sorted(map(str, tmp_path.glob("*.png")))))
        assert advise.settings(images, {}) == {"image_size": expected}


def test_the_command(photographs, monkeypatch, capsys):
    monkeypatch.setenv("CLSL_DATA", photographs.removeprefix("folder:") + "-cache")
    monkeypatch.setattr(advise.plan, "cost", lambda config, devices=1: {"hours": 0.1 * (config.epochs + 1)})
    monkeypatch.setattr(sys, "argv", ["clsl", "advise", photographs, "--labelled", "30"])
    __main__.main()
    printed = capsys.readouterr().out
    assert "column:shop" in printed and "30 of the 48 images to train on have a label" in printed and "about 24 minutes here" in printed
    assert {"mine_map.png", "mine_ranked.csv"} <= {path.name for path in figures.folder("advise").iterdir()}
    monkeypatch.setattr(sys, "argv", ["clsl", "advise", photographs, "--labels", "shop", "--train", "3"])
    with pytest.raises(SystemExit, match="--train takes minutes above 0, and no --labels, got 3 and shop"):
        __main__.main()


def test_few_labels_are_asked_for_and_taken(photographs, tmp_path, monkeypatch):
    """A table without labels: a file to fill in, never written over, and advice from what was filled in."""
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "mine" / "metadata.csv"
    rows = [line.split(",") for line in table.read_text().split()]
    table.write_text("\n".join(f"{name},{shop},{'ab'[i % 2]}{i % 3}" for i, (name, _, shop) in enumerate(rows[1:], 1)).join(["file_name,shop,bin\n", "\n"]))
    with pytest.raises(ValueError, match="no image of folder:.* has a label: --labelled 60 writes"):
        advise.advise(photographs)
    assert "labels.csv has 20 images, drawn at random" in advise.advise(photographs, labelled=20)
    with pytest.raises(OSError, match="labels.csv is there already"):
        advise.advise(photographs, labelled=20)
    with pytest.raises(ValueError, match="labels.csv has no label yet: fill in its column label"):
        candidates.labels(candidates.described(photographs), "labels.csv")
    asked = pd.read_csv("labels.csv", dtype=object)
    true = {str(tmp_path / "mine" / name): label for name, label, _ in rows[1:]}
    asked.assign(label=asked["file_name"].map(true).where(asked.index > 2)).to_csv("labels.csv", index=False)
    images = candidates.described(photographs)
    t = candidates.labels(images, "labels.csv")
    assert len(images) == 60 and (images.labels == -1).all() and (t >= 0).sum() == 17
    words = sorted(set(true.values()))
    assert all(words[k] == true[file] for k, file in zip(t, images.files) if k >= 0)
    assert {"column:shop", "column:bin", "column:shop and bin", "tags:level=1"} <= set(candidates.of(images))
    assert set(candidates.of(images, leave_out=["shop"])) == {"column:bin"}
    monkeypatch.setattr(advise.plan, "cost", lambda config, devices=1: {"hours": 0.1})
    assert "17 of the 60 images to train on have a label" in advise.advise(photographs, "labels.csv")
    filled = pd.read_csv("labels.csv", dtype=object)  # elsewhere the folder has another path
    filled.assign(file_name=["/Users/me/" + Path(name).name for name in filled["file_name"]]).to_csv("Elsewhere.CSV", index=False)
    assert np.array_equal(candidates.labels(images, "Elsewhere.CSV"), t)
    pd.concat([filled, filled.tail(1).assign(label="yak")]).to_csv("twice.csv", index=False)
    with pytest.raises(ValueError, match="twice.csv, line 22: .* has two labels, '.*' and 'yak'"):
        candidates.labels(images, "twice.csv")
    (tmp_path / "labels.csv").write_text("file_name,label\nx.png,cat\n")
    with pytest.raises(ValueError, match="labels.csv, line 2: x.png is none of the images to train on"):
        candidates.labels(images, "labels.csv")


def test_a_reference_without_the_map_is_said_in_one_line(photographs, monkeypatch):
    pd.read_csv(figures.folder("cpu") / "results.csv").drop(columns="companions").to_csv(figures.folder("cpu") / "results.csv")
    monkeypatch.setattr(advise.plan, "cost", lambda config, devices=1: {"hours": 0.1})
    lines = advise.advise(photographs, labelled=30).splitlines()
    assert any(line.startswith("No advice: the reference in") and "lacks the map" in line and "column:shop" in line for line in lines)


def test_train_says_whether_the_prediction_held(monkeypatch):
    trained = []
    tops = {"cl_infonce": {"top1": 31.0}, "simclr": {"top1": 29.0}}
    monkeypatch.setattr(advise.plan, "cost", lambda config, devices=1: {"hours": (config.epochs + 1) / 60})
    monkeypatch.setattr(Run, "result", property(lambda run: tops[run.config.method]))
    monkeypatch.setattr(advise.runs, "get_all", lambda configs: trained.extend(configs) or [Run(config, Path(config.method, "record.json")) for config in configs])
    row = {"clusters": "column:shop", "method": "cl_infonce", "images": 60, "gain": 2.0, "gain_low": 1.0, "gain_high": 3.0}
    pair = advise.configurations(pd.DataFrame([row]), "cifar10", {"encoder": "tiny", "epochs": 3})
    assert [config.batch_size for config in pair] == [60, 60]
    said = advise.tried(pd.Series(row), *pair, minutes=20)
    assert "+2.0 points; the prediction, for 3 epochs, held" in said and "embed cifar10 --encoder simclr --out features.npy --suspects" in said
    assert [config.epochs for config in trained] == [9, 9]  # with an evaluation each: 20 minutes
    assert "did not hold" in advise.tried(pd.Series(row | {"gain_low": 2.5}), *pair, minutes=20)
