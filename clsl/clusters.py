"""Stage 1: auxiliary information → one cluster id per image, an int64 tensor [N] of ids 0 … K-1."""

import inspect
from collections.abc import Sequence

import torch
from nltk.corpus.reader.wordnet import Synset

from .data import Images
from .wordnet import Hierarchy


def from_instances(n: int) -> torch.Tensor:
    """Every image its own cluster: Cl-InfoNCE is then SimCLR. H(Z|T) is as large as it can be."""
    if n < 1:
        raise ValueError(f"there must be at least one image, got {n}")
    return torch.arange(n)


def from_labels(t: torch.Tensor) -> torch.Tensor:
    """The label as the cluster: Cl-InfoNCE is then the supervised contrastive loss. t: integers [N]."""
    if t.ndim != 1 or t.is_floating_point() or len(t) == 0:
        raise ValueError(f"labels must be a non-empty 1-D integer tensor, got {t.dtype} of shape {tuple(t.shape)}")
    return torch.unique(t.long(), return_inverse=True)[1]


def from_wordnet(synsets: Sequence[Synset], labels: torch.Tensor, level: int) -> torch.Tensor:
    """The ancestor of an image's class at a level of WordNet (0 is the root), after paper A's ImageNet-100 runs.

    synsets: one a class; labels: int64 [N], indices into them. Raises ValueError for a level out of range.
    """
    ancestors = Hierarchy(synsets).at(level)
    names = sorted({ancestor.name() for ancestor in ancestors})
    cluster_of_class = torch.tensor([names.index(ancestor.name()) for ancestor in ancestors])
    return from_labels(cluster_of_class[labels])


def make(spec: str, images: Images) -> torch.Tensor:
    """Clusters by their name in a configuration: "instances", "labels", "wordnet:level=4".

    A name, then after a colon the options of the function of that name, separated by commas. Raises ValueError for an
    unknown name or option, or where the images lack what the clusters are made from.
    """
    name, _, rest = spec.partition(":")
    if name not in _MAKERS:
        raise ValueError(f"unknown clusters {spec!r}: choose from {', '.join(_MAKERS)}")
    try:
        options = {key: int(value) for key, value in (pair.split("=") for pair in rest.split(",") if pair)}
        inspect.signature(_MAKERS[name]).bind(images, **options)
    except (ValueError, TypeError):
        raise ValueError(f"clusters {spec!r} have a wrong, missing or extra option: write them like wordnet:level=4") from None
    return _MAKERS[name](images, **options)


def _wordnet(images: Images, level: int) -> torch.Tensor:
    if images.synsets is None:
        raise ValueError("clusters from WordNet need class names that WordNet knows, and these images have none")
    return from_wordnet(images.synsets, images.labels, level)


_MAKERS = {
    "instances": lambda images: from_instances(len(images)),
    "labels": lambda images: from_labels(images.labels),
    "wordnet": _wordnet,
}
