import math

import pytest
import torch
import torch.nn.functional as F

from clsl import losses
from clsl.losses import cl_infonce


def loop(u, v, z, temperature=0.1):
    """The authors' formula, one term at a time, in float64."""
    p = F.normalize(torch.cat([u, v]).double(), dim=1)
    z = z.tolist() * 2
    total = 0.0
    for i in range(len(p)):
        others = [a for a in range(len(p)) if a != i]
        denominator = sum(math.exp(p[i] @ p[a] / temperature) for a in others)
        positives = [j for j in others if z[j] == z[i]]
        total += sum(math.log(math.exp(p[i] @ p[j] / temperature) / denominator) for j in positives) / len(positives)
    return -total / len(p)


def projections(n, d=8, seed=0, dtype=torch.float32):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_against_the_loop():
    generator = torch.Generator().manual_seed(0)
    for case in range(30):
        n = int(torch.randint(1, 13, (), generator=generator))
        u, v = projections(n, seed=case)
        ids = torch.randint(-(10**12), 10**12, (int(torch.randint(1, 7, (), generator=generator)),), generator=generator)
        z = ids[torch.randint(0, len(ids), (n,), generator=generator)]  # singletons and any ids among them
        temperature = float(torch.rand((), generator=generator)) + 0.05
        assert cl_infonce(u, v, z, temperature).item() == pytest.approx(loop(u, v, z, temperature), rel=0, abs=1e-5)


def test_instances_give_simclr():
    u, v = projections(16)
    p = F.normalize(torch.cat([u, v]), dim=1)
    logits = (p @ p.T / 0.2).fill_diagonal_(-torch.inf)
    nt_xent = F.cross_entropy(logits, torch.arange(32).roll(16))  # Chen et al. 2020, equation 1
    assert torch.isclose(cl_infonce(u, v, torch.arange(16), 0.2), nt_xent)


def test_one_cluster_and_equal_projections():
    u = torch.ones(10, 4)
    assert cl_infonce(u, u, torch.zeros(10, dtype=torch.long)).item() == pytest.approx(math.log(19), rel=1e-6)


def test_a_single_image_has_its_own_view():
    u, v = projections(1)
    assert cl_infonce(u, v, torch.tensor([5])).item() == pytest.approx(0, abs=1e-6)


def test_base_temperature():
    u, v = projections(6)
    z = torch.tensor([0, 0, 1, 1, 1, 2])
    assert torch.isclose(cl_infonce(u, v, z, 0.2, base_temperature=0.07), cl_infonce(u, v, z, 0.2) * (0.2 / 0.07))


def test_the_order_of_images_the_names_of_clusters_and_lengths_do_not_matter():
    u, v = projections(20)
    z = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(1))
    expected = cl_infonce(u, v, z)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    assert torch.isclose(cl_infonce(u[order], v[order], z[order]), expected)
    assert torch.isclose(cl_infonce(v, u, z), expected)
    assert torch.isclose(cl_infonce(u, v, torch.tensor([900, -7, 3, 12])[z]), expected)
    assert torch.isclose(cl_infonce(3 * u, v / 5, z.int()), expected)


def test_gradcheck():
    u, v = projections(7, 3, dtype=torch.float64)
    z = torch.tensor([3, 3, 3, 1, 1, 0, 9])
    u.requires_grad_(), v.requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: cl_infonce(u, v, z, 0.5), (u, v))


def test_tiles_of_uneven_size(monkeypatch):
    z = torch.randint(0, 5, (37,), generator=torch.Generator().manual_seed(1))

    def value_and_gradient():
        u, v = projections(37, dtype=torch.float64)
        u.requires_grad_()
        loss = cl_infonce(u, v, z)
        return loss.item(), torch.autograd.grad(loss, u)[0]

    value, gradient = value_and_gradient()
    similarities = losses._similarities
    for height in (1, 5, 73, 74, 1000):

        def tiles(own, p, first, temperature):
            for start in range(0, len(p), height):
                whole = next(similarities(own, p, first, temperature))[1]
                yield slice(start, start + height), whole[start : start + height].clone()

        monkeypatch.setattr(losses, "_similarities", tiles)
        assert value_and_gradient()[0] == pytest.approx(value, rel=1e-12)
        assert torch.allclose(value_and_gradient()[1], gradient, atol=1e-12)


