"""Methods that push no image away from another: BYOL, W-MSE and Barlow Twins."""

import copy

import torch
from torch import nn

from ..encoders import three_layer_head
from ..losses import barlow_twins, byol, w_mse
from .method import Method, follow


class BYOL(Method):
    """Bootstrap your own latent (Grill et al. 2020): predict how a slow copy sees the other view.

    As in the paper, heads are two linear layers with batch normalisation between, of the representation's width. There the
    slow copy's momentum rises to 1 as a cosine; here it stays.
    """

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, _normalised_head(encoder.dim, encoder.dim, config.projection_dim), config)
        self.predictor = _normalised_head(config.projection_dim, encoder.dim, config.projection_dim)
        self.target = copy.deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(False)
        self.momentum = config.encoder_momentum

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            follow(self.target, (self.encoder, self.head), self.momentum)
            first, second = self.target(views).chunk(2)
        u, v = self.predictor(projections).chunk(2)
        return byol(u, second) + byol(v, first)


class WMSE(Method):
    """W-MSE 2 (Ermolov et al. 2021): the views of an image are close after whitening, which keeps all from collapsing.

    As in the paper on CIFAR, the projection has 64 dimensions, after a hidden layer with batch normalisation.
    """

    dimensions = 64

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, _normalised_head(encoder.dim, encoder.dim, WMSE.dimensions), config)
        self.dimensions = WMSE.dimensions

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return w_mse(*projections.chunk(2))


class BarlowTwins(Method):
    """Barlow Twins (Zbontar et al. 2021): the two views' projections are correlated dimension by dimension, and no further.

    The loss is a sum over dimensions; divided by their number, it asks for learning rates like those of other methods. The
    pseudo-labels of `Progressive` so weigh more than beside the sum.
    """

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, three_layer_head(encoder.dim, config.projection_dim, last_norm=True), config)

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return barlow_twins(*projections.chunk(2)) / projections.shape[1]


def _normalised_head(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))
