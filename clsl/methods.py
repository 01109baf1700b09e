"""What each method adds to an encoder: its heads, its momentum copy or queue, its loss.

A method is made from (encoder, number of clusters or attributes, configuration); called with the views [2N, 3, S, S] of N
images, first views first, and what is known of each image, z, it returns the loss. The training loop knows no more.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from . import distributed
from .encoders import projection_head, three_layer_head
from .losses import barlow_twins, byol, cl_infonce, info_nce, w_mse

if TYPE_CHECKING:
    from .train import Pretraining


class Method(nn.Module):
    """An encoder with a head; z is a cluster id [N], or the attributes [N, A] for methods that take them as they are."""

    def __init__(self, encoder: nn.Module, head: nn.Module, config: Pretraining):
        super().__init__()
        self.encoder, self.head, self.temperature = encoder, head, config.temperature
        self.dimensions = config.projection_dim  # of the projections

    def project(self, views: torch.Tensor) -> torch.Tensor:
        """Views [N, 3, S, S] → [N, D]: what k-means clusters, normalised, where clusters are made anew during the training."""
        return self.head(self.encoder(views))

    def regroup(self, projections: torch.Tensor, z: torch.Tensor, progress: float) -> Sequence[nn.Parameter]:
        """Told, before such an epoch, of all images' normalised projections [M, D] and their clusters [M].

        progress: the share of the training done by the middle of that epoch. Returns the parameters that begin again.
        """
        return ()

    def begin(self, epoch: int, epochs: int) -> bool:
        """Told before every epoch, counted from 0, of so many; whether k-means, where it is asked for, clusters anew."""
        return True

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.loss(self.head(self.encoder(views)), z, views)

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """The loss of the head's outputs for the views [2N, D], of which nothing else of a method need know."""
        raise NotImplementedError


class ClInfoNCE(Method):
    """Cl-InfoNCE on the projections; with its own two cases, SimCLR and supervised contrastive learning."""

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, projection_head(encoder.dim, config.projection_dim), config)
        self.base_temperature = config.base_temperature

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        u, v = projections.chunk(2)
        return cl_infonce(u, v, z, self.temperature, self.base_temperature)


class SimCLR(ClInfoNCE):
    """Every image a cluster of its own, whatever clusters there are."""

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return super().loss(projections, _own(len(projections) // 2, projections.device), views)


def _own(n: int, where: torch.device) -> torch.Tensor:
    """A cluster id for each of n images that no other image of any process has."""
    return torch.arange(n, device=where) + distributed.rank() * n


class CrossEntropy(Method):
    """Predicts the cluster of each view with one linear layer on the representation.

    On k-means clusters it is DeepCluster's idea (Caron et al. 2018): the representation is clustered, and the layer begins
    again with the clusters, whose ids mean something else each time. DeepCluster also draws as many images of each cluster.
    """

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, nn.Linear(encoder.dim, size), config)

    def project(self, views: torch.Tensor) -> torch.Tensor:
        return self.encoder(views)

    def regroup(self, projections: torch.Tensor, z: torch.Tensor, progress: float) -> Sequence[nn.Parameter]:
        nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)
        return tuple(self.head.parameters())

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(projections.float(), z.repeat(2))


class AttributePrediction(Method):
    """Predicts each attribute of each view, yes or no, with one linear layer on the representation."""

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, nn.Linear(encoder.dim, size), config)

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(projections.float(), z.repeat(2, 1))


class CMC(Method):
    """Contrastive multiview coding (Tian et al. 2020): the image against its attributes as the other view, both ways."""

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, projection_head(encoder.dim, config.projection_dim), config)
        layers = nn.Linear(size, encoder.dim), nn.ReLU(inplace=True), nn.Linear(encoder.dim, config.projection_dim)
        self.attribute_encoder = nn.Sequential(*layers)

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        a, pairs = self.attribute_encoder(z), projections.chunk(2)
        both_ways = [info_nce(u, v, temperature=self.temperature) for p in pairs for u, v in ((p, a), (a, p))]
        return sum(both_ways) / len(both_ways)


