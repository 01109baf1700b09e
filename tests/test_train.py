import os
import subprocess
import sys

import pytest
import torch

from clsl import clusters, evaluate, methods, runs, train
from clsl.train import Pretraining

SHORT = dict(epochs=3, batch_size=32, lr=0.05)


def spec(method):
    """Clusters that a method can be trained on, made of noise."""
    own = methods.METHODS[method]
    return "kmeans:k=8" if own.clusters == "kmeans" else own.clusters or ("attributes:k=3" if own.attributes else "labels")


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_trains(method, noise, tmp_path):
    fields = {**SHORT, "batch_size": 80} if method.startswith("w_mse") else SHORT  # it whitens 64 dimensions
    config = Pretraining(method=method, clusters=spec(method), queue_size=80, **fields)
    make = clusters.vectors if methods.METHODS[method].attributes else clusters.make
    encoder, history = train.fit(config, noise, make(config.clusters, noise), tmp_path / "checkpoint.pt")
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(row["loss"] > 0 for row in history)
    assert evaluate.features(encoder.eval(), noise).shape == (96, encoder.dim)


def test_learning_real_images(cifar10, tmp_path):
    config = Pretraining(method="supcon", epochs=6, batch_size=64)
    _, history = train.fit(config, cifar10, clusters.make("labels", cifar10), tmp_path / "checkpoint.pt")
    assert history[-1]["loss"] < history[0]["loss"] - 0.05


def test_simclr_is_cl_infonce_on_instances_and_supcon_on_labels(noise, tmp_path):
    for method, spec in ("simclr", "instances"), ("supcon", "labels"):
        z = clusters.make(spec, noise)
        short = train.fit(Pretraining(method=method, **SHORT), noise, z, tmp_path / f"{method}.pt")[1]
        same = train.fit(Pretraining(method="cl_infonce", clusters=spec, **SHORT), noise, z, tmp_path / f"{spec}.pt")[1]
        assert [row["loss"] for row in short] == [row["loss"] for row in same]


class Killed(Exception):
    pass


KEEPS_STATE = [
    ("cl_infonce", "kmeans:k=8"),
    ("cross_entropy", "kmeans:k=8"),
    ("moco", None),
    ("pcl", "kmeans:k=8"),
    ("dual_head", "kmeans:k=8"),
    ("byol", None),
]


@pytest.mark.parametrize(
    "method, spec, epoch", [*(("cl_infonce", "labels", epoch) for epoch in (1, 2, 4)), *((*pair, 3) for pair in KEEPS_STATE)]
)
def test_killed_and_resumed_is_never_killed(method, spec, epoch, noise, tmp_path):
    """Bit for bit, wherever it is killed."""
    config = Pretraining(method=method, clusters=spec, epochs=5, batch_size=32, seed=3, queue_size=64)
    z = clusters.make(config.clusters, noise, config.seed)

    def kill(done):
        if done == epoch:
            raise Killed

    with pytest.raises(Killed):
        train.fit(config, noise, z, tmp_path / "killed.pt", kill)
    seen = []
    resumed, history = train.fit(config, noise, z, tmp_path / "killed.pt", seen.append)
    whole, expected = train.fit(config, noise, z, tmp_path / "whole.pt")
    assert seen == list(range(epoch + 1, 6))
    assert [row["loss"] for row in history] == [row["loss"] for row in expected]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_a_checkpoint_half_written_is_not_used(noise, tmp_path, monkeypatch):
    config = Pretraining(**SHORT)
    z = clusters.make("instances", noise)
    expected = train.fit(config, noise, z, tmp_path / "whole.pt")[1]
    save = torch.save

    def cut(state, path):
        save(state, path)
        if len(state["history"]) == 2:
            with open(path, "r+b") as file:
                file.truncate(100)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError):
        train.fit(config, noise, z, tmp_path / "full.pt")
    monkeypatch.setattr(torch, "save", save)
    history = train.fit(config, noise, z, tmp_path / "full.pt")[1]
    assert [row["loss"] for row in history] == [row["loss"] for row in expected]