def test_many_tiles_against_the_dense_form():
    u, v = projections(1500)  # 3000 rows: nine tiles, the last one short
    z = torch.randint(0, 40, (1500,), generator=torch.Generator().manual_seed(1))
    both = torch.cat([u, v])
    assert len(list(losses._similarities(both, both, 0, 1.0))) == 9
    u.requires_grad_()
    p, zz = F.normalize(torch.cat([u, v]), dim=1), z.repeat(2)
    self_ = torch.eye(3000, dtype=torch.bool)
    positives = (zz[:, None] == zz) & ~self_
    log_p = (p @ p.T / 0.1).masked_fill(self_, -1e9).log_softmax(1)
    dense = -((log_p * positives).sum(1) / positives.sum(1)).mean()
    tiled = cl_infonce(u, v, z)
    assert torch.isclose(tiled, dense, rtol=1e-5)
    expected, got = torch.autograd.grad(dense, u)[0], torch.autograd.grad(tiled, u)[0]
    assert (got - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(dtype):
    u, v = projections(50, dtype=dtype)
    z = torch.arange(50) % 7
    u.requires_grad_()
    loss = cl_infonce(u, v, z)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(cl_infonce(u.float(), v.float(), z).item(), rel=1e-6)
    assert torch.autograd.grad(loss, u)[0].dtype == dtype


def test_float32_inside_autocast():
    u, v = projections(50)
    z = torch.arange(50) % 7

    def value_and_gradient(enabled):
        leaf = u.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = cl_infonce(leaf, v, z)
            loss.backward()
        return loss.item(), leaf.grad

    assert value_and_gradient(True)[0] == value_and_gradient(False)[0]
    assert (value_and_gradient(True)[1] == value_and_gradient(False)[1]).all()


def test_nothing_quadratic_is_kept_for_backward():
    u, v = projections(600)
    u.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        cl_infonce(u, v, torch.arange(600))
    assert kept and max(kept) <= 1200 * 8


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda u, v, z: (u, v[:-1], z), "of one shape"),
        (lambda u, v, z: (u[:0], v[:0], z[:0]), "of one shape"),
        (lambda u, v, z: (u[0], v[0], z), "of one shape"),
        (lambda u, v, z: (u.long(), v.long(), z), "floating"),
        (lambda u, v, z: (u, v, z[:-1]), "z must hold 5 integer cluster ids, got torch.int64 of shape .4,."),
        (lambda u, v, z: (u, v, z.float()), "z must hold 5 integer cluster ids, got torch.float32"),
        (lambda u, v, z: (u, v, z[:, None]), "z must hold 5 integer cluster ids, got torch.int64 of shape .5, 1."),
        (lambda u, v, z: (u, v, z > 1), "z must hold 5 integer cluster ids, got torch.bool"),
        (lambda u, v, z: (u * torch.nan, v, z), "NaN or infinity"),
        (lambda u, v, z: (u, v / 0, z), "NaN or infinity"),
    ],
)
def test_bad_input(change, message):
    u, v = projections(5)
    with pytest.raises(ValueError, match=message):
        cl_infonce(*change(u, v, torch.arange(5)))


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_bad_temperature(temperature):
    u, v = projections(5)
    with pytest.raises(ValueError, match="temperature must be positive"):
        cl_infonce(u, v, torch.arange(5), temperature)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_cuda_is_the_same():
    def value_and_gradient(where):
        u, v = (x.to(where) for x in projections(3000))
        u.requires_grad_()
        with torch.autocast(where, torch.bfloat16):
            loss = cl_infonce(u, v, torch.arange(3000, device=where) % 50)
        return loss.item(), torch.autograd.grad(loss, u)[0].cpu()

    (value, gradient), (expected, expected_gradient) = value_and_gradient("cuda"), value_and_gradient("cpu")
    assert value == pytest.approx(expected, rel=1e-5)
    assert (gradient - expected_gradient).norm() / expected_gradient.norm() < 1e-4


@pytest.mark.parametrize("z", [None, [0, 1, 0, 2, 0, 1], [5, 5, 5, 5, 5, 5]])
def test_info_nce_against_a_loop(z):
    """From u to v, in float64."""
    u, v = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    z = None if z is None else torch.tensor(z)
    a, b = F.normalize(u.double(), dim=1), F.normalize(v.double(), dim=1)
    expected = 0
    for i in range(6):
        positives = [i] if z is None else [j for j in range(6) if z[j] == z[i]]
        denominator = sum((a[i] @ row / 0.2).exp() for row in b)
        expected -= sum(((a[i] @ b[j] / 0.2).exp() / denominator).log() for j in positives) / len(positives) / 6
    assert losses.info_nce(u, v, z, 0.2).item() == pytest.approx(expected.item(), abs=1e-5)


def test_byol_is_the_squared_distance_of_unit_vectors():
    u, v = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    expected = sum(((a / a.norm()) - (b / b.norm())).square().sum() for a, b in zip(u, v)) / 9
    assert losses.byol(u, v).item() == pytest.approx(expected.item(), abs=1e-6)


def test_barlow_twins_dimension_by_dimension():
    u, v = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 0.0
    for i in range(6):
        for j in range(6):
            a, b = u[:, i], v[:, j]
            c = ((a - a.mean()) * (b - b.mean())).mean() / (a.var(correction=0) * b.var(correction=0)).sqrt()
            expected += (1 - c) ** 2 if i == j else 0.005 * c**2
    assert losses.barlow_twins(u, v).item() == pytest.approx(expected.item(), abs=1e-9)
    assert losses.barlow_twins(u.float(), v.float()).item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.barlow_twins(u, u).item() < losses.barlow_twins(u, v).item()


def test_whitening_leaves_the_identity():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 64, generator=generator) @ torch.randn(64, 64, generator=generator) + 5
    w = losses.whitened(x)
    assert w.dtype == torch.float32 and w.mean(0).abs().max() < 1e-4
    assert (w.T.cov() - torch.eye(64)).abs().max() <= 1e-4
    with pytest.raises(ValueError, match="whitening 64 dimensions needs a batch of more than as many images, got 64"):
        losses.whitened(x[:64])
    with pytest.raises(ValueError, match="covariance has no inverse: they have collapsed"):
        losses.whitened(x[:, :1].repeat(1, 3))


def test_w_mse_pair_by_pair():
    u, v = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0))
    a, b = losses.whitened(u), losses.whitened(v)
    expected = sum(((x / x.norm()) - (y / y.norm())).square().sum() for x, y in zip(a, b)) / 30
    assert losses.w_mse(u, v).item() == pytest.approx(expected.item(), abs=1e-6)
    assert losses.w_mse(u, 3 * u + 1).item() == pytest.approx(0, abs=1e-6)  # a scale and a shift are whitened away