class MoCo(Method):
    """MoCo v2 (Chen et al. 2020): the second view goes through a slow copy; negatives come from a queue of its projections.

    The loss is equation 1, the copy equation 2 of He et al. (2020). The authors shuffle batches over devices, so that a
    query and its key are not normalised by the same images; here both see one batch, over all devices.
    """

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, projection_head(encoder.dim, config.projection_dim), config)
        self.key = copy.deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(False)
        self.momentum = config.encoder_momentum
        length = config.queue_size // config.batch_size * config.batch_size  # whole batches
        self.register_buffer("queue", F.normalize(torch.randn(length, config.projection_dim), dim=1))

    def project(self, views: torch.Tensor) -> torch.Tensor:
        return self.key(views)

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        query, key = self._encode(views)
        loss = self._contrast(query, key, z)
        key = distributed.gathered(key)
        self.queue = torch.cat([key, self.queue[: -len(key)]])
        return loss

    def _encode(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = views.chunk(2)
        with torch.no_grad():
            _follow(self.key, (self.encoder, self.head), self.momentum)
            key = F.normalize(self.key(second).float(), dim=1)
        return self.head(self.encoder(first)), key

    def _contrast(self, query: torch.Tensor, key: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        with torch.autocast(query.device.type, enabled=False):
            query = F.normalize(query.float(), dim=1)
            logits = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue.T], dim=1) / self.temperature
            return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


@torch.no_grad()
def _follow(slow: nn.Module, fast: Sequence[nn.Module], momentum: float) -> None:
    """Move the weights of a slow copy a little toward those of what it is a copy of."""
    for theirs, ours in zip(slow.parameters(), (p for module in fast for p in module.parameters())):
        theirs.lerp_(ours, 1 - momentum)


class PCL(MoCo):
    """Prototypical contrastive learning (Li et al. 2021): MoCo, and the image against its cluster's prototype.

    ProtoNCE is equation 11, with one clustering and all other prototypes as negatives; each prototype's temperature, its
    concentration, is equation 12 with α = 10, scaled to a mean of τ. As in the authors' code, a cluster of one has the
    largest concentration, all are clipped between their 10th and 90th percentile, and the first tenth of the training,
    to the nearest epoch, is MoCo's only.
    """

    prototypes: torch.Tensor | None = None

    def regroup(self, projections: torch.Tensor, z: torch.Tensor, progress: float) -> Sequence[nn.Parameter]:
        if progress < 0.1:
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

    def _contrast(self, query: torch.Tensor, key: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        loss = super()._contrast(query, key, z)
        if self.prototypes is None:
            return loss
        with torch.autocast(query.device.type, enabled=False):
            similarity = F.normalize(query.float(), dim=1) @ self.prototypes.T
            return loss + F.cross_entropy(similarity / self.concentration, z)


class DualHead(Method):
    """The authors' ImageNet-100* variant: InfoNCE on one head, Cl-InfoNCE across views on another, with equal weights.

    The clusters are made of the first head's projections. The first fortieth of the training (5 of 200 epochs), to the
    nearest epoch, is InfoNCE's only.
    """

    instance = cluster = True
    warm_up = 5 / 200

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, three_layer_head(encoder.dim, config.projection_dim), config)
        self.cluster_head = three_layer_head(encoder.dim, config.projection_dim)
        self.weight = 1.0  # of the cluster head

    def project(self, views: torch.Tensor) -> torch.Tensor:
        head = self.head if self.instance else self.cluster_head
        return head(self.encoder(views))

    def regroup(self, projections: torch.Tensor, z: torch.Tensor, progress: float) -> Sequence[nn.Parameter]:
        self.weight = float(not self.instance or progress >= self.warm_up)
        return ()

    def forward(self, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        h = self.encoder(views)
        loss = 0
        if self.instance:
            u, v = self.head(h).chunk(2)
            loss = cl_infonce(u, v, _own(len(u), u.device), self.temperature)
        if self.cluster:
            u, v = self.cluster_head(h).chunk(2)
            both_ways = info_nce(u, v, z, self.temperature) + info_nce(v, u, z, self.temperature)
            loss = loss + self.weight * both_ways / 2
        return loss


class InstanceHead(DualHead):
    """The instance half of the dual head alone."""

    cluster = False


class ClusterHead(DualHead):
    """The cluster half of the dual head alone, its clusters made of its own projections."""

    instance = False


class BYOL(Method):
    """Bootstrap your own latent (Grill et al. 2020): predict how a slow copy sees the other view; no negatives.

    Heads are two linear layers with batch normalisation between, as theirs, of the representation's width. Their copy's
    momentum rises to 1 as a cosine; here it stays.
    """

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, _normalised_head(encoder.dim, encoder.dim, config.projection_dim), config)
        self.predictor = _normalised_head(config.projection_dim, encoder.dim, config.projection_dim)
        self.target = copy.deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(False)
        self.momentum = config.encoder_momentum

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            _follow(self.target, (self.encoder, self.head), self.momentum)
            first, second = self.target(views).chunk(2)
        u, v = self.predictor(projections).chunk(2)
        return byol(u, second) + byol(v, first)


