"""Methods that pull some views together and push all others apart: Cl-InfoNCE, its cases SimCLR and SupCon, and CMC."""

import torch
from torch import nn

from ..encoders import projection_head
from ..losses import cl_infonce, info_nce
from .method import Method, own_ids


class ClInfoNCE(Method):
    """Cl-InfoNCE on the projections. With the label as the cluster it is supervised contrastive learning."""

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, projection_head(encoder.dim, config.projection_dim), config)
        self.base_temperature, self.kmeans_after, self.alone = config.base_temperature, config.kmeans_after, False

    def weigh(self, epoch: int, epochs: int) -> None:
        self.alone = (epoch + 0.5) / epochs < self.kmeans_after

    def clusters_anew(self, epoch: int, epochs: int) -> bool:
        return epoch == 0 or not self.alone

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        u, v = projections.chunk(2)
        z = own_ids(len(u), u.device) if self.alone else z
        return cl_infonce(u, v, z, self.temperature, self.base_temperature)


class SimCLR(ClInfoNCE):
    """Every image a cluster of its own, whatever clusters there are."""

    def loss(self, projections: torch.Tensor, z: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return super().loss(projections, own_ids(len(projections) // 2, projections.device), views)


class CMC(Method):
    """Contrastive multiview coding (Tian et al. 2020): the image against its attributes as the other view, both ways."""

    def __init__(self, encoder: nn.Module, size: int, config):
        super().__init__(encoder, projection_head(encoder.dim, config.projection_dim), config)
        layers = nn.Linear(size, encoder.dim), nn.ReLU(inplace=True), nn.Linear(encoder.dim, config.projection_dim)
        self.attribute_encoder = nn.Sequential(*layers)

    def loss(self, projections: torch.Tensor, attributes: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        a, pairs = self.attribute_encoder(attributes), projections.chunk(2)
        both_ways = [info_nce(u, v, temperature=self.temperature) for p in pairs for u, v in ((p, a), (a, p))]
        return sum(both_ways) / len(both_ways)
