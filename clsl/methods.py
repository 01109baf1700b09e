"""What each method adds to an encoder: its heads and its loss.

A method is a module made from (encoder, number of clusters, configuration); called with the views [2N, 3, S, S] of N
images, first views first, and their cluster ids z [N], it returns the loss. The training loop knows no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from .encoders import projection_head
from .losses import cl_infonce

if TYPE_CHECKING:
    from .train import Pretraining


class ClInfoNCE(nn.Module):
    """Cl-InfoNCE on the projections; with its own two cases, SimCLR and supervised contrastive learning."""

    def __init__(self, encoder: nn.Module, num_clusters: int, config: Pretraining):
        super().__init__()
        self.encoder, self.head = encoder, projection_head(encoder.dim, config.projection_dim)
        self.temperature, self.base_temperature = config.temperature, config.base_temperature

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        u, v = self.head(self.encoder(views)).chunk(2)
        return cl_infonce(u, v, z, self.temperature, self.base_temperature)


class CrossEntropy(nn.Module):
    """Predicts the cluster of each view with one linear layer on the representation: what A2 compares with."""

    def __init__(self, encoder: nn.Module, num_clusters: int, config: Pretraining):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, num_clusters)

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.head(self.encoder(views)).float(), z.repeat(2))


# name → the module, and the clusters that make the method what it is (None: the configuration's)
METHODS = {
    "simclr": (ClInfoNCE, "instances"),
    "cl_infonce": (ClInfoNCE, None),
    "supcon": (ClInfoNCE, "labels"),
    "cross_entropy": (CrossEntropy, None),
}
