"""Which clusters one's images could have, and what a few labels tell of each: all that is known before a law says a word."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import clusters, data, information, wordnet
from ..config import Pretraining
from ..data import own, spreadsheet
from . import estimates, plan


def described(dataset: str) -> data.Images:
    """What is known of the images to train on, each of them black: advice needs no pixels, and so nothing is decoded.

    Of a folder also the images without a label, whose label is -1. Raises what data.read raises.
    """
    data.check_name(dataset)
    if (root := own.root_of(dataset)) is None:
        return plan.black(data.read(dataset, "train")[1])
    paths, known = own.with_gaps(root)
    return plan.black(known | {"files": tuple(map(str, paths))})


def of(images: data.Images, of_classes: bool = False, leave_out: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """Every clustering of these images that clusters.make has a name for: name → z [N]; of equal ones the first.

    Columns and pairs of columns, but for what is made of those to leave_out; tags at each level of WordNet that changes
    something; the k attributes of highest entropy for k = 1, 2, 4, …; with of_classes also the levels above the classes, which
    take every image's label. Not those that put all images together, or more than half of them alone.
    """
    made_of = {name: {name, re.sub(r" \((year|month|quarters)\)$", "", name), *name.split(" and ")} for name in images.columns or ()}
    names = [f"column:{name}" for name, parts in made_of.items() if not parts & {*leave_out}]
    words = None if images.tags is None else np.unique(images.tags, return_inverse=True)[1]
    if words is not None and all(information.conditional_entropy(words, given=images.columns[name]) > 0 for name in leave_out):
        names += [f"tags:level={level}" for level in wordnet.Hierarchy(clusters.tag_synsets(images)[0]).levels()]
    if images.attributes is not None:
        useful = int((images.attributes.any(0) & ~images.attributes.all(0)).sum())
        names += [f"attributes:k={2**i}" for i in range(useful.bit_length())]
    if of_classes and images.synsets is not None:
        names += [f"wordnet:level={level}" for level in wordnet.Hierarchy(images.synsets).levels()]
    found, seen = {}, set()
    for name in names:
        z = clusters.make(name, images)
        same = np.unique(z, return_index=True)[1][z].tobytes()  # each image's first companion, whatever the ids
        if len(z.unique()) > 1 and 2 * (z.bincount() == 1).sum() <= len(images) and same not in seen:
            seen.add(same)
            found[name] = z
    return found


def labels(images: data.Images, column: str | None = None, labelled: int | None = None) -> np.ndarray:
    """The labels of the images, int64 [N], -1 where unknown: their own, or a column's, or those of a CSV file that `ask` wrote.

    labelled: only so many, drawn once and for all at random. Raises ValueError for an unknown column, or too few labels.
    """
    if column is not None and column.lower().endswith(".csv"):
        t = _answers(images, Path(column))
    elif column is not None and column not in (images.columns or {}):
        there = ", ".join(images.columns or {}) or "none"
        raise ValueError(f"no column {column!r} of three or more words to take labels from: these images have {there}")
    else:
        t = (images.labels if column is None else images.columns[column]).numpy().copy()
    known = np.flatnonzero(t >= 0)
    if labelled is not None:
        if not 2 <= labelled <= len(known):
            raise ValueError(f"labelled must be between 2 and the {len(known)} images that have a label, got {labelled}")
        t[np.random.default_rng(0).permutation(known)[labelled:]] = -1
    return t


def ask(images: data.Images, labelled: int, path: Path) -> str:
    """Write a CSV file of images drawn at random, for somebody to fill in their labels; those that are known stand there.

    Raises ValueError where there are fewer images, OSError where the file is there already.
    """
    if not 2 <= labelled <= len(images):
        raise ValueError(f"labelled must be between 2 and the {len(images)} images to train on, got {labelled}")
    if path.exists():
        raise OSError(f"{path} is there already, and may be filled in: say --labels {path}, or move it away")
    chosen = np.random.default_rng(0).permutation(len(images))[:labelled]
    words = [images.class_names[t] if t >= 0 else "" for t in images.labels[chosen].tolist()]
    pd.DataFrame({"file_name": [images.files[i] for i in chosen], "label": words}).to_csv(path, index=False)
    return f"{path} has {labelled} images, drawn at random: fill in the column label, then say --labels {path}"


def _answers(images: data.Images, path: Path) -> np.ndarray:
    """The labels in a file that `ask` wrote, int64 [N], -1 for a gap and for images that the file does not name."""
    told, there = {}, own.by_name([*map(os.path.abspath, images.files or ())])
    for line, row in spreadsheet.rows(path, ("file_name", "label")):
        spelled = own.spellings(os.path.abspath((row["file_name"] or "").replace("\\", "/")))
        name = next((there[each] for each in spelled if there.get(each)), None)
        if name is None:
            raise ValueError(f"{path}, line {line}: {row['file_name']} is none of the images to train on")
        if told.setdefault(name, row["label"]) != row["label"]:
            raise ValueError(f"{path}, line {line}: {row['file_name']} has two labels, {told[name]!r} and {row['label']!r}")
    if not any(told.values()):
        raise ValueError(f"{path} has no label yet: fill in its column label")
    return pd.factorize(pd.Series([told.get(os.path.abspath(name)) for name in images.files], dtype=object), sort=True)[0].astype(np.int64)


def known(found: dict[str, torch.Tensor], t: np.ndarray, dataset: str, training: Mapping[str, Any]) -> pd.DataFrame:
    """What the candidates know of the labels t [N], -1 where unknown, in bits, and companions in a batch; a row each.

    The batch is the one that was found best for Cl-InfoNCE on clusters of that kind, if there are as many images.
    """
    h_t, rows = estimates.class_entropy(t), {}
    for name, z in found.items():
        n, bits = z.bincount().double(), estimates.estimated(z.numpy(), t)
        batch = min(Pretraining(dataset=dataset, method="cl_infonce", clusters=name, **training).batch_size, len(z))
        companions = float((batch - 1) * (n * (n - 1)).sum() / (len(z) * (len(z) - 1)))
        rows[name] = {"num_clusters": len(n), "batch_size": batch, "companions": companions, "h_z": bits.h_z}
        for column, estimate in (("i_zt", bits.i_zt), ("h_z_given_t", bits.h_z_given_t)):
            rows[name] |= {column: estimate.value, f"{column}_low": estimate.low, f"{column}_high": estimate.high}
    table = pd.DataFrame(rows.values(), pd.Index(rows, name="clusters"))
    return table.assign(**{name: table[name].clip(upper=h_t) for name in table if name.startswith("i_zt")}, h_t=h_t, images=len(t))
