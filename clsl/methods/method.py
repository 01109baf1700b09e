"""What a method is: an encoder with heads, called with views and what is known of their images, that returns a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from .. import device

if TYPE_CHECKING:
    from ..config import Pretraining


class Method(nn.Module):
    """An encoder with a head. A method is made from (encoder, number of clusters or attributes, configuration).

    Called with the views [2N, 3, S, S] of N images, first views first, and their cluster ids z [N], it returns the loss. Methods
    that take attributes as they are get these [N, A] instead of z. The training loop knows no more.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, config: Pretraining):
        super().__init__()
        self.encoder, self.head, self.temperature = encoder, head, config.temperature
        self.dimensions = config.projection_dim  # of the projections

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.loss(self.head(self.encoder(views)), z, views)

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """The loss of the head's outputs for the views [2N, D], a scalar."""
        raise NotImplementedError

    def weigh(self, epoch: int, epochs: int) -> None:
        """Set the weights of the parts of the loss for an epoch, counted from 0, of so many."""

    def clusters_anew(self, epoch: int, epochs: int) -> bool:
        """Whether k-means, where it makes the clusters, makes them anew before that epoch."""
        return True

    def project(self, views: torch.Tensor) -> torch.Tensor:
        """Views [N, 3, S, S] → [N, D]: what k-means clusters, normalised."""
        return self.head(self.encoder(views))

    def regroup(self, projections: torch.Tensor, z: torch.Tensor) -> Sequence[nn.Parameter]:
        """Learn of new clusters z [M] of all images, and their normalised projections [M, D].

        Returns the parameters that begin again, whose momentum the optimiser forgets.
        """
        return ()


def own_ids(n: int, where: torch.device) -> torch.Tensor:
    """A cluster id for each of n images that no other image of any process has."""
    return torch.arange(n, device=where) + device.rank() * n


@torch.no_grad()
def follow(slow: nn.Module, fast: Sequence[nn.Module], momentum: float) -> None:
    """Move the weights of a slow copy a little toward those of the modules that it is a copy of."""
    for copied, original in zip(slow.parameters(), (p for module in fast for p in module.parameters())):
        copied.lerp_(original, 1 - momentum)
