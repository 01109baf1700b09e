"""Progressive supervision (paper B): a self-supervised objective, and beside it pseudo-labels of its own, ever more of them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..losses import cl_infonce
from .method import Method


class Progressive(Method):
    """An objective with pseudo-labels:

        L = L_objective + α (L_pseudo(first views) + L_pseudo(second views))

    The first tenth of the training, but at least an epoch, is the objective's alone. Then k-means on the normalised
    representations makes pseudo-labels, and makes them anew after every share config.refresh of the training. Not known are

    - L_pseudo (config.pseudo_loss): Cl-InfoNCE of the projections of both views at once, in place of each of the two terms; or
      the cross-entropy of a linear layer on them, which begins again with new labels;
    - how α rises from 1e-5 to config.pseudo_weight (config.pseudo_rise): in steps, by the same factor after every tenth of the
      training; linear, with each epoch; constant, at once.
    """

    def __init__(self, objective: type[Method], encoder: nn.Module, size: int, config):
        nn.Module.__init__(self)
        self.objective, self.config, self.alpha = objective(encoder, size, config), config, 0.0
        self.layer = nn.Linear(self.objective.dimensions, size) if config.pseudo_loss == "cross_entropy" else None

    @property
    def encoder(self) -> nn.Module:
        return self.objective.encoder

    def project(self, views: torch.Tensor) -> torch.Tensor:
        return self.encoder(views)

    def clusters_anew(self, epoch: int, epochs: int) -> bool:
        since, every = epoch - _epochs(_TENTH, epochs), _epochs(self.config.refresh, epochs)
        return epoch == 0 or since >= 0 and since % every == 0

    def weigh(self, epoch: int, epochs: int) -> None:
        self.alpha = weight(self.config, epoch, epochs)

    def regroup(self, projections: torch.Tensor, z: torch.Tensor) -> Sequence[nn.Parameter]:
        if self.layer is None:
            return ()
        nn.init.zeros_(self.layer.weight), nn.init.zeros_(self.layer.bias)
        return tuple(self.layer.parameters())

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        if self.layer is None:
            pseudo = cl_infonce(*projections.chunk(2), z, self.config.temperature)
        else:
            pseudo = F.cross_entropy(self.layer(projections).float(), z.repeat(2))
        return self.objective.loss(projections, z, views) + 2 * self.alpha * pseudo

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.loss(self.objective.head(self.encoder(views)), z, views)


def weight(config, epoch: int, epochs: int) -> float:
    """α in an epoch, counted from 0, of so many."""
    tenth, most = _epochs(_TENTH, epochs), config.pseudo_weight
    since, last = epoch - tenth, max(1, epochs - 1 - tenth)
    if since < 0 or most == 0:
        return 0.0
    if config.pseudo_rise == "steps":
        return _LEAST * (most / _LEAST) ** (since // tenth / max(1, last // tenth))
    return _LEAST + (most - _LEAST) * since / last if config.pseudo_rise == "linear" else most


def mean_weight(config) -> float:
    """The mean of α over a training's epochs; 0 for a method without pseudo-labels."""
    if not config.method.endswith("+progressive"):
        return 0.0
    return sum(weight(config, epoch, config.epochs) for epoch in range(config.epochs)) / config.epochs


_TENTH, _LEAST = 0.1, 1e-5


def _epochs(share: float, epochs: int) -> int:
    return max(1, round(share * epochs))
