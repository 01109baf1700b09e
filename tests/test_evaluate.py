import pytest
import torch

from clsl import encoders, evaluate


def blobs(n, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(n) % 4
    return 3 * torch.eye(4)[t] + spread * torch.randn(n, 4, generator=generator), t


def test_probe_and_neighbours_find_what_is_there():
    (a, t), (b, t_test) = blobs(400, 0.3, 0), blobs(400, 0.3, 1)
    assert evaluate.lbfgs_probe(a, t, b, t_test) == 100
    assert evaluate.knn(a, t, b, t_test) == 100


def test_chance_where_there_is_nothing():
    (a, _), (b, _) = blobs(2000, 0.3, 0), blobs(2000, 0.3, 1)
    t, t_test = torch.randint(0, 4, (2, 2000), generator=torch.Generator().manual_seed(0))
    assert evaluate.lbfgs_probe(a, t, b, t_test) == pytest.approx(25, abs=5)
    assert evaluate.knn(a, t, b, t_test) == pytest.approx(25, abs=5)


def test_lbfgs_reaches_the_minimum():
    (a, t), _ = blobs(300, 2.0, 0), None
    a = a + 5  # an offset and a scale do not matter
    assert evaluate.lbfgs_probe(a, t, a, t) == evaluate.lbfgs_probe(10 * a, t, 10 * a, t)
    nearest = torch.cdist(a, torch.stack([a[t == k].mean(0) for k in range(4)])).argmin(1)
    assert evaluate.lbfgs_probe(a, t, a, t) >= 100 * (nearest == t).double().mean().item() - 2


def test_knn_votes_by_weight():
    train = torch.tensor([[1.0, 0], [0.0, 1], [0.0, 1], [0.0, 1]])
    t = torch.tensor([0, 1, 1, 1])
    assert evaluate.knn(train, t, torch.tensor([[2.0, 0.1]]), torch.tensor([0])) == 100  # one near outvotes three far


def test_sgd_probe_learns(cifar10):
    torch.manual_seed(0)
    encoder = encoders.build("tiny")
    learned = evaluate.sgd_probe(encoder, cifar10, cifar10, seed=0, epochs=20)
    assert learned > 14 and learned == evaluate.sgd_probe(encoder, cifar10, cifar10, seed=0, epochs=20)


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
