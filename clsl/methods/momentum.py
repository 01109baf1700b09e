"""Methods with a slow copy of the network and a queue of its projections: MoCo v2 and PCL.

Both learn from the first view of an image only; the second goes through the slow copy. SimCLR learns from both.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .. import device
from ..encoders import projection_head
from .method import Method, follow


class MoCo(Method):
    """MoCo v2 (Chen et al. 2020): the negatives of a first view are the queue of earlier second views' projections.

    The loss is equation 1, the copy equation 2 of He et al. (2020). The authors shuffle batches over devices, so that a
    query and its key are not normalised by the same images; here both see one batch, over all devices.
    """

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, projection_head(encoder.dim, config.projection_dim), config)
        self.key = copy.deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(False)
        self.momentum = config.encoder_momentum
        length = config.queue_size // config.batch_size * config.batch_size  # whole batches
        self.register_buffer("queue", F.normalize(torch.randn(length, config.projection_dim), dim=1))

    def project(self, views: torch.Tensor) -> torch.Tensor:
        return self.key(views)

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        first, second = views.chunk(2)
        with torch.no_grad():
            follow(self.key, (self.encoder, self.head), self.momentum)
            key = F.normalize(self.key(second).float(), dim=1)
        loss = self.contrast(self.head(self.encoder(first)), key, z)
        key = device.gathered(key)
        self.queue = torch.cat([key, self.queue[: -len(key)]])
        return loss

    def contrast(self, query: torch.Tensor, key: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The loss of the first views' projections [N, D], given their keys [N, D], before these join the queue."""
        with torch.autocast(query.device.type, enabled=False):
            query = F.normalize(query.float(), dim=1)
            logits = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.T], dim=1) / self.temperature
            return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


class ClInfoNCEMoCo(MoCo):
    """Cl-InfoNCE from a first view to its key and the queue: positives are its own key, and queued keys of its cluster."""

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, size, config)
        self.register_buffer("queued", torch.full((len(self.queue),), -1))  # the clusters of the queue; -1: of no image yet

    def regroup(self, projections: torch.Tensor, z: torch.Tensor) -> Sequence[nn.Parameter]:
        means = torch.zeros(int(z.max()) + 1, projections.shape[1], device=z.device).index_add_(0, z, projections)
        self.queued = torch.where(self.queued < 0, -1, (self.queue @ F.normalize(means, dim=1).T).argmax(1))  # the nearest
        return ()

    def contrast(self, query: torch.Tensor, key: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        with torch.autocast(query.device.type, enabled=False):
            query = F.normalize(query.float(), dim=1)
            logits = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.T], dim=1) / self.temperature
            positives = F.pad((z[:, None] == self.queued).float(), (1, 0), value=1.0)
            loss = -((logits.log_softmax(1) * positives).sum(1) / positives.sum(1)).mean()
        z = device.gathered(z)
        self.queued = torch.cat([z, self.queued[: -len(z)]])
        return loss


class PCL(MoCo):
    """Prototypical contrastive learning (Li et al. 2021): MoCo, and the image against its cluster's prototype.

    ProtoNCE is equation 11, with one clustering and all other prototypes as negatives; each prototype's temperature, its
    concentration, is equation 12 with α = 10, scaled to a mean of τ. As in the authors' code, a cluster of one has the
    largest concentration, all are clipped between their 10th and 90th percentile, and the first tenth of the training,
    to the nearest epoch, is MoCo's only.
    """

    prototypes: torch.Tensor | None = None
    early = False

    def weigh(self, epoch: int, epochs: int) -> None:
        self.early = (epoch + 0.5) / epochs < 0.1

    def regroup(self, projections: torch.Tensor, z: torch.Tensor) -> Sequence[nn.Parameter]:
        if self.early:
            return ()
        count = z.bincount().float()
        means = torch.zeros(len(count), projections.shape[1], device=z.device).index_add_(0, z, projections) / count[:, None]
        spread = torch.zeros_like(count).index_add_(0, z, (projections - means[z]).norm(dim=1))
        concentration = spread / (count * (count + 10).log())
        concentration[spread < 1e-6] = concentration.max().clamp(min=1e-6)
        concentration.clamp_(*concentration.quantile(torch.tensor([0.1, 0.9], device=z.device)))
        self.prototypes = F.normalize(means, dim=1)
        self.concentration = self.temperature * concentration / concentration.mean()
        return ()

    def contrast(self, query: torch.Tensor, key: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        loss = super().contrast(query, key, z)
        if self.prototypes is None:
            return loss
        with torch.autocast(query.device.type, enabled=False):
            similarity = F.normalize(query.float(), dim=1) @ self.prototypes.T
            return loss + F.cross_entropy(similarity / self.concentration, z)
