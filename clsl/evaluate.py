"""How good a representation is: a linear probe and k-nearest neighbours, in percent of test images (top1)."""

import torch
import torch.nn.functional as F
from torch import nn

from .augment import random_view
from .data import Images
from .encoders import autocast, features

L2 = 1e-3  # of the L-BFGS probe: half of it times the squared weights is added to the mean cross-entropy
NEIGHBOURS = 20
KNN_TEMPERATURE = 0.07


def lbfgs_probe(train: torch.Tensor, t: torch.Tensor, test: torch.Tensor, t_test: torch.Tensor) -> float:
    """top1 of a logistic regression on standardised features [N, D] → labels t [N], fitted by L-BFGS."""
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    weight = logistic_regression((train - mean) / std, t)
    return _top1(((test - mean) / std @ weight[:-1] + weight[-1]).argmax(1), t_test)


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


def sgd_probe(encoder: nn.Module, train: Images, test: Images, seed: int, epochs: int = 100) -> float:
    """top1 of the authors' linear evaluation: one linear layer, a random view a step, SGD.

    100 epochs, batch 128, Nesterov momentum 0.95, weight decay 1e-4, lr 0.3 falling as a cosine (authors' scripts).
    """
    encoder.eval()
    where = next(encoder.parameters()).device
    generator = torch.Generator(where).manual_seed(seed)
    pixels, t = torch.from_numpy(train.images).permute(0, 3, 1, 2).contiguous().to(where), train.labels.to(where)
    layer = nn.Linear(encoder.dim, int(t.max()) + 1, device=where)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), 0.3, momentum=0.95, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(t), generator=generator, device=where).split(128):
            view = random_view(pixels[batch], train.mean, train.std, generator)
            with torch.no_grad(), autocast(where):
                h = encoder(view).float()
            loss = F.cross_entropy(layer(h), t[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return _top1(layer(features(encoder, test, where)).argmax(1), test.labels.to(where))


@torch.no_grad()
def knn(train: torch.Tensor, t: torch.Tensor, test: torch.Tensor, t_test: torch.Tensor) -> float:
    """top1 of the k nearest features by cosine, each voting with exp(cosine/τ) (Wu et al. 2018); k = 20, τ = 0.07."""
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    k, classes = min(NEIGHBOURS, len(train)), int(t.max()) + 1
    votes = []
    for batch in test.split(1000):
        similarity, nearest = (batch @ train.T).topk(k)
        ballot = torch.zeros(len(batch), classes, device=test.device)
        votes.append(ballot.scatter_add_(1, t[nearest], (similarity / KNN_TEMPERATURE).exp()).argmax(1))
    return _top1(torch.cat(votes), t_test)


def evaluate(encoder: nn.Module, train: Images, test: Images, probe: str, seed: int) -> dict[str, float]:
    """{"top1": of the linear probe ("lbfgs" or "sgd"), "knn": of the neighbours}, percent of the test images.

    Raises ValueError where a representation is not finite.
    """
    where = next(encoder.parameters()).device
    encoder.eval()
    a, b = features(encoder, train, where), features(encoder, test, where)
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("the representations hold NaN or infinity: the training diverged, lower its lr")
    t, t_test = train.labels.to(where), test.labels.to(where)
    top1 = lbfgs_probe(a, t, b, t_test) if probe == "lbfgs" else sgd_probe(encoder, train, test, seed)
    return {"top1": top1, "knn": knn(a, t, b, t_test)}


def _top1(predicted: torch.Tensor, t: torch.Tensor) -> float:
    return 100 * (predicted == t).double().mean().item()
