import dataclasses
import itertools
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from clsl import ROOT, clusters, encoders, methods, runs, train
from clsl.config import Pretraining
from clsl.data import kept

SHORT = dict(epochs=3, batch_size=32, lr=0.05)


def spec(method):
    """Clusters that a method can be trained on, made of noise."""
    own = methods.METHODS[method]
    return "kmeans:k=8" if own.clusters == "kmeans" else own.clusters or ("attributes:k=3" if own.attributes else "labels")


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_trains(method, noise, tmp_path):
    fields = {**SHORT, "batch_size": 80} if method.startswith("w_mse") else SHORT  # it whitens 64 dimensions
    config = Pretraining(method=method, clusters=spec(method), queue_size=80, **fields)
    seen = []
    encoder, history = train.fit(config, noise, tmp_path / "checkpoint.pt", seen.append)
    assert seen == list(range(3 * (96 // config.batch_size) + 1))
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(row["loss"] > 0 for row in history)
    assert encoders.features(encoder.eval(), noise).shape == (96, encoder.dim)


def test_learning_real_images(cifar10, tmp_path):
    config = Pretraining(method="supcon", epochs=6, batch_size=64)
    _, history = train.fit(config, cifar10, tmp_path / "checkpoint.pt")
    assert history[-1]["loss"] < history[0]["loss"] - 0.05


def test_simclr_is_cl_infonce_on_instances_and_supcon_on_labels(noise, tmp_path):
    for method, spec in ("simclr", "instances"), ("supcon", "labels"):
        short = train.fit(Pretraining(method=method, **SHORT), noise, tmp_path / f"{method}.pt")[1]
        same = train.fit(Pretraining(method="cl_infonce", clusters=spec, **SHORT), noise, tmp_path / f"{spec}.pt")[1]
        assert [row["loss"] for row in short] == [row["loss"] for row in same]


class Killed(Exception):
    pass


KEEPS_STATE = [
    ("cl_infonce", "kmeans:k=8", {}),
    ("cl_infonce", "kmeans:k=8", {"kmeans_after": 0.5}),
    ("cl_infonce", "labels", {"companions": 4}),
    ("cross_entropy", "kmeans:k=8", {}),
    ("cross_entropy_head", "kmeans:k=8", {}),
    ("moco", None, {}),
    ("cl_infonce_moco", "kmeans:k=8", {}),
    ("pcl", "kmeans:k=8", {}),
    ("dual_head", "kmeans:k=8", {}),
    ("byol", None, {}),
    ("simclr+progressive", "kmeans:k=8", {"pseudo_loss": "cross_entropy"}),
]
STEPS = 96 // 32  # of an epoch


def killed(config, noise, path, step):
    def kill(done):
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        train.fit(config, noise, path, kill)


def resumed(config, noise, path, step):
    """A training killed at a step and taken up again; the steps that it then told of."""
    killed(config, noise, path, step)
    seen = []
    return *train.fit(config, noise, path, seen.append), seen


def assert_same(trained, expected):
    assert [row["loss"] for row in trained[1]] == [row["loss"] for row in expected[1]]
    weights = [encoder.state_dict().values() for encoder, _ in (trained, expected)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_killed_at_any_step_and_resumed_is_never_killed(noise, tmp_path):
    """Bit for bit, wherever it is killed: an epoch counts once its checkpoint is written, after its last step."""
    config = Pretraining(method="cl_infonce", clusters="labels", epochs=4, batch_size=32, seed=3)
    whole = train.fit(config, noise, tmp_path / "whole.pt")
    for step in (0, 1, STEPS, STEPS + 1, 2 * STEPS + 1, 4 * STEPS):
        *trained, seen = resumed(config, noise, tmp_path / f"{step}.pt", step)
        assert seen == list(range(STEPS * (max(0, step - 1) // STEPS), 4 * STEPS + 1))
        assert_same(trained, whole)


@pytest.mark.parametrize("method, spec, own", KEEPS_STATE)
def test_what_a_method_keeps_outlives_a_kill(method, spec, own, noise, tmp_path):
    config = Pretraining(method=method, clusters=spec, epochs=4, batch_size=32, seed=3, queue_size=64, **own)
    *trained, seen = resumed(config, noise, tmp_path / "killed.pt", 3 * STEPS + 1)
    assert seen[0] == 3 * STEPS
    assert_same(trained, train.fit(config, noise, tmp_path / "whole.pt"))


def test_a_disk_that_fills_up(noise, tmp_path):
    config = Pretraining(**SHORT)
    expected = train.fit(config, noise, tmp_path / "whole.pt")[1]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done):
        if done == STEPS + 1:  # after the first epoch's checkpoint
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        with pytest.raises(OSError, match="full.pt cannot be written .File too large.: make room and run again"):
            train.fit(config, noise, tmp_path / "full.pt", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.glob("full*")] == ["full.pt"]
    seen = []
    history = train.fit(config, noise, tmp_path / "full.pt", seen.append)[1]
    assert seen[0] == STEPS and [row["loss"] for row in history] == [row["loss"] for row in expected]


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Evil:
    def __reduce__(self):
        return print, ("code was run",)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "junk": lambda path: path.write_bytes(b"junk" * 100),
    "a flipped bit": flipped,
    "another training's": lambda path: shutil.copy(path.with_name("other.pt"), path),
    "code": lambda path: torch.save({"method": Evil()}, path),
    "code with a checksum": lambda path: shutil.copy(path.with_name("evil.pt"), path),
}


def test_a_damaged_checkpoint(noise, tmp_path, capsys):
    """The training goes on from the checkpoint before, or begins again, says so in a line, and ends with the same numbers."""
    config = Pretraining(**SHORT)
    expected = train.fit(config, noise, tmp_path / "whole.pt")
    train.fit(dataclasses.replace(config, seed=1), noise, tmp_path / "other.pt")
    kept.save(tmp_path / "evil.pt", {"method": Evil()})
    killed(config, noise, tmp_path / "killed.pt", 2 * STEPS + 1)
    for damage, both in itertools.product(DAMAGES, (False, True)):
        for suffix in (".pt", ".before"):
            shutil.copy(tmp_path / f"killed{suffix}", tmp_path / f"x{suffix}")
            if both or suffix == ".pt":
                DAMAGES[damage](tmp_path / f"x{suffix}")
        capsys.readouterr()
        seen = []
        assert_same(train.fit(config, noise, tmp_path / "x.pt", seen.append), expected)
        assert seen[0] == (0 if both else STEPS), damage
        said = capsys.readouterr()
        assert said.err.count("is damaged, or of another training: the training ") == 1 + both and not said.out


def test_the_same_tree_and_numbers_under_any_hash_seed(tmp_path):
    """NLTK gives hypernyms in an order that changes with PYTHONHASHSEED."""
    nouns = "airplane automobile bird cat deer dog frog horse ship truck person lawyer piano computer knife apple".split()
    code = (
        "from clsl import runs; from clsl.config import Pretraining; from clsl.wordnet import Hierarchy, synset\n"
        f"print(Hierarchy([synset(noun) for noun in {nouns}]).show())\n"
        "run = runs.get(Pretraining(method='cl_infonce', clusters='wordnet:level=9', train_size=200, test_size=100, epochs=2,"
        " batch_size=50))\n"
        "print(run.path.parent.name, run.history['loss'].tolist(), run.result['top1'], run.result['knn'], run.result['i_zt'])"
    )

    def start(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "CLSL_RUNS": str(tmp_path / seed), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    out = {process.communicate()[0] for process in [start("0"), start("1")]}
    assert len(out) == 1 and re.search(r"^entity(.|\n)* canine › dog\n(.|\n)*^cl_infonce-", out.pop(), re.M)


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
        (dict(batch_size=1), "batch_size must be at least 2, got 1"),
        (dict(method="moco", queue_size=100), "queue_size must be at least batch_size"),
        (dict(warmup=33), "warmup must be at most 1, got 33.0"),
        (dict(warmup=float("nan")), "warmup must be finite, got nan"),
        (dict(base_temperature=0.0), "base_temperature must be more than 0, got 0.0"),
        (dict(encoder_momentum=1.0), "encoder_momentum must be less than 1, got 1.0"),
        (dict(train_size=1), "train_size must be at least 2, got 1"),
        (dict(image_size=7), "image_size must be at least 8, got 7"),
        (dict(seed=2**31), "seed must be less than 2147483648, got 2147483648"),
        (dict(epochs="three"), "epochs must be int, got 'three'"),
        (dict(epochs=True), "epochs must be int, got True"),
        (dict(clusters=4), "clusters must be str . None, got 4"),
        (dict(tested_on="train"), "unknown tested_on 'train'"),
        (dict(epochs=0), "epochs must be at least 1, got 0"),
        (dict(lr=-1.0), "lr must be more than 0, got -1.0"),
        (dict(temperature=0.0), "temperature must be more than 0, got 0.0"),
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


@pytest.mark.parametrize(
    "column, message",
    [
        (torch.zeros(95, dtype=torch.long), "both arrays must describe the same images, got 95 and 96 ids"),
        (torch.zeros(96), "labels must be a non-empty 1-D integer tensor, got torch.float32"),
        (torch.zeros(96, 1, dtype=torch.long), "1-D integer tensor, got torch.int64 of shape .96, 1."),
        (None, "these images come without a column 'mine': they have none"),
    ],
)
def test_a_column_of_the_wrong_length_or_type(column, message, noise, tmp_path):
    images = noise if column is None else dataclasses.replace(noise, columns={"mine": column})
    with pytest.raises(ValueError, match=message):
        train.fit(Pretraining(method="cl_infonce", clusters="column:mine", **SHORT), images, tmp_path / "checkpoint.pt")
    assert not (tmp_path / "checkpoint.pt").exists()


def test_what_a_method_is_told(noise):
    def told(method, spec=None):
        return train.tell(Pretraining(method=method, clusters=spec), noise)

    assert told("simclr")[0].tolist() == list(range(96)) and told("simclr")[1] is None
    assert torch.equal(told("supcon")[0], noise.labels)
    assert torch.equal(told("cl_infonce", "attributes:k=3")[0], clusters.from_attributes(noise.attributes, 3))
    assert torch.equal(told("cmc", "attributes:k=3")[0], clusters.vectors("attributes:k=3", noise))
    assert told("cl_infonce", "kmeans:k=8") == told("pcl", "kmeans:k=8") == (None, 8)


def test_a_training_that_diverges_says_so(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "learning_rate", lambda config, progress: 1e30)
    config = Pretraining(method="cross_entropy", clusters="labels", epochs=3, batch_size=32)
    with pytest.raises(ValueError, match="the loss is (nan|inf) in epoch .* lower lr"):
        train.fit(config, noise, tmp_path / "checkpoint.pt")
