"""Stage 1: auxiliary information → one cluster id per image, an int64 tensor [N] of ids 0 … K-1."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import faiss
import torch
from nltk.corpus.reader.wordnet import Synset

from . import wordnet
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

    synsets: one a class; labels: int64 [N], indices into them. Raises ValueError for a level or a label out of range.
    """
    if labels.ndim != 1 or labels.is_floating_point() or not ((labels >= 0) & (labels < len(synsets))).all():
        raise ValueError(f"labels must be integers [N] from 0 to {len(synsets) - 1}, one a synset, got {labels.unique().tolist()[:5]}")
    ancestors = Hierarchy(synsets).at(level)
    names = sorted({ancestor.name() for ancestor in ancestors})
    cluster_of_class = torch.tensor([names.index(ancestor.name()) for ancestor in ancestors])
    return from_labels(cluster_of_class[labels])


def from_attributes(attributes: torch.Tensor, k: int) -> torch.Tensor:
    """Each combination of values of the k attributes of highest entropy, after the authors' code. attributes: 0 or 1 [N, A].

    Raises what `most_informative` raises.
    """
    chosen = attributes[:, most_informative(attributes, k)]
    return torch.unique(chosen, dim=0, return_inverse=True)[1]


def most_informative(attributes: torch.Tensor, k: int) -> torch.Tensor:
    """Indices [k] of the attributes [N, A] of highest entropy, the highest first, the first of equals first.

    Raises ValueError where the attributes are not binary, k is not between 1 and A, or one of the k is the same for all.
    """
    if attributes.ndim != 2 or not ((attributes == 0) | (attributes == 1)).all():
        raise ValueError(
            f"attributes must be 0 or 1, one row an image: got {attributes.dtype} of shape {tuple(attributes.shape)}"
        )
    if not 1 <= k <= attributes.shape[1]:
        raise ValueError(f"k must be between 1 and the number of attributes, {attributes.shape[1]}, got {k}")
    share = attributes.double().mean(0)
    chosen = (share - 0.5).abs().sort(stable=True).indices[:k]  # the nearer to half, the higher the entropy
    if share[chosen[-1]] in (0, 1):
        raise ValueError(f"attribute {int(chosen[-1])} is the same for every image: k = {k} is more than tell images apart")
    return chosen


def from_kmeans(features: torch.Tensor, k: int, seed: int, iterations: int = 20, starts: int = 5) -> torch.Tensor:
    """The nearest of k centroids (Euclidean) of float features [N, D]; the best of `starts` random starts, by faiss.

    Iterations and starts are the authors'. Fewer than k ids come out where equal features leave a centroid empty.
    Raises ValueError where the features are not finite, or k is not between 1 and N.
    """
    if features.ndim != 2 or not features.isfinite().all():
        raise ValueError(f"k-means needs finite features [N, D], got {features.dtype} of shape {tuple(features.shape)}")
    if not 1 <= k <= len(features):
        raise ValueError(f"k must be between 1 and the number of images, {len(features)}, got {k}")
    x = features.detach().float().cpu()
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))  # images come in the order of classes
    options = dict(niter=iterations, nredo=starts, seed=seed % 2**31, min_points_per_centroid=1, max_points_per_centroid=len(x))
    kmeans = faiss.Kmeans(x.shape[1], k, **options)
    kmeans.train(x[shuffled].numpy())
    return from_labels(torch.from_numpy(kmeans.assign(x.numpy())[1]))