class WMSE(Method):
    """W-MSE 2 (Ermolov et al. 2021): the views of an image are close after whitening, which keeps all from collapsing.

    As theirs on CIFAR, the projection has 64 dimensions, after a hidden layer with batch normalisation.
    """

    dimensions = 64

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, _normalised_head(encoder.dim, encoder.dim, WMSE.dimensions), config)
        self.dimensions = WMSE.dimensions

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return w_mse(*projections.chunk(2))


class BarlowTwins(Method):
    """Barlow Twins (Zbontar et al. 2021): the two views' projections are correlated dimension by dimension, and no further.

    The loss is a sum over dimensions; divided by their number, it asks for learning rates like those of other methods. What is
    added to it (Progressive) so weighs more than beside the sum.
    """

    def __init__(self, encoder: nn.Module, size: int, config: Pretraining):
        super().__init__(encoder, three_layer_head(encoder.dim, config.projection_dim), config)

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return barlow_twins(*projections.chunk(2)) / projections.shape[1]


def _normalised_head(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))


class Progressive(Method):
    """Progressive supervision (paper B): an objective, and beside it pseudo-labels of the network's own, ever more of them.

        L = L_objective + α (L_pseudo(first views) + L_pseudo(second views))

    The first tenth of the training, but at least an epoch, is the objective's alone. Then k-means on the normalised
    representations makes pseudo-labels, and makes them anew after every share config.refresh of the training. Not known are

    - L_pseudo (config.pseudo_loss): Cl-InfoNCE of the projections of both views at once, in place of each of the two terms; or
      the cross-entropy of a linear layer on them, which begins again with new labels;
    - how α rises from 1e-5 to config.pseudo_weight (config.pseudo_rise): in steps, by the same factor after every tenth of the
      training; linear, with each epoch; constant, at once.
    """

    tenth, least = 0.1, 1e-5

    def __init__(self, objective: type[Method], encoder: nn.Module, size: int, config: Pretraining):
        nn.Module.__init__(self)
        self.objective, self.config, self.alpha = objective(encoder, size, config), config, 0.0
        self.layer = nn.Linear(self.objective.dimensions, size) if config.pseudo_loss == "cross_entropy" else None

    @property
    def encoder(self) -> nn.Module:
        return self.objective.encoder

    def project(self, views: torch.Tensor) -> torch.Tensor:
        return self.encoder(views)

    def begin(self, epoch: int, epochs: int) -> bool:
        tenth, every = (max(1, round(share * epochs)) for share in (self.tenth, self.config.refresh))
        since, last, most = epoch - tenth, max(1, epochs - 1 - tenth), self.config.pseudo_weight
        if since < 0 or most == 0:
            self.alpha = 0.0
        elif self.config.pseudo_rise == "steps":
            self.alpha = self.least * (most / self.least) ** (since // tenth / max(1, last // tenth))
        elif self.config.pseudo_rise == "linear":
            self.alpha = self.least + (most - self.least) * since / last
        else:
            self.alpha = most
        return epoch == 0 or since >= 0 and since % every == 0

    def regroup(self, projections: torch.Tensor, z: torch.Tensor, progress: float) -> Sequence[nn.Parameter]:
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


class Entry(NamedTuple):
    """A method by name: its module, and what it asks to be told of each image."""

    module: Callable[..., Method]
    clusters: str | None = None  # the clusters that make it what it is; "kmeans": any of that kind; None: any
    attributes: bool = False  # takes what the clusters are made from as it is


METHODS = {
    "simclr": Entry(SimCLR, "instances"),
    "cl_infonce": Entry(ClInfoNCE),
    "supcon": Entry(ClInfoNCE, "labels"),
    "cross_entropy": Entry(CrossEntropy),
    "attribute_prediction": Entry(AttributePrediction, attributes=True),
    "cmc": Entry(CMC, attributes=True),
    "moco": Entry(MoCo, "instances"),
    "pcl": Entry(PCL, "kmeans"),
    "dual_head": Entry(DualHead, "kmeans"),
    "instance_head": Entry(InstanceHead, "instances"),
    "cluster_head": Entry(ClusterHead, "kmeans"),
    "byol": Entry(BYOL, "instances"),
    "w_mse": Entry(WMSE, "instances"),
    "barlow_twins": Entry(BarlowTwins, "instances"),
}
for _name in ("simclr", "byol", "w_mse", "barlow_twins", "cl_infonce"):
    METHODS[f"{_name}+progressive"] = Entry(partial(Progressive, METHODS[_name].module), "kmeans")

# Each method's learning rate and temperature at the small profiles: search.py chooses them, and writes this file.
SETTINGS = json.loads(Path(__file__).with_name("settings.json").read_text())
SETTINGS |= {f"{name}+progressive": own for name, own in SETTINGS.items() if f"{name}+progressive" in METHODS}
