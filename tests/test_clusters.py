import pytest
import torch

from clsl import clusters, data
from clsl.information import conditional_entropy, mutual_information


def test_instances_and_labels():
    assert clusters.from_instances(4).tolist() == [0, 1, 2, 3]
    assert clusters.from_labels(torch.tensor([30, -2, 30, 5])).tolist() == [2, 0, 2, 1]
    assert clusters.from_labels(torch.tensor([1, 2], dtype=torch.int32)).dtype == torch.int64


def test_wordnet(cifar10):
    for level, count in [(0, 1), (4, 2), (8, 3), (9, 6), (11, 8), (14, 10)]:
        z = clusters.from_wordnet(cifar10.synsets, cifar10.labels, level)
        assert z.dtype == torch.int64 and z.unique().tolist() == list(range(count))
        assert conditional_entropy(z, given=cifar10.labels) == pytest.approx(0, abs=1e-12)
    cat, dog, ship = (cifar10.labels == cifar10.class_names.index(name) for name in ("cat", "dog", "ship"))
    z = clusters.from_wordnet(cifar10.synsets, cifar10.labels, 9)
    assert z[cat].unique() == z[dog].unique() != z[ship].unique()
    assert mutual_information(z, cifar10.labels) > 2


def test_make_by_name(cifar10):
    assert (clusters.make("instances", cifar10) == torch.arange(512)).all()
    assert (clusters.make("labels", cifar10) == cifar10.labels).all()
    expected = clusters.from_wordnet(cifar10.synsets, cifar10.labels, 9)
    assert (clusters.make("wordnet:level=9", cifar10) == expected).all()


@pytest.mark.parametrize("spec", ["wordnet", "wordnet:depth=1", "wordnet:level", "wordnet:level=x", "labels:level=1", "kmeans"])
def test_wrong_names(spec, cifar10):
    with pytest.raises(ValueError, match=f"clusters '{spec}'"):
        clusters.make(spec, cifar10)


def test_what_cannot_be_clustered(cifar10, noise):
    with pytest.raises(ValueError, match="level 40 is out of range"):
        clusters.make("wordnet:level=40", cifar10)
    with pytest.raises(ValueError, match="class names that WordNet knows"):
        clusters.make("wordnet:level=4", noise)
    with pytest.raises(ValueError, match="at least one image"):
        clusters.from_instances(0)
    with pytest.raises(ValueError, match="1-D integer"):
        clusters.from_labels(torch.tensor([0.5]))


def test_no_auxiliary_information_is_none():
    assert data.load("cifar10", "test", size=10).attributes is None