def merged(t: torch.Tensor, steps: int, seed: int) -> torch.Tensor:
    """The classes merged two by two in random order, `steps` times: H(Z|T) stays 0 while I(Z;T) falls.

    t: integers [N]. After the authors' first controlled family; 0 steps leave the classes. An odd one out stays alone.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    z, generator = from_labels(t), torch.Generator().manual_seed(seed)
    for _ in range(min(steps, len(z).bit_length())):  # then one cluster is left
        z = torch.randperm(int(z.max()) + 1, generator=generator)[z] // 2
    return z


def split(t: torch.Tensor, depth: int, seed: int) -> torch.Tensor:
    """Every class halved at random, and each half again, `depth` times: I(Z;T) stays H(T) while H(Z|T) grows.

    t: integers [N]. After the authors' second controlled family; deep enough, every image is its own cluster. Clusters of
    a greater depth lie inside those of a smaller one.
    """
    if depth < 0:
        raise ValueError(f"depth must not be negative, got {depth}")
    t, generator = from_labels(t), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(t), generator=generator)
    order = order[t[order].sort(stable=True).indices]  # by class, at random within
    counts = t.bincount()
    rank = torch.arange(len(t)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    parts = 2 ** min(depth, len(t).bit_length())
    part = torch.empty_like(t)
    part[order] = rank * parts // counts.repeat_interleave(counts)
    return from_labels(t * parts + part)


def permuted(z: torch.Tensor, t: torch.Tensor, classes: int, seed: int) -> torch.Tensor:
    """The ids z permuted among the images of some classes, drawn at random: H(Z) stays while I(Z;T) falls.

    z, t: integers [N]; classes: how many. After the authors' third controlled family.
    """
    z, t, generator = from_labels(z), from_labels(t), torch.Generator().manual_seed(seed)
    if not 0 <= classes <= int(t.max()) + 1:
        raise ValueError(f"classes must be between 0 and {int(t.max()) + 1}, got {classes}")
    drawn = torch.randperm(int(t.max()) + 1, generator=generator)[:classes]
    images = torch.isin(t, drawn).nonzero()[:, 0]
    out = z.clone()
    out[images] = z[images[torch.randperm(len(images), generator=generator)]]
    return out


def annotated(images: Images, noise: float, seed: int) -> Images:
    """The images with the attributes that simulated annotators saw, for data sets that have none of their own.

    The truth is a class's attributes in WordNet (`wordnet.attributes`); each attribute of each image is seen wrongly with
    probability `noise`, drawn from the seed. Raises ValueError where the noise is not between 0 and 1/2.
    """
    if not 0 <= noise <= 0.5:
        raise ValueError(f"noise must be between 0 and 0.5, got {noise}")
    names, columns = zip(*wordnet.attributes(_needed(images, "synsets")).items())
    truth = torch.tensor(columns).T[images.labels]
    wrong = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed)) < noise
    return dataclasses.replace(images, attributes=truth ^ wrong, attribute_names=names)


def tag_synsets(images: Images) -> tuple[tuple[Synset, ...], torch.Tensor]:
    """The synsets of the images' tags, one a distinct tag, and which of them each image has, int64 [N].

    Of a noun's senses the one nearest to any of the classes is taken, whichever class the image has, so that nothing of
    its label is told; tags that are no nouns stand for the root of WordNet. Raises ValueError where there are no tags.
    """
    names = sorted(set(_needed(images, "tags")))
    index = {name: i for i, name in enumerate(names)}
    senses = tuple(wordnet.nearest(name, images.synsets or ()) for name in names)
    return senses, torch.tensor([index[tag] for tag in images.tags])


def make(spec: str, images: Images, seed: int = 0) -> torch.Tensor:
    """Cluster ids z [N] by their name in a configuration: "instances", "labels", "wordnet:level=4", "split:depth=2", …

    A name of `_MAKERS`, then after a colon its options, whole numbers separated by commas (noise in percent). The seed is
    that of what is drawn at random. "column:NAME" are clusters that come with the images. Raises ValueError for an unknown name
    or option, where the images lack what the clusters are made from, for k-means, and as the function of that name does.
    """
    if spec.startswith("column:"):
        name, columns = spec.removeprefix("column:"), images.columns or {}
        if name not in columns:
            raise ValueError(f"these images come without a column {name!r}: they have {', '.join(columns) or 'none'}")
        return from_labels(columns[name])
    if kmeans_k(spec, images):
        raise ValueError(f"{spec} has no clusters yet: a training makes them, of what the network has learned")
    name, given = options(spec, _MAKERS)
    return _MAKERS[name](images, seed, **given)


def vectors(spec: str, images: Images, seed: int = 0) -> torch.Tensor:
    """The attributes that such clusters are made from, as float32 [N, A] of 0 and 1, for methods that take these as they are.

    The k attributes themselves; the synsets on the path from the root down to a level of WordNet, of the class or of the tag. Raises ValueError as
    `make` does, or for clusters that are made from neither.
    """
    name, given = options(spec, _VECTORS)
    return _VECTORS[name](images, seed, **given).float()


def kmeans_k(spec: str, images: Images) -> int | None:
    """The k of "kmeans:k=250", clusters that a training makes anew of what the network has learned; None for all other clusters.

    Raises ValueError where k is missing, or not between 1 and the number of images.
    """
    if spec.partition(":")[0] != "kmeans":
        return None
    k = options(spec, {"kmeans": lambda images, seed, k: None})[1]["k"]
    if not 1 <= k <= len(images):
        raise ValueError(f"k must be between 1 and the number of images, {len(images)}, got {k}")
    return k


def options(spec: str, makers: Mapping[str, Callable] | None = None) -> tuple[str, dict[str, int]]:
    """The name of some clusters and their options: "wordnet:level=4" → "wordnet", {"level": 4}; checked where makers are given."""
    name, _, rest = spec.partition(":")
    if makers is not None and name not in makers:
        raise ValueError(f"unknown clusters {spec!r}: choose from {', '.join(makers)}, column, kmeans")
    if not re.fullmatch("[a-z_]*(:([a-z_]+=[0-9]+(,[a-z_]+=[0-9]+)*)?)?", spec):
        raise ValueError(f"clusters {spec!r} have a wrong, missing or extra option: write them like wordnet:level=4")
    if twice := [key for key in re.findall("[a-z_]+(?==)", spec) if len(re.findall(f"[:,]{key}=", spec)) > 1]:
        raise ValueError(f"clusters {spec!r} have the option {twice[0]} twice")
    try:
        given = {key: int(value) for key, value in (pair.split("=") for pair in rest.split(",") if pair)}
        if makers is not None:
            inspect.signature(makers[name]).bind(None, 0, **given)
    except (ValueError, TypeError):
        raise ValueError(f"clusters {spec!r} have a wrong, missing or extra option: write them like wordnet:level=4") from None
    return name, given


def _hypernyms(synsets: Sequence[Synset], labels: torch.Tensor, level: int) -> torch.Tensor:
    hierarchy = Hierarchy(synsets)
    hierarchy.at(level)  # refuses a level out of range
    paths = [set(path[: level + 1]) for path in hierarchy.paths]
    names = sorted(set().union(*paths), key=lambda s: s.name())
    return torch.tensor([[name in path for name in names] for path in paths])[labels]


def _needed(images: Images, field: str) -> Any:
    if getattr(images, field) is None:
        raise ValueError(f"clusters from {_NEEDS[field]}, and these images have none")
    return getattr(images, field)


def _best(attributes: torch.Tensor, k: int) -> torch.Tensor:
    return attributes[:, most_informative(attributes, k)]


_NEEDS = {
    "synsets": "WordNet need class names that WordNet knows",
    "attributes": "attributes need annotated images",
    "tags": "tags need images that come with them",
}
_VECTORS = {
    "wordnet": lambda images, seed, level: _hypernyms(_needed(images, "synsets"), images.labels, level),
    "tags": lambda images, seed, level: _hypernyms(*tag_synsets(images), level),
    "attributes": lambda images, seed, k: _best(_needed(images, "attributes"), k),
    "annotators": lambda images, seed, k, noise: _best(annotated(images, noise / 100, seed).attributes, k),
}
_MAKERS = {
    "instances": lambda images, seed: from_instances(len(images)),
    "labels": lambda images, seed: from_labels(images.labels),
    "wordnet": lambda images, seed, level: from_wordnet(_needed(images, "synsets"), images.labels, level),
    "attributes": lambda images, seed, k: from_attributes(_needed(images, "attributes"), k),
    "annotators": lambda images, seed, k, noise: from_attributes(annotated(images, noise / 100, seed).attributes, k),
    "tags": lambda images, seed, level: from_wordnet(*tag_synsets(images), level),
    "merged": lambda images, seed, steps: merged(images.labels, steps, seed),
    "split": lambda images, seed, depth: split(images.labels, depth, seed),
    "permuted": lambda images, seed, depth, classes: permuted(split(images.labels, depth, seed), images.labels, classes, seed),
}
