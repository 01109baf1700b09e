"""What a representation is worth: a linear probe and k-nearest neighbours; accuracies in percent of the test images."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from . import Diverged, augment, device
from .data import Images
from .encoders import features
from .wordnet import Hierarchy

L2 = 1e-3  # of the L-BFGS probe: half of it times the squared weights is added to the mean cross-entropy
NEIGHBOURS = 20
KNN_TEMPERATURE = 0.07


def lbfgs_probe(train: torch.Tensor, t: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Logits [M, classes] of features `test` [M, D], by a logistic regression on standardised features `train` [N, D], labels t [N]."""
    _check(train, t, test)
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    weight = logistic_regression((train - mean) / std, t)
    return (test - mean) / std @ weight[:-1] + weight[-1]


def logistic_regression(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Weights [D + 1, classes], biases last, that minimise cross-entropy plus L2/2 · |weights|² on x [N, D], t [N].

    At most 100 iterations of L-BFGS, which end where the largest gradient is below 1e-4.
    """
    weight = torch.zeros(x.shape[1] + 1, int(t.max()) + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, tolerance_grad=1e-4, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight[:-1] + weight[-1], t) + L2 / 2 * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


class Protocol(NamedTuple):
    """A linear evaluation by SGD with Nesterov's momentum, a random view a step, the learning rate falling as a cosine."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float


# The authors' scripts, for all but the dual head, and for it.
PROBES = {"sgd": Protocol(100, 128, 0.3, 0.95, 1e-4), "sgd_large_batch": Protocol(80, 4096, 3.2, 0.9, 0.0)}


def sgd_probe(
    encoder: nn.Module, train: Images, test: Images, protocol: Protocol, seed: int, image_size: int | None = None
) -> torch.Tensor:
    """Logits [M, classes] of test images, by one linear layer trained on the representations of random views of `train`."""
    encoder.eval()
    where = next(encoder.parameters()).device
    generator = torch.Generator(where).manual_seed(seed)
    pixels, t = device.Pixels(train.images, where), train.labels.to(where)
    aspects = None if train.aspects is None else train.aspects.to(where)
    layer = nn.Linear(encoder.dim, int(t.max()) + 1, device=where)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    options = dict(momentum=protocol.momentum, weight_decay=protocol.weight_decay, nesterov=True)
    optimizer = torch.optim.SGD(layer.parameters(), protocol.lr, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, protocol.epochs)
    for _ in range(protocol.epochs):
        batches = torch.randperm(len(t), generator=generator, device=where).split(protocol.batch_size)
        for batch, x in zip(batches, pixels.each(batches)):
            shapes = None if aspects is None else aspects[batch]
            view = augment.view(x, train.mean, train.std, augment.draw(len(batch), generator, shapes), image_size)
            with torch.no_grad(), device.autocast(where):
                h = encoder(view).float()
            loss = F.cross_entropy(layer(h), t[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        return layer(features(encoder, test, where, image_size))


@torch.no_grad()
def knn(train: torch.Tensor, t: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """The classes int64 [M] by the k nearest features in cosine, each voting with exp(cosine/τ) (Wu et al. 2018); k = 20, τ = 0.07."""
    _check(train, t, test)
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    k, classes = min(NEIGHBOURS, len(train)), int(t.max()) + 1
    votes = []
    for batch in test.split(1000):
        similarity, nearest = (batch @ train.T).topk(k)
        ballot = torch.zeros(len(batch), classes, device=test.device)
        votes.append(ballot.scatter_add_(1, t[nearest], (similarity / KNN_TEMPERATURE).exp()).argmax(1))
    return torch.cat(votes)


FEW = {"top1_1percent": 0.01, "top1_10percent": 0.1}  # shares of the labels


def evaluate(
    encoder: nn.Module,
    train: Images,
    test: Images,
    probe: str,
    seed: int,
    image_size: int | None = None,
    elsewhere: tuple[Images, Images] | None = None,
) -> tuple[dict[str, float], torch.Tensor]:
    """What the representation is worth, in percent of the test images, and the classes int64 [M] that the linear probe gives them.

    top1: of the linear probe ("lbfgs", or one of PROBES); knn: of the neighbours; top1_1percent, top1_10percent: of an L-BFGS probe
    on as many of the labels, at least one a class; within: of the linear probe where the superclass is told; transfer: of an L-BFGS
    probe on other images to train and to test on, `elsewhere`. Raises ValueError where a representation is not finite.
    """
    where = next(encoder.parameters()).device
    encoder.eval()
    a, b = (features(encoder, images, where, image_size) for images in (train, test))
    if not (a.isfinite().all() and b.isfinite().all()):
        raise Diverged("the representations hold NaN or infinity: the training diverged, lower its lr")
    t, t_test = train.labels.to(where), test.labels.to(where)
    if probe == "lbfgs":
        logits = lbfgs_probe(a, t, b)
    else:
        logits = sgd_probe(encoder, train, test, PROBES[probe], seed, image_size)
    scores = {"top1": accuracy(logits.argmax(1), t_test), "knn": accuracy(knn(a, t, b), t_test)}
    for name, share in FEW.items():
        some = few(t, share, seed)
        scores[name] = accuracy(lbfgs_probe(a[some], t[some], b).argmax(1), t_test)
    if (groups := superclasses(train)) is not None:
        apart = groups.to(where)[t_test][:, None] != groups.to(where)[: logits.shape[1]]  # [M, classes]
        scores["within"] = accuracy(logits.masked_fill(apart, -torch.inf).argmax(1), t_test)
    if elsewhere is not None:
        a, b = (features(encoder, images, where, image_size) for images in elsewhere)
        t, t_test_elsewhere = (images.labels.to(where) for images in elsewhere)
        scores["transfer"] = accuracy(lbfgs_probe(a, t, b).argmax(1), t_test_elsewhere)
    return scores, logits.argmax(1).cpu()


def few(t: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Indices of a share of the labels t [N], drawn at random from each class, at least one."""
    order = torch.randperm(len(t), generator=torch.Generator().manual_seed(seed)).to(t.device)
    classes = t[order]
    chosen = [order[classes == each][: max(1, round(share * int((t == each).sum())))] for each in t.unique()]
    return torch.cat(chosen).sort().values


def superclasses(images: Images) -> torch.Tensor | None:
    """The superclass of each class, int64 [classes]: the column of that name, else the second level of WordNet that divides them."""
    if images.columns and "superclass" in images.columns:
        out = torch.zeros(len(images.class_names), dtype=torch.int64)
        out[images.labels] = images.columns["superclass"]
        return out
    if images.synsets and len(levels := Hierarchy(images.synsets).levels()) > 1:
        names = [s.name() for s in Hierarchy(images.synsets).at(levels[1])]
        return torch.tensor([sorted(set(names)).index(name) for name in names])
    return None


def _check(train: torch.Tensor, t: torch.Tensor, test: torch.Tensor) -> None:
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or not len(train) or not train.isfinite().all():
        raise ValueError(f"features must be finite [N, D] and [M, D], got shapes {tuple(train.shape)} and {tuple(test.shape)}")
    if t.shape != train.shape[:1] or t.is_floating_point() or t.min() < 0:
        raise ValueError(f"labels must be {len(train)} integers from 0, got {t.dtype} of shape {tuple(t.shape)}")


def accuracy(predicted: torch.Tensor, t: torch.Tensor) -> float:
    """Percent of the classes predicted [M] that are the labels t [M]."""
    return 100 * (predicted == t).double().mean().item()
