"""Folders of images as their makers distribute them → the files of a split and what is known of each.

A layout is called with the folder and "train" or "test"; it returns the paths and the fields of Images, all but the pixels.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.io import loadmat

from .. import wordnet
from .own import drawn, files, folder, selected  # noqa: F401

Known = tuple[list[Path], dict[str, Any]]

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def imagenet(root: Path, split: str) -> Known:
    """ILSVRC-2012: `train/<wnid>/`, and `val/` sorted by wnid or flat with its ground truth; the classes are train's folders."""
    _need(root, "train")
    return _imagenet(root, split, sorted(path.name for path in (root / "train").iterdir() if path.is_dir()))


def imagenet100(root: Path, split: str) -> Known:
    """The authors' hundred classes of ILSVRC-2012, read like imagenet."""
    return _imagenet(root, split, imagenet100_wnids())


def _imagenet(root: Path, split: str, wnids: Sequence[str]) -> Known:
    found = _by_wnid(root / "train", wnids) if split == "train" else _validation(root, wnids)
    return _listed(found, **_named_by_wnid(wnids))


def tinyimagenet(root: Path, split: str) -> Known:
    """tiny-imagenet-200: `wnids.txt`, `train/<wnid>/images/`, and `val/images/` described by `val/val_annotations.txt`."""
    root = _inside(root, "tiny-imagenet-200")
    _need(root, "wnids.txt", "train", "val/val_annotations.txt")
    wnids = sorted((root / "wnids.txt").read_text().split())
    if split == "train":
        found = _by_wnid(root / "train", wnids)
    else:
        rows = (line.split()[:2] for line in (root / "val" / "val_annotations.txt").read_text().splitlines())
        found = [(root / "val" / "images" / name, wnids.index(wnid)) for name, wnid in rows]
    return _listed(found, **_named_by_wnid(wnids))


def _named_by_wnid(wnids: Sequence[str]) -> dict[str, Any]:
    synsets = tuple(wordnet.synset(wnid) for wnid in wnids)
    return {"class_names": tuple(s.lemma_names()[0].replace("_", " ") for s in synsets), "synsets": synsets, **_IMAGENET}


def imagenet100_wnids() -> list[str]:
    """The hundred classes that paper A's authors drew, from their public data files."""
    return Path(__file__).with_name("imagenet100_wnids.txt").read_text().split()


def _by_wnid(root: Path, wnids: Sequence[str]) -> list[tuple[Path, int]]:
    _need(root, *wnids)
    return [(path, i) for i, wnid in enumerate(wnids) for path in files(root / wnid)]


def _validation(root: Path, wnids: Sequence[str]) -> list[tuple[Path, int]]:
    _need(root, "val")
    if (root / "val" / wnids[0]).is_dir():
        return _by_wnid(root / "val", wnids)
    index = {wnid: i for i, wnid in enumerate(wnids)}
    truth = _ground_truth(root)
    return [(path, index[truth[path.stem]]) for path in files(root / "val") if truth.get(path.stem) in index]


def _ground_truth(root: Path) -> dict[str, str]:
    """Name → wnid of the flat validation images: from Kaggle's LOC_val_solution.csv, or from the development kit."""
    if kaggle := next(root.rglob("LOC_val_solution.csv"), None):
        return pd.read_csv(kaggle, index_col="ImageId")["PredictionString"].str.split().str[0].to_dict()
    ids, meta = (next(root.rglob(name), None) for name in ("ILSVRC2012_validation_ground_truth.txt", "meta.mat"))
    if not (ids and meta):
        raise OSError(f"{root} has a flat val/ without its ground truth: put ILSVRC2012_devkit_t12 there, or LOC_val_solution.csv")
    synsets = loadmat(meta, squeeze_me=True)["synsets"]
    wnids = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist()))
    return {f"ILSVRC2012_val_{i:08d}": wnids[int(line)] for i, line in enumerate(ids.read_text().split(), 1)}


