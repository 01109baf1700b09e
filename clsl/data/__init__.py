"""Data sets by name: a split's images, labels and auxiliary information, from the cache, a folder or a registry."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from nltk.corpus.reader.wordnet import Synset

from . import cifar, downloads, layouts, packing

DATASETS = cifar.DATASETS | layouts.DATASETS
_SIDE = 64  # pixels at which files are packed where no size of views is asked for


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a split and all that is known about each; None where the source does not tell."""

    images: np.ndarray  # uint8 [N, S, S, 3], memory-mapped where all of a split is asked for
    labels: torch.Tensor  # int64 [N], the downstream label T
    class_names: tuple[str, ...]  # one a class
    mean: tuple[float, float, float]  # of the training pixels in [0, 1], by channel
    std: tuple[float, float, float]
    synsets: tuple[Synset, ...] | None = None  # one a class
    attributes: torch.Tensor | None = None  # bool [N, A]
    attribute_names: tuple[str, ...] | None = None  # one an attribute
    tags: tuple[str, ...] | None = None  # one an image: the noun it was searched by, or words of its own
    columns: Mapping[str, torch.Tensor] | None = None  # name → int64 [N]: clusters that come with the images
    files: tuple[str, ...] | None = None  # one an image, where it comes from a file
    aspects: torch.Tensor | None = None  # float32 [N], width over height before the image was squeezed into a square
    left_out: tuple[str, ...] = ()  # files and rows that were left out, and why

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: torch.Tensor) -> "Images":
        """The images at int64 indices [n], copied into memory, with what is known of them."""
        return dataclasses.replace(self, images=self.images[indices.numpy()], **layouts.selected(vars(self), indices))


def load(name: str, split: str, size: int | None = None, image_size: int | None = None) -> Images:
    """A split ("train" or "test") of a data set, or `size` of its images drawn once and for all at random.

    The split "held_out" is the images of "train" that are drawn last: to choose settings by, next to a train of smaller
    size. CIFAR is looked for in the cache ($CLSL_DATA, else the user's cache folder), at the official source, and in the
    registries; data sets of files in the cache's folder of their name, or in the one behind a colon, "folder:/my/photographs".
    Their images are packed once (packing.py) for views of `image_size` pixels: at the next power of two, as the authors
    resize them to crop the centre, or at 64 pixels where it is None.

    Raises ValueError for an unknown name, split or size, OSError where something is missing or cannot be stored.
    """
    if split not in ("train", "held_out", "test"):
        raise ValueError(f"unknown split {split!r}: choose train, held_out or test")
    images = _whole(name, "test" if split == "test" else "train", packed_side(image_size))
    if image_size is not None and not 8 <= image_size <= 4096:
        raise ValueError(f"image_size must be between 8 and 4096, got {image_size}")
    if size is None and split != "held_out":
        return images
    if size is None or not 0 < size <= len(images):
        raise ValueError(f"size {size} is out of range: {name} {split} has {len(images)} images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[-size:] if split == "held_out" else order[:size])


def _whole(name: str, split: str, side: int) -> Images:
    found, known = read(name, split)
    if isinstance(found, np.ndarray):
        return Images(images=found, **known)
    pixels, aspects, kept, left_out = packing.pack(f"{name.partition(':')[0]}-{split}", found, side)
    if "mean" not in known:
        training = pixels if split == "train" else _whole(name, "train", side).images
        sample = torch.from_numpy(training[:: -(-len(training) // 1000)]) / 255
        known["std"], known["mean"] = (tuple(moment.tolist()) for moment in torch.std_mean(sample, (0, 1, 2)))
        if 0 in known["std"]:
            raise ValueError(f"the images of {name} have the same value of a colour everywhere: there is nothing to normalise by")
    known["files"], left_out = tuple(map(str, found)), (*known.pop("left_out", ()), *left_out)
    return Images(images=pixels, aspects=aspects, left_out=left_out, **known | layouts.selected(known, kept))


def check_name(name: str) -> None:
    """Raise ValueError where there is no data set of that name."""
    kind, colon, given = name.partition(":")
    if kind not in DATASETS:
        own = f"; folder:{name} if it is a folder of your own" if "/" in name else ""
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}{own}")
    if colon and kind in cifar.DATASETS:
        raise ValueError(f"{kind} has no folder of its own, got {name!r}: say {kind}, and set CLSL_DATA to where it is to be kept")
    if given.startswith("~") and os.path.expanduser(given) == given:
        raise ValueError(f"{name!r} begins with the home of somebody who has none here: write the whole path")
    if colon and not given.strip():
        raise ValueError(f"{name!r} names no folder: write it like {kind}:/path/to/it, or {kind} alone for the one in the cache")


def read(name: str, split: str) -> tuple[np.ndarray | list[Path], dict]:
    """A split's pixels, uint8 [N, S, S, 3], or its files, none of them opened; and the fields of Images that are known of them.

    Raises ValueError for an unknown name, OSError where the folder, or a part of it, is not there.
    """
    check_name(name)
    kind, _, given = name.partition(":")
    if kind not in DATASETS or given and kind in cifar.DATASETS:
        own = f"; folder:{name} if it is a folder of your own" if "/" in name else ""
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}{own}")
    folder = Path(given).expanduser() if given else downloads.cache() / kind
    if kind in layouts.DATASETS and not folder.is_dir():
        get = "" if given else f": put it there ({DATASETS[kind].source}), or name its folder, {kind}:/path/to/it"
        raise OSError(f"{kind} is looked for in {folder}, which is not there{get}")
    return DATASETS[kind].read(folder, split)


def found(name: str) -> bool:
    """Whether a data set's images are at hand, without fetching them."""
    try:
        return (downloads.cache() / name).exists() if name in cifar.DATASETS else bool(read(name, "train")[0])
    except OSError:
        return False


def packed_side(image_size: int | None) -> int:
    """The side in pixels of the squares that files are packed to, for views of `image_size` pixels."""
    return _SIDE if image_size is None else 1 << (image_size - 1).bit_length()
