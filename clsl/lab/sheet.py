"""What a data set holds: counts against the known ones, what was left out, and a sheet of examples with their clusters."""

import re
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from .. import clusters, data, information, printable, wordnet
from ..data import own
from ..wordnet import Hierarchy
from . import figures


def describe(name: str, spec: str | None = None, image_size: int | None = None) -> str:
    """A data set in a few lines, and where its sheet of examples was drawn, on clusters named as clusters.make reads them.

    Files are packed for views of `image_size` pixels, if they were not yet. Raises what data.load and clusters.make raise.
    """
    images, test = (data.load(name, split, image_size=image_size) for split in ("train", "test"))
    lines = _counts(name, "train", images) + _counts(name, "test", test)
    spec = spec or clusters_of(images)
    z = clusters.make(spec, images)
    i, h = information.mutual_information(z, images.labels), information.conditional_entropy(z, given=images.labels)
    lines.append(
        f"clusters {spec}: {len(z.unique())}, I(Z;T) = {i:.2f} of H(T) = {information.entropy(images.labels):.2f} bits, "
        f"H(Z|T) = {h:.2f} bits; examples: {draw(images, z, name, spec)}"
    )
    return "\n".join(printable(line.replace("\n", " ")) for line in lines)


def _counts(name: str, split: str, images: data.Images) -> list[str]:
    published = data.DATASETS[name.partition(":")[0]]
    known = [field for field in ("synsets", "attributes", "tags", "columns") if getattr(images, field) is not None]
    shape = "×".join(str(n) for n in images.images.shape)
    lines = [f"{name} {split}: {shape} uint8, {len(images.class_names)} classes; also known: {', '.join(known) or 'nothing'}"]
    named = {
        "attributes": images.attribute_names,
        "columns": images.columns,
        "tags that are no nouns of WordNet": [tag for tag in sorted({*(images.tags or ())}) if not wordnet.is_noun(tag)],
    }
    lines += ["  " + textwrap.shorten(f"{what}: {', '.join(names)}", 120, placeholder=" …") for what, names in named.items() if names]
    if published.train:
        expected = {"images": (len(images), getattr(published, split)), "classes": (len(images.class_names), published.classes)}
        expected["attributes"] = len(images.attribute_names or ()), published.attributes
        lines += [f"  {n} {what} instead of {m}" for what, (n, m) in expected.items() if n != m]
    lines += [f"  left out: {reason}" for reason in images.left_out]
    return lines


def clusters_of(images: data.Images) -> str:
    """Clusters that show what is known of the images: of attributes, of a column, of WordNet, or else the labels."""
    if images.attributes is not None:
        useful = images.attributes.any(0) & ~images.attributes.all(0)
        return f"attributes:k={min(3, int(useful.sum()))}" if useful.any() else "labels"
    if images.columns:
        return f"column:{next(iter(images.columns))}"
    if images.synsets:
        levels = Hierarchy(images.synsets).levels()
        return f"wordnet:level={levels[len(levels) // 2]}"
    return "labels"


def draw(images: data.Images, z: torch.Tensor, name: str, spec: str) -> Path:
    """The first images of the eight largest clusters, a cluster a row; saved to figures/data/."""
    figures.style()
    largest = {k: _name(images, z, k, spec) for k in z.bincount().argsort(descending=True)[:8].tolist()}
    figure = figures.sheet(images, z, largest)
    figure.suptitle(f"{name}, {spec}: the largest of {int(z.max()) + 1} clusters", fontsize=10)
    path = figures.folder("data") / f"{re.sub(r'[^a-z0-9]+', '_', f'{name} {spec}'.lower())[-100:]}.png"
    figure.savefig(path)
    plt.close(figure)
    return path


def named(dataset: str, images: data.Images, spec: str) -> tuple[torch.Tensor, list[str]]:
    """Clusters z [N] and the name of each: of a column of a folder's table, -1 for a gap, or as clusters.make reads them."""
    if root := own.root_of(dataset):
        tables = {part: own.described(part, gaps=True).rows for part in own.split_folders(root).values() or [root]}
        rows = pd.concat([rows.set_axis([str(part / name) for name in rows["file_name"]]) for part, rows in tables.items()])
        if (column := spec.removeprefix("column:")) in rows:
            z, words = pd.factorize(rows[column].reindex(images.files), sort=True)
            return torch.from_numpy(z), list(words)
        if ":" not in spec and spec not in clusters._MAKERS:
            raise ValueError(f"no column {spec!r}: the table has {', '.join(rows)}")
    spec = f"column:{spec}" if spec in (images.columns or {}) else spec
    z = clusters.make(spec, images)
    return z, [_name(images, z, k, spec) for k in range(int(z.max()) + 1)]


def _name(images: data.Images, z: torch.Tensor, k: int, spec: str) -> str:
    """What the images of a cluster are: their synset at the level of WordNet, or else their first two classes."""
    classes = images.labels[z == k].unique().tolist()
    if spec.startswith("wordnet:"):
        level = clusters.options(spec)[1]["level"]
        return Hierarchy(images.synsets).at(level)[classes[0]].name().split(".")[0].replace("_", " ")
    return ", ".join(images.class_names[t] for t in classes[:2]) + (" …" if len(classes) > 2 else "")