def cub200(root: Path, split: str) -> Known:
    """CUB_200_2011: 200 birds, 312 attributes that annotators ticked for each image."""
    root = _inside(root, "CUB_200_2011")
    files = ["images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images"]
    _need(root, *files, "attributes/image_attribute_labels.txt")
    path, label, train = (_pairs(root / name) for name in files[:3])
    names = tuple(name.partition(".")[2].replace("_", " ") for name in _pairs(root / "classes.txt").values())
    # Some lines carry a field too many or two; the first three, image, attribute, present, are always right.
    columns = {"sep": " ", "header": None, "names": range(7), "usecols": [0, 1, 2]}
    table = pd.read_csv(root / "attributes" / "image_attribute_labels.txt", **columns)
    table = table.pivot(index=0, columns=1, values=2)
    mine = [i for i in path if (train[i] == "1") == (split == "train")]
    listed = next((p for p in (root / "attributes" / "attributes.txt", root.parent / "attributes.txt") if p.exists()), None)
    return [root / "images" / path[i] for i in mine], {
        "labels": torch.tensor([int(label[i]) - 1 for i in mine]),
        "class_names": names,
        "attributes": torch.from_numpy(table.loc[[int(i) for i in mine]].to_numpy() == 1),
        "attribute_names": tuple(_pairs(listed).values()) if listed else tuple(f"attribute {i}" for i in table.columns),
        "mean": (0.4863, 0.4999, 0.4312),
        "std": (0.2070, 0.2018, 0.2428),
    }


def utzappos50k(root: Path, split: str) -> Known:
    """UT-Zappos50K: shoes in 21 sub-categories, binary attributes of their description; those that are the label left out."""
    _need(root, "ut-zap50k-images-square")
    table = next(root.rglob("meta-data-bin.csv"), None)
    if table is None:
        raise OSError(f"{root} lacks meta-data-bin.csv: unpack ut-zap50k-data.zip there")
    table = pd.read_csv(table, index_col=0)
    table = table.loc[:, ~table.columns.str.match(r"(Sub)?Category\.")].astype(bool)
    images = root / "ut-zap50k-images-square"
    at = {path.relative_to(images).as_posix(): path for path in files(images)}
    names = sorted({"/".join(name.split("/")[:2]) for name in at})
    known = {name: Path(name).stem.replace(".", "-", 1) for name in at}  # 100627.72.jpg is the row 100627-72
    mine = [name for name in _split_by(root, split, sorted(at), 0.7) if known[name] in table.index]
    return [at[name] for name in mine], {
        "labels": torch.tensor([names.index("/".join(name.split("/")[:2])) for name in mine]),
        "class_names": tuple(names),
        "attributes": torch.from_numpy(table.loc[[known[name] for name in mine]].to_numpy()),
        "attribute_names": tuple(table.columns),
        "mean": (0.8342, 0.8142, 0.8081),
        "std": (0.2804, 0.3014, 0.3072),
    }


def wider(root: Path, split: str) -> Known:
    """WIDER Attribute: 30 events; an image has one of the 14 attributes if one of its people has it."""
    name = f"wider_attribute_{'trainval' if split == 'train' else 'test'}.json"
    listed = next(root.rglob(name), None)
    if listed is None:
        raise OSError(f"{root} lacks {name}: unpack wider_attribute_annotation.zip there")
    listed = json.loads(listed.read_text())
    images = next((path for path in (root / "Image", root) if (path / split).is_dir()), None)
    if images is None:
        raise OSError(f"{root} lacks Image/{split}: unpack the images of WIDER Attribute there")
    scenes, attributes = (_by_number(listed[key]) for key in ("scene_id_map", "attribute_id_map"))
    people = [[person["attribute"] for person in image["targets"]] or [[-1] * len(attributes)] for image in listed["images"]]
    return [images / image["file_name"] for image in listed["images"]], {
        "labels": torch.tensor([list(scenes).index(int(image["scene_id"])) for image in listed["images"]]),
        "class_names": tuple(scenes.values()),
        "attributes": torch.tensor([(np.array(each) == 1).any(0).tolist() for each in people]),
        "attribute_names": tuple(attributes.values()),
        "mean": (0.4772, 0.4405, 0.4100),
        "std": (0.2960, 0.2876, 0.2935),
    }


