"""Stage 2: Cl-InfoNCE, the loss of paper A, as its authors train with it."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from . import Diverged, device


def cl_infonce(
    u: torch.Tensor, v: torch.Tensor, z: torch.Tensor, temperature: float = 0.1, base_temperature: float | None = None
) -> torch.Tensor:
    """Clustering InfoNCE: pulls together the views of one cluster and pushes the rest apart; a scalar in nats.

    With p the 2N normalised projections and P(i) all other views of i's cluster, its own second view among them:

        L = -mean_i 1/|P(i)| Σ_{j∈P(i)} log( exp(p_i·p_j/τ) / Σ_{a≠i} exp(p_i·p_a/τ) )

    (the authors' code for paper A; README.md says how this is known). A row's positives enter only through their sum, that
    of its cluster's n_c projections less its own. So no N×N mask of positives is needed, and only the denominator is quadratic:

        L = mean_i [ logsumexp_{a≠i}(p_i·p_a/τ) - p_i·(S_c(i) - p_i) / (τ (n_c(i) - 1)) ]

    Args:
        u, v: [N, D] projections of the two views, of any length (normalised inside), in any floating type: the loss is
            computed in float32, or float64 for float64.
        z: [N] integer cluster ids. The image's own index gives SimCLR's NT-Xent, the label the supervised contrastive loss.
        temperature: τ.
        base_temperature: multiplies the loss by τ / base_temperature, for runs that must match the authors' learning
            rates (they leave 0.07); None for the plain loss.

    Where several processes train together, u, v and z are this one's; the rest of the batch is fetched, and the loss is the mean
    over this one's rows, its gradient that of the mean over all rows times the number of processes (see device.py).

    Raises:
        ValueError: for shapes or types other than these, a temperature that is not positive, or projections that are
            not finite (on a GPU not looked for, since looking would stall it: the loss is then NaN).
    """
    _check(u, v, z, temperature)
    with torch.autocast(u.device.type, enabled=False):
        p = torch.cat([u, v])
        p = F.normalize(p.to(torch.promote_types(p.dtype, torch.float32)), dim=1)
        loss = _ClInfoNCE.apply(p, _from_zero(device.gathered(z.repeat(2))), temperature)
    if not (loss.is_cuda or loss.isfinite()):
        raise Diverged("the projections hold NaN or infinity: lower the learning rate, or look at the images")
    return loss if base_temperature is None else loss * (temperature / base_temperature)


def info_nce(u: torch.Tensor, v: torch.Tensor, z: torch.Tensor | None = None, temperature: float = 0.1) -> torch.Tensor:
    """InfoNCE from one set of projections to another; a scalar in nats.

        L = -mean_i 1/|P(i)| Σ_{j∈P(i)} log( exp(u_i·v_j/τ) / Σ_a exp(u_i·v_a/τ) ),    P(i) = {j: z_j = z_i}

    u, v: [N, D], normalised inside. Without z, v_i is the one positive of u_i, as CMC contrasts two views (Tian et al. 2020);
    with cluster ids z [N] it is the form across views of the authors' dual-head code. Raises ValueError as cl_infonce does.
    """
    _check(u, v, torch.arange(len(u)) if z is None else z, temperature)
    with torch.autocast(u.device.type, enabled=False):
        everything = device.gathered_with_gradient(F.normalize(v.float(), dim=1))
        log_p = (F.normalize(u.float(), dim=1) @ everything.T / temperature).log_softmax(1)
        if z is None:
            return -log_p.diagonal(device.rank() * len(u)).mean()
        positives = (z[:, None] == device.gathered(z)).float()
        return -((log_p * positives).sum(1) / positives.sum(1)).mean()


def byol(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean squared distance of the normalised rows of two [N, D]: 2 - 2 cos (Grill et al. 2020, equation 2); a scalar."""
    _check_pair(prediction, target)
    return 2 - 2 * F.cosine_similarity(prediction.float(), target.float(), dim=1).mean()


def barlow_twins(u: torch.Tensor, v: torch.Tensor, redundancy: float = 5e-3) -> torch.Tensor:
    """Barlow Twins (Zbontar et al. 2021, equations 1 and 2); a scalar.

        L = Σ_i (1 - C_ii)² + λ Σ_i Σ_{j≠i} C_ij²,    C the correlation of each dimension of u with each of v

    u, v: [N, D] projections of the two views; redundancy: λ, the authors' 0.005. Over the batches of all processes.
    """
    _check_pair(u, v)
    with torch.autocast(u.device.type, enabled=False):
        a, b = (_standardised(x.to(torch.promote_types(x.dtype, torch.float32))) for x in (u, v))
        c = device.total(a.T @ b) / (len(a) * device.world())
        on = c.diagonal()
        return (1 - on).square().sum() + redundancy * (c.square().sum() - on.square().sum())


def _standardised(x: torch.Tensor) -> torch.Tensor:
    """Each column with mean 0 and variance 1 over the batches of all processes."""
    x = x - device.total(x.mean(0)) / device.world()
    return x * (device.total(x.square().mean(0)) / device.world() + 1e-12).rsqrt()


def w_mse(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """W-MSE 2 (Ermolov et al. 2021): the mean squared distance of the whitened and normalised projections [N, D] of two views.

    Raises ValueError as `whitened` does.
    """
    _check_pair(u, v)
    with torch.autocast(u.device.type, enabled=False):
        mine = device.share(len(u) * device.world())
        a, b = (whitened(device.gathered_with_gradient(x.float()))[mine] for x in (u, v))
        return byol(a, b)


def whitened(x: torch.Tensor) -> torch.Tensor:
    """x [N, D] less its mean, times the inverse of the Cholesky factor of its covariance, which leaves the identity.

    Raises ValueError where the covariance has no inverse, as with no more rows than dimensions.
    """
    if len(x) <= x.shape[1]:
        raise ValueError(f"whitening {x.shape[1]} dimensions needs a batch of more than as many images, got {len(x)}")
    centred = (x - x.mean(0)).double()
    factor, failed = torch.linalg.cholesky_ex(centred.T @ centred / (len(x) - 1))
    if not factor.is_cuda and failed:  # looking would stall a GPU: the loss is then NaN
        raise Diverged(
            "the projections' covariance has no inverse: they have collapsed, or hold NaN; lower the learning rate"
        )
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T.to(x.dtype)


def _from_zero(z: torch.Tensor) -> torch.Tensor:
    """Any ids → ids from 0, without asking a GPU how many there are."""
    ordered, order = z.sort()
    steps = torch.zeros_like(z, dtype=torch.int64)
    steps[1:] = (ordered[1:] != ordered[:-1]).cumsum(0)
    return torch.empty_like(steps).scatter_(0, order, steps)


class _ClInfoNCE(torch.autograd.Function):
    """The loss of normalised projections own [M, D] among those of all processes [A, D], whose clusters are ids [A] below A.

    The logsumexp is computed some rows at a time. One number a row is kept for backward, which computes the similarities
    again; autograd would keep all of them. Since p_i·p_j = p_j·p_i, a row's gradient also has the terms in which it was another
    row's denominator, so that one pass over the tiles, with one product each, is enough, and each process has only its own
    rows to compute.
    """

    @staticmethod
    def forward(ctx, own: torch.Tensor, cluster: torch.Tensor, temperature: float) -> torch.Tensor:
        p, mine = device.gathered(own), device.share(len(cluster))
        denominator = own.new_empty(len(own))
        for rows, s in _similarities(own, p, mine.start, temperature):
            largest = s.amax(1)
            denominator[rows] = s.sub_(largest[:, None]).exp_().sum(1).log_().add_(largest)
        others = torch.zeros_like(p).index_add_(0, cluster, p)[cluster[mine]].sub_(own)  # the sum of each row's positives
        count = p.new_zeros(len(p)).index_add_(0, cluster, p.new_ones(len(p)))[cluster[mine]].sub_(1)
        others.div_((temperature * count)[:, None])
        ctx.save_for_backward(own, p, others, denominator, device.gathered(denominator))
        ctx.temperature, ctx.first = temperature, mine.start
        return denominator.mean() - (own * others).sum() / len(own)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        own, p, others, denominator, denominators = ctx.saved_tensors
        grad_p = torch.empty_like(own)
        with torch.autocast(own.device.type, enabled=False):
            for rows, s in _similarities(own, p, ctx.first, ctx.temperature):
                weight = (s - denominator[rows, None]).exp_().add_(s.sub_(denominators).exp_())
                torch.mm(weight, p, out=grad_p[rows])
        return grad_p.div_(ctx.temperature).sub_(others, alpha=2).mul_(grad / len(own)), None, None


def _similarities(own: torch.Tensor, p: torch.Tensor, first: int, temperature: float) -> Iterator[tuple[slice, torch.Tensor]]:
    """Tiles p_i·p_a/τ of some own rows i against all a, with -∞ where a = i; the first own row is p's row `first`."""
    height = max(1, (2**26 if p.is_cuda else 2**20) // len(p))  # as large as is fast
    for start in range(0, len(own), height):
        rows = slice(start, start + height)
        s = torch.mm(own[rows], p.T).div_(temperature)
        s.diagonal(first + start).fill_(-torch.inf)
        yield rows, s


def _check(u: torch.Tensor, v: torch.Tensor, z: torch.Tensor, temperature: float) -> None:
    if u.ndim != 2 or u.shape != v.shape or len(u) == 0 or not u.is_floating_point():
        raise ValueError(f"u and v must be floating tensors [N, D] of one shape, got {tuple(u.shape)} and {tuple(v.shape)}")
    if z.shape != u.shape[:1] or z.is_floating_point() or z.is_complex() or z.dtype == torch.bool:
        raise ValueError(f"z must hold {len(u)} integer cluster ids, got {z.dtype} of shape {tuple(z.shape)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be positive and finite, got {temperature}")
    if not (u.is_cuda or u.isfinite().all() and v.isfinite().all()):
        raise Diverged("the projections hold NaN or infinity: lower the learning rate, or look at the images")


def _check_pair(u: torch.Tensor, v: torch.Tensor) -> None:
    if u.ndim != 2 or u.shape != v.shape or len(u) == 0 or not (u.is_floating_point() and v.is_floating_point()):
        raise ValueError(f"the two must be floating tensors [N, D] of one shape, got {tuple(u.shape)} and {tuple(v.shape)}")
