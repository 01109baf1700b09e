"""What trainings would take, from a few steps measured on this machine; and stand-ins for images that are not at hand."""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import data, device, train, wordnet
from ..config import Pretraining
from ..data import layouts
from . import figures

_FEW = 8  # images of a measured step on a CPU; a batch takes as much longer as it is larger


def note(path: Path, configs: Sequence[Pretraining], missing: Sequence[Pretraining], devices: int) -> None:
    """Add a row for each of some configurations to a file of JSON lines: its size, whether it is still to be trained, its cost."""
    at_hand = {name: data.found(name) for name in dict.fromkeys(config.dataset for config in configs)}
    with open(path, "a") as file:
        for config in configs:
            row = dataclasses.asdict(config) | {"found": at_hand[config.dataset], "to_train": config in missing}
            file.write(json.dumps(row | {"images": size(config), "devices": devices} | cost(config, devices)) + "\n")


def size(config: Pretraining) -> int:
    """How many images are trained on."""
    known = data.DATASETS[config.dataset.partition(":")[0]].train
    return config.train_size or known or (len(data.read(config.dataset, "train")[1]["labels"]) if data.found(config.dataset) else 1000)


def shown(experiment: str, notes: Path) -> str:
    """The trainings that a notebook would ask for, noted as JSON lines, as a table; then their sum in a sentence."""
    rows = pd.read_json(notes, lines=True)
    if rows.empty:
        return f"## {experiment}\n\nnothing to train\n"
    rows["clusters"] = rows["clusters"].fillna("")
    keys = ["dataset", "encoder", "method", "clusters", "images", "epochs", "steps", "batch_size", "devices"]
    table = rows.groupby(keys, sort=False).agg(seeds=("seed", "size"), hours=("hours", "mean"), gigabytes=("gigabytes", "mean"))
    table = table.reset_index().rename(columns={"hours": "hours each", "gigabytes": "GB a device"}).round(2)
    todo = rows[rows["to_train"]]
    sentence = f"{len(todo)} of {len(rows)} trainings to do, about {todo['hours'].sum():.1f} hours on this machine"
    if gone := sorted(rows.loc[~rows["found"], "dataset"].unique()):
        sentence += f"; not at hand, planned with stand-ins: {', '.join(gone)}"
    return f"## {experiment}\n\n{figures.markdown(table)}\n\n{sentence}.\n"


def cost(config: Pretraining, devices: int = 1) -> dict[str, float]:
    """Steps, hours and, for each device, GB of memory of a training with its evaluation; an estimate, nothing is trained."""
    seconds, fixed, each = _measured(config.encoder, config.image_size or 32)
    steps = config.epochs * (size(config) // config.batch_size)
    share = config.batch_size / devices
    hours = (1 + 1 / config.epochs) * steps * share * seconds / 3600  # the evaluation takes about as long as an epoch
    return {"steps": steps, "hours": hours, "gigabytes": (fixed + share * each) / 1e9}


@functools.cache
def _measured(encoder: str, image_size: int) -> tuple[float, float, float]:
    """Of a step: seconds an image, bytes whatever the batch, bytes an image. With both views and SimCLR's loss."""
    where, n = device.device(), _FEW * (16 if torch.cuda.is_available() else 1)
    if encoder == "tiny":
        n *= 16
    config = Pretraining(encoder=encoder, image_size=image_size, batch_size=n)
    method, optimizer = train.begin(config, n, where)
    views = torch.randn(2 * n, 3, image_size, image_size, device=where).contiguous(memory_format=torch.channels_last)
    z = torch.arange(n, device=where)
    kept: dict[int, int] = {}
    hooks = (lambda x: kept.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x, lambda x: x)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        train.step(method, optimizer, views, z, config.lr)
    seconds = min(_seconds(lambda: train.step(method, optimizer, views, z, config.lr), where) for _ in range(2))
    weights = sum(p.numel() * p.element_size() for p in method.parameters())
    return seconds / n, 3 * weights, sum(kept.values()) / n  # weights, gradients, momentum


def _seconds(task, where: torch.device) -> float:
    start = time.perf_counter()
    task()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def stand_in(name: str, split: str) -> data.Images:
    """Black images with what is known of a data set, or as many of the same kind where the data set is not at hand."""
    if data.found(name):
        return black(data.read(name, split)[1])
    kind = name.partition(":")[0]
    known, generator = data.DATASETS[kind], torch.Generator().manual_seed(0)
    n, classes = (known.train if split == "train" else known.test) or 1000, known.classes or 10
    fields = {"labels": torch.arange(n) % classes, "class_names": tuple(map(str, range(classes)))}
    if known.attributes:
        fields["attributes"] = torch.rand(n, known.attributes, generator=generator) < 0.4
        fields["attribute_names"] = tuple(f"attribute {i}" for i in range(known.attributes))
    if kind in ("cifar100", "imagenet100"):  # others have more classes than there are names at hand
        fields["synsets"] = synsets = tuple(wordnet.synset(wnid) for wnid in layouts.imagenet100_wnids())
        fields["tags"] = tuple(synsets[t].lemma_names()[0] for t in fields["labels"].tolist())
        fields["columns"] = {"superclass": fields["labels"] // 5}
    return black(fields)


def black(known: dict[str, Any]) -> data.Images:
    """Black images, of which is known what data.read tells."""
    pixels = np.broadcast_to(np.uint8(0), (len(known["labels"]), 32, 32, 3))
    return data.Images(images=pixels, **{"mean": (0.5,) * 3, "std": (0.25,) * 3} | known)