def metadata(root: Path, split: str) -> Known:
    """The authors' own CSV, …meta_data_<split>.csv: `path`, `class`, and `label_gran_k` columns of ready-made clusters."""
    table = _authors_csv(root, split)
    if table is None:
        raise OSError(f"{root} has no file whose name ends in meta_data_{split}.csv: put the authors' there, with its images")
    classes = sorted(pd.concat([t["class"] for s in ("train", "test") if (t := _authors_csv(root, s)) is not None]).unique())
    under = root / "images" if (root / "images").is_dir() else root
    columns = [name for name in table if str(name).startswith("label_gran_")]
    return [under / path for path in table["path"]], {
        "labels": torch.tensor([classes.index(c) for c in table["class"]]),
        "class_names": tuple(map(str, classes)),
        "columns": {name: torch.tensor(table[name].to_numpy(np.int64)) for name in columns},
    }


def _listed(found: Sequence[tuple[Path, int]], **known) -> Known:
    return [path for path, _ in found], {"labels": torch.tensor([label for _, label in found], dtype=torch.int64), **known}


def _authors_csv(root: Path, split: str) -> pd.DataFrame | None:
    path = next(iter(sorted(root.glob(f"*meta_data_{split}.csv"))), None)
    if path is None:
        return None
    table = pd.read_csv(path, index_col=0)
    if missing := {"path", "class"} - set(table):
        raise OSError(f"{path} lacks the column {min(missing)}: it has {', '.join(map(str, table))}")
    return table[table.index != -1]  # the last row counts the clusters


def _split_by(root: Path, split: str, names: Sequence[str], share: float) -> list[str]:
    """The names in the authors' metadata of a split if they are there, else a share of them drawn once and for all."""
    if (table := _authors_csv(root, split)) is not None:
        known = set(names)
        return [name for name in table["path"] if name in known]
    return drawn(names, split, share)


def _inside(root: Path, name: str) -> Path:
    return root / name if (root / name).is_dir() else root


def _need(root: Path, *names: str) -> None:
    if missing := [name for name in names if not (root / name).exists()]:
        raise OSError(f"{root} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))


def _pairs(path: Path) -> dict[str, str]:
    """Lines of a number and a text."""
    return dict(line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip())


def _by_number(names: dict[str, str]) -> dict[int, str]:
    return {int(number): names[number] for number in sorted(names, key=int)}


class Dataset(NamedTuple):
    """How a data set's folder is read, where it comes from, and how much it is known to hold (None: whatever there is)."""

    read: Callable[[Path, str], tuple[Any, dict[str, Any]]]
    source: str
    train: int | None = None
    test: int | None = None
    classes: int | None = None
    attributes: int = 0


_ILSVRC = "train/ and val/ of ILSVRC-2012, https://image-net.org, after registration"
DATASETS = {
    "imagenet": Dataset(imagenet, _ILSVRC, 1_281_167, 50_000, 1000),
    "imagenet100": Dataset(imagenet100, _ILSVRC, 128_000, 5_000, 100),  # about 1280 images a class to train on
    "tinyimagenet": Dataset(
        tinyimagenet, "tiny-imagenet-200.zip, http://cs231n.stanford.edu/tiny-imagenet-200.zip", 100_000, 10_000, 200
    ),
    "cub200": Dataset(cub200, "CUB_200_2011.tgz, https://data.caltech.edu/records/65de6-vp158", 5_994, 5_794, 200, 312),
    "utzappos50k": Dataset(
        utzappos50k,
        "ut-zap50k-images-square.zip and ut-zap50k-data.zip, https://vision.cs.utexas.edu/projects/finegrained/utzap50k",
        *(35_017, 15_008, 21, 126),
    ),
    "wider": Dataset(
        wider, "images and annotations, http://mmlab.ie.cuhk.edu.hk/projects/WIDERAttribute.html", 6_871, 6_918, 30, 14
    ),
    "metadata": Dataset(metadata, "the authors' …meta_data_train.csv and …meta_data_test.csv, with their images"),
    "folder": Dataset(folder, "your own images, a folder a class"),
}
