"""Methods that predict what is known of an image with one linear layer on its representation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..encoders import projection_head
from .method import Method


class CrossEntropy(Method):
    """Predicts the cluster of each view.

    On k-means clusters it is DeepCluster's idea (Caron et al. 2018): the representation is clustered, and the layer begins
    again with the clusters, whose ids mean something else each time. DeepCluster also draws as many images of each cluster.
    """

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, nn.Linear(encoder.dim, size), config)

    def project(self, views: torch.Tensor) -> torch.Tensor:
        return self.encoder(views)

    def regroup(self, projections: torch.Tensor, z: torch.Tensor) -> Sequence[nn.Parameter]:
        nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)
        return tuple(self.head.parameters())

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(projections.float(), z.repeat(2))


class CrossEntropyHead(CrossEntropy):
    """Predicts the cluster of each view from the output of the projection head that Cl-InfoNCE has: is it the loss, or the head?"""

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, size, config)
        self.head = nn.Sequential(projection_head(encoder.dim, config.projection_dim), nn.Linear(config.projection_dim, size))

    def regroup(self, projections: torch.Tensor, z: torch.Tensor) -> Sequence[nn.Parameter]:
        nn.init.zeros_(self.head[-1].weight), nn.init.zeros_(self.head[-1].bias)
        return tuple(self.head[-1].parameters())


class AttributePrediction(Method):
    """Predicts each attribute of each view, yes or no."""

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, nn.Linear(encoder.dim, size), config)

    def loss(self, projections: torch.Tensor, attributes: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(projections.float(), attributes.repeat(2, 1))
