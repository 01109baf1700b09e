"""What trainings would take, from a few steps measured on this machine: for `reproduce --dry-run`."""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from . import data, encoders, train
from .train import Pretraining

_FEW = 8  # images of a measured step on a CPU; a batch takes as much longer as it is larger


def note(path: Path, configs: Sequence[Pretraining], missing: Sequence[Pretraining], devices: int) -> None:
    """Add a row for each of some configurations to a file of JSON lines: its size, whether it is still to be trained, its cost."""
    names = dict.fromkeys(config.dataset for config in configs)
    found, whole = {name: data.found(name) for name in names}, {name: len(data.load(name, "train")) for name in names}
    with open(path, "a") as file:
        for config in configs:
            images = config.train_size or whole[config.dataset]
            row = dataclasses.asdict(config) | {"found": found[config.dataset], "to_train": config in missing}
            file.write(json.dumps(row | {"images": images, "devices": devices} | cost(config, images, devices)) + "\n")


def cost(config: Pretraining, images: int, devices: int) -> dict[str, float]:
    """Steps, hours and, for each device, GB of memory of a training without its evaluation; an estimate, nothing is trained."""
    seconds, fixed, each = _measured(config.encoder, config.image_size or 32)
    steps = config.epochs * (images // config.batch_size)
    share = config.batch_size / devices
    return {"steps": steps, "hours": steps * share * seconds / 3600, "gigabytes": (fixed + share * each) / 1e9}


@functools.cache
def _measured(encoder: str, image_size: int) -> tuple[float, float, float]:
    """Of a step: seconds an image, bytes whatever the batch, bytes an image. With both views and SimCLR's loss."""
    where, n = encoders.device(), _FEW * (16 if torch.cuda.is_available() else 1)
    config = Pretraining(encoder=encoder, image_size=image_size, batch_size=n)
    method, optimizer = train._initial(config, n, where)
    views = torch.randn(2 * n, 3, image_size, image_size, device=where).contiguous(memory_format=torch.channels_last)
    z = torch.arange(n, device=where)
    kept: dict[int, int] = {}
    hooks = (lambda x: kept.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x, lambda x: x)
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        train.step(method, optimizer, views, z)
    seconds = min(_seconds(lambda: train.step(method, optimizer, views, z), where) for _ in range(2))
    weights = sum(p.numel() * p.element_size() for p in method.parameters())
    return seconds / n, 3 * weights, sum(kept.values()) / n  # weights, gradients, momentum


def _seconds(task, where: torch.device) -> float:
    start = time.perf_counter()
    task()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def asked() -> Path | None:
    """The file to note trainings in, where only the plan is wanted ($CLSL_DRY_RUN)."""
    path = os.environ.get("CLSL_DRY_RUN")
    return Path(path) if path else None
