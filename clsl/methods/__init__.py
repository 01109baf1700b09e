"""What each method adds to an encoder: its heads, its slow copy or queue, its loss. The dictionary of all methods is here."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from .contrastive import CMC, ClInfoNCE, SimCLR
from .dual_head import ClusterHead, DualHead, InstanceHead
from .method import Method
from .momentum import PCL, ClInfoNCEMoCo, MoCo
from .predictive import AttributePrediction, CrossEntropy, CrossEntropyHead
from .progressive import Progressive
from .without_negatives import BYOL, WMSE, BarlowTwins


class Entry(NamedTuple):
    """A method by name: its module, and what it asks to be told of each image."""

    module: Callable[..., Method]
    clusters: str | None = None  # the clusters that make it what it is; "kmeans": any of that kind; None: any
    attributes: bool = False  # takes attributes as they are, not the clusters made from them


METHODS = {
    "simclr": Entry(SimCLR, "instances"),
    "cl_infonce": Entry(ClInfoNCE),
    "supcon": Entry(ClInfoNCE, "labels"),
    "cross_entropy": Entry(CrossEntropy),
    "cross_entropy_head": Entry(CrossEntropyHead),
    "attribute_prediction": Entry(AttributePrediction, attributes=True),
    "cmc": Entry(CMC, attributes=True),
    "moco": Entry(MoCo, "instances"),
    "cl_infonce_moco": Entry(ClInfoNCEMoCo),
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
