"""What few labels tell of I(Z;T) and H(Z|T), against the truth of all labels."""

import numpy as np
import pytest

from clsl import information
from clsl.lab.estimates import class_entropy, estimated

N, CLASSES = 3000, 30


def population(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Clusters and labels of N images: a class has three clusters of its own, or its images lie anywhere."""
    random = np.random.default_rng(0)
    t = random.integers(0, CLASSES, N)
    own = 3 * t + random.choice(3, N, p=[0.7, 0.2, 0.1])
    return {"own": own, "anywhere": random.integers(0, 20, N), "labels": t, "instances": np.arange(N)}[kind], t


def some(t: np.ndarray, labels: int, seed: int) -> np.ndarray:
    """The labels of some images drawn at random, -1 for all others."""
    chosen = np.random.default_rng(seed).choice(len(t), labels, replace=False)
    out = np.full(len(t), -1)
    out[chosen] = t[chosen]
    return out


@pytest.mark.parametrize("kind", ["own", "anywhere"])
def test_nearer_to_the_truth_than_the_plug_in(kind):
    z, t = population(kind)
    truth, errors, plug_in = information.conditional_entropy(z, given=t), [], []
    for seed in range(8):
        known = some(t, 120, seed)
        errors.append(estimated(z, known, draws=20, seed=seed).h_z_given_t.value - truth)
        plug_in.append(information.conditional_entropy(z[known >= 0], given=known[known >= 0]) - truth)
    assert abs(np.mean(errors)) < 0.5 * abs(np.mean(plug_in))
    assert np.std(errors) > 0  # other labels, other estimates


def test_the_interval_covers_the_truth_and_narrows_with_more_labels():
    z, t = population("own")
    truth, widths, covered = information.conditional_entropy(z, given=t), [], 0
    for seed in range(10):
        h = estimated(z, some(t, 120, seed), draws=40, seed=seed).h_z_given_t
        assert h.low <= h.value <= h.high
        covered += h.low <= truth <= h.high
    for labels in (120, 1000):
        h = estimated(z, some(t, labels, 0), draws=40).h_z_given_t
        widths.append(h.high - h.low)
    assert covered >= 7 and widths[1] < 0.6 * widths[0]


def test_all_labels_give_the_plug_in():
    z, t = population("own")
    found = estimated(z, t)
    assert found.h_z_given_t == (information.conditional_entropy(z, given=t),) * 3
    assert found.i_zt.value == pytest.approx(information.mutual_information(z, t), abs=1e-9)
    nearly = t.copy()
    nearly[:3] = -1
    assert estimated(z, nearly, draws=20).h_z_given_t.value == pytest.approx(found.h_z_given_t.value, abs=0.02)


def test_the_ends():
    """Clusters that are the classes have nothing beside the label, and images of their own have all of it."""
    z, t = population("labels")
    found = estimated(z, some(t, 120, 0), draws=20)
    assert found.h_z_given_t.value < 0.05 and found.i_zt.value == pytest.approx(found.h_z, abs=0.05)
    z, t = population("instances")
    found = estimated(z, some(t, 120, 0), draws=20)
    assert found.h_z_given_t.value == pytest.approx(np.log2(N) - information.entropy(t), abs=0.35)
    assert found.h_z == found.i_zt.value + found.h_z_given_t.value


def test_the_entropy_of_the_classes():
    _, t = population("labels")
    truth, known = information.entropy(t), some(t, 120, 0)
    assert abs(class_entropy(known) - truth) < 0.5 * abs(information.entropy(known[known >= 0]) - truth)
    assert class_entropy(t) == truth and class_entropy([-1, 0, 1]) == 1  # no more than log2 of two classes


def test_one_label_a_class_and_clusters_without_a_label():
    z, t = population("own")
    known = np.full(N, -1)
    known[[np.flatnonzero(t == k)[0] for k in range(CLASSES)]] = range(CLASSES)
    found = estimated(z, known, draws=10)
    assert len(np.unique(z[known >= 0])) < len(np.unique(z))
    assert 0 <= found.h_z_given_t.low <= found.h_z_given_t.high <= found.h_z


def test_ids_have_no_meaning_and_the_seed_decides():
    z, t = population("own")
    known = some(t, 120, 0)
    found = estimated(z, known, draws=5)
    assert estimated(1000 - z[::-1], np.where(known >= 0, 7 * known, -9)[::-1], draws=5).h_z == pytest.approx(found.h_z)
    assert estimated(z, known, draws=5) == found != estimated(z, known, draws=5, seed=1)


@pytest.mark.parametrize(
    "z, t, message",
    [
        ([], [], "non-empty 1-D array of integers"),
        ([0, 1], [0, 1, 0], "2 and 3"),
        ([0.5, 1.0], [0, 1], "1-D array of integers"),
        ([3, 3, 3], [0, 1, -1], "all 3 images are in one cluster"),
        ([0, 1, 2], [-1, -1, -1], "0 images are labelled"),
        ([0, 1, 2], [5, 5, -1], "2 images are labelled, of 1 classes"),
    ],
)
def test_what_tells_nothing_is_refused_in_a_line(z, t, message):
    with pytest.raises(ValueError, match=message) as said:
        estimated(z, t)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("wrong", [{"draws": 1}, {"level": 1}, {"level": 0}])
def test_wrong_options(wrong):
    with pytest.raises(ValueError, match="draws must be at least 2 and level between 0 and 1"):
        estimated([0, 1, 1], [0, 1, -1], **wrong)
