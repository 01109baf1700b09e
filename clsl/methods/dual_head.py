"""Two heads on one encoder, one for images and one for clusters: the authors' ImageNet-100* variant, and each head alone."""

import torch
from torch import nn

from ..encoders import three_layer_head
from ..losses import cl_infonce, info_nce
from .method import Method, own_ids


class DualHead(Method):
    """InfoNCE on one head, Cl-InfoNCE across the two views on another, with equal weights.

    The clusters are made of the first head's projections. The warm-up, to the nearest epoch, is InfoNCE's only (authors' script:
    5 of 200 epochs). A view and the other view of the same image are among the positives.
    """

    instance = cluster = True

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, three_layer_head(encoder.dim, config.projection_dim, last_norm=False), config)
        self.cluster_head = three_layer_head(encoder.dim, config.projection_dim, last_norm=False)
        self.warmup, self.weight = config.warmup, 1.0  # of the cluster head's loss

    def weigh(self, epoch: int, epochs: int) -> None:
        self.weight = float(not self.instance or (epoch + 0.5) / epochs >= self.warmup)

    def project(self, views: torch.Tensor) -> torch.Tensor:
        head = self.head if self.instance else self.cluster_head
        return head(self.encoder(views))

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        h = self.encoder(views)
        loss = 0
        if self.instance:
            u, v = self.head(h).chunk(2)
            loss = cl_infonce(u, v, own_ids(len(u), u.device), self.temperature)
        if self.cluster:
            u, v = self.cluster_head(h).chunk(2)
            both_ways = info_nce(u, v, z, self.temperature) + info_nce(v, u, z, self.temperature)
            loss = loss + self.weight * both_ways / 2
        return loss


class InstanceHead(DualHead):
    """The instance head alone."""

    cluster = False


class ClusterHead(DualHead):
    """The cluster head alone, its clusters made of its own projections."""

    instance = False