def test_the_same_numbers_under_any_hash_seed(tmp_path):
    code = (
        "from clsl import runs; from clsl.train import Pretraining\n"
        "run = runs.get(Pretraining(method='cl_infonce', clusters='wordnet:level=9', train_size=200, test_size=100, epochs=2,"
        " batch_size=50))\n"
        "print(run.folder.name, run.history['loss'].tolist(), run.result['top1'], run.result['knn'], run.result['i_zt'])"
    )
    out = set()
    for seed in "0", "1":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "CLSL_RUNS": str(tmp_path / seed)}
        out.add(
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        )
    assert len(out) == 1 and "cl_infonce-" in out.pop()


def test_learning_rate():
    config = Pretraining(lr=0.2, warmup=0.25)
    assert train.learning_rate(config, 0) == pytest.approx(1e-5)
    assert train.learning_rate(config, 0.25) == pytest.approx(0.2)
    assert train.learning_rate(config, 0.625) == pytest.approx(0.2 * (1e-3 + 1) / 2)
    assert train.learning_rate(config, 1) == pytest.approx(0.2e-3)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(method="simclear"), "unknown method 'simclear': choose from simclr"),
        (dict(encoder="resnet"), "unknown encoder 'resnet': choose from tiny"),
        (dict(method="cl_infonce"), "needs clusters"),
        (dict(method="simclr", clusters="labels"), "has clusters of its own"),
        (dict(method="pcl"), "pcl needs clusters: name them, for example clusters='kmeans:k=250'"),
        (dict(method="pcl", clusters="labels"), "pcl needs clusters made by k-means"),
        (dict(batch_size=1), "batch_size must be at least 2"),
        (dict(method="moco", queue_size=100), "queue_size must be at least batch_size"),
        (dict(warmup=33), "warmup is a share of the training, between 0 and 1, got 33.0"),
        (dict(base_temperature=0.0), "base_temperature must be positive, got 0.0"),
        (dict(encoder_momentum=1.0), "encoder_momentum must be between 0 and 1"),
        (dict(tested_on="train"), "unknown tested_on 'train'"),
        (dict(epochs=0), "epochs must be positive"),
        (dict(lr=-1.0), "lr must be positive"),
        (dict(temperature=0.0), "temperature must be positive"),
        (dict(probe="svm"), "unknown probe 'svm'"),
    ],
)
def test_wrong_configurations(fields, message):
    with pytest.raises(ValueError, match=message):
        Pretraining(**fields)


def test_a_batch_larger_than_the_data(on_noise):
    with pytest.raises(ValueError, match="batch_size 97 is more than the 96 images"):
        runs.get(Pretraining(batch_size=97))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(clusters="split:depth=9"), "split:depth=9 puts every image into a cluster of its own"),
        (dict(clusters="attributes:k=6"), "k must be between 1 and the number of attributes, 5, got 6"),
        (dict(clusters="kmeans:k=97"), "k must be between 1 and the number of images, 96, got 97"),
        (dict(clusters="wordnet:level=4"), "class names that WordNet knows"),
        (dict(method="cmc", clusters="labels"), "unknown clusters 'labels': choose from wordnet"),
    ],
)
def test_clusters_that_cannot_be_made_are_refused_before_any_training(fields, message, on_noise, tmp_path):
    configs = [Pretraining(**SHORT), Pretraining(**{"method": "cl_infonce", **fields}, **SHORT)]
    with pytest.raises(ValueError, match=message):
        runs.get_all(configs)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("z", [torch.zeros(95, dtype=torch.long), torch.zeros(96), torch.zeros(96, 1, dtype=torch.long)])
def test_cluster_ids_of_the_wrong_length_or_type(z, noise, tmp_path):
    with pytest.raises(ValueError, match="z must hold 96 integer cluster ids, got torch"):
        train.fit(Pretraining(**SHORT), noise, z, tmp_path / "checkpoint.pt")


def test_a_training_that_diverges_says_so(noise, tmp_path):
    config = Pretraining(method="cross_entropy", clusters="labels", epochs=3, batch_size=32, lr=1e30)
    with pytest.raises(ValueError, match="the loss is (nan|inf) in epoch .* lower lr"):
        train.fit(config, noise, noise.labels, tmp_path / "checkpoint.pt")
