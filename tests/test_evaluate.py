import dataclasses

import pytest
import torch
import torch.nn.functional as F

from clsl import encoders, evaluate


def blobs(n, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(n) % 4
    return 3 * torch.eye(4)[t] + spread * torch.randn(n, 4, generator=generator), t


def test_probe_and_neighbours_find_what_is_there():
    (a, t), (b, t_test) = blobs(400, 0.3, 0), blobs(400, 0.3, 1)
    for predicted in (evaluate.lbfgs_probe(a, t, b).argmax(1), evaluate.knn(a, t, b)):
        assert predicted.dtype == torch.int64 and torch.equal(predicted, t_test)


def test_accuracy_is_a_percentage():
    assert evaluate.accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 3])) == 75
    assert evaluate.accuracy(torch.arange(3), torch.arange(3)) == 100


def test_chance_where_there_is_nothing():
    (a, _), (b, _) = blobs(2000, 0.3, 0), blobs(2000, 0.3, 1)
    t, t_test = torch.randint(0, 4, (2, 2000), generator=torch.Generator().manual_seed(0))
    assert evaluate.accuracy(evaluate.lbfgs_probe(a, t, b).argmax(1), t_test) == pytest.approx(25, abs=5)
    assert evaluate.accuracy(evaluate.knn(a, t, b), t_test) == pytest.approx(25, abs=5)


def test_lbfgs_reaches_the_minimum():
    """The gradient of the objective vanishes there, and no step away from it is lower."""
    x, t = blobs(300, 2.0, 0)
    weight = evaluate.logistic_regression(x.double(), t).requires_grad_()

    def objective(weight):
        penalty = evaluate.L2 / 2 * weight[:-1].square().sum()
        return F.cross_entropy(x.double() @ weight[:-1] + weight[-1], t) + penalty

    assert torch.autograd.grad(objective(weight), weight)[0].abs().max() < 1e-4
    for seed in range(10):
        step = 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert objective(weight + step) > objective(weight)


def test_an_offset_and_a_scale_of_the_features_do_not_matter():
    (a, t), (b, _) = blobs(300, 1.0, 0), blobs(300, 1.0, 1)
    scale = torch.tensor([1.0, 10, 100, 1000])
    plain, scaled = evaluate.lbfgs_probe(a, t, b), evaluate.lbfgs_probe(a * scale + 5, t, b * scale + 5)
    assert torch.equal(plain.argmax(1), scaled.argmax(1))


def test_knn_votes_by_weight():
    train = torch.tensor([[1.0, 0], [0.0, 1], [0.0, 1], [0.0, 1]])
    t = torch.tensor([0, 1, 1, 1])
    assert evaluate.knn(train, t, torch.tensor([[2.0, 0.1]])) == 0  # one near outvotes three far


def test_sgd_probe_learns(cifar10):
    torch.manual_seed(0)
    encoder = encoders.build("tiny")
    protocol = evaluate.PROBES["sgd"]._replace(epochs=20)
    learned = evaluate.sgd_probe(encoder, cifar10, cifar10, protocol, seed=0)
    assert evaluate.accuracy(learned.argmax(1), cifar10.labels.to(learned.device)) > 14


@pytest.mark.parametrize("probe", ["lbfgs", "sgd"])
def test_the_predicted_classes_are_those_of_the_score(probe, noise, monkeypatch):
    """And the same a second time."""
    monkeypatch.setitem(evaluate.PROBES, "sgd", evaluate.PROBES["sgd"]._replace(epochs=2))
    encoder = encoders.build("tiny")
    scores, predicted = evaluate.evaluate(encoder, noise, noise, probe, 0)
    assert list(scores) == ["top1", "knn", "top1_1percent", "top1_10percent"] and predicted.shape == (96,) and predicted.device.type == "cpu"
    assert scores["top1"] == evaluate.accuracy(predicted, noise.labels)
    again, same = evaluate.evaluate(encoder, noise, noise, probe, 0)
    assert again == scores and torch.equal(same, predicted)


def test_few_labels_are_of_every_class():
    t = torch.arange(400) % 4
    for share, each in ((0.01, 1), (0.1, 10), (0.001, 1)):
        some = evaluate.few(t, share, seed=0)
        assert t[some].bincount().tolist() == [each] * 4 and len(some.unique()) == 4 * each
        assert torch.equal(some, evaluate.few(t, share, seed=0)) and not torch.equal(some, evaluate.few(t, share, seed=1))


def test_within_a_superclass(noise):
    """Told the superclass, the probe chooses among its classes only: with one class each, it cannot be wrong."""
    encoder = encoders.build("tiny")
    apart = dataclasses.replace(noise, columns={"superclass": noise.labels})
    together = dataclasses.replace(noise, columns={"superclass": noise.labels // 4})
    assert evaluate.evaluate(encoder, apart, apart, "lbfgs", 0)[0]["within"] == 100
    scores = evaluate.evaluate(encoder, together, together, "lbfgs", 0)[0]
    assert scores["within"] == scores["top1"]


def test_superclasses(cifar10):
    assert evaluate.superclasses(cifar10).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]  # artefacts, living things


def test_transfer_is_a_probe_on_other_images(noise):
    encoder = encoders.build("tiny")
    scores, _ = evaluate.evaluate(encoder, noise, noise, "lbfgs", 0, elsewhere=(noise, noise))
    assert scores["transfer"] == scores["top1"]


def test_nan_features_are_named(noise):
    encoder = encoders.build("tiny")
    torch.nn.init.constant_(encoder[0][0].weight, float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity.*lower its lr"):
        evaluate.evaluate(encoder, noise, noise, "lbfgs", 0)


@pytest.mark.parametrize("name, dim", [("tiny", 384), ("resnet18", 512), ("resnet50", 2048)])
def test_encoders(name, dim):
    encoder = encoders.build(name).eval()
    assert encoder.dim == dim and encoder(torch.zeros(2, 3, 32, 32)).shape == (2, dim)


def test_unknown_encoder():
    with pytest.raises(ValueError, match="unknown encoder 'huge': choose from tiny, resnet18, resnet50"):
        encoders.build("huge")
