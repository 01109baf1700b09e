"""One training: its frozen configuration, and the loop, which knows no method by name."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from . import encoders
from .augment import random_view
from .data import Images
from .methods import METHODS

_AHEAD = 1024  # images whose views are made at once


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Everything that decides the numbers of one run. Wrong values raise ValueError at once."""

    dataset: str = "cifar10"
    train_size: int | None = None  # images trained on, drawn once at random; None: all
    test_size: int | None = None  # images tested on, likewise
    encoder: str = "tiny"  # tiny, resnet18, resnet50
    method: str = "simclr"  # a name in methods.METHODS
    clusters: str | None = None  # as clusters.make reads it, "wordnet:level=4"; None: the method's own
    seed: int = 0  # of the weights, the order and the views
    epochs: int = 10
    batch_size: int = 128  # images; the loss sees two views of each; an incomplete last batch is left out
    lr: float = 0.15  # at its highest
    warmup: float = 0.1  # share of all steps in which the learning rate rises from 1e-5, before it falls as a cosine
    momentum: float = 0.9  # of SGD with Nesterov's correction
    weight_decay: float = 1e-4
    temperature: float = 0.3
    base_temperature: float | None = None  # 0.07 for the factor τ/0.07 that the authors' code leaves in
    projection_dim: int = 128
    probe: str = "lbfgs"  # linear evaluation: lbfgs on fixed features, or sgd, the authors' protocol

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(1.0, field.type) and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif not isinstance(value, field.type) or isinstance(value, bool):
                kind = getattr(field.type, "__name__", field.type)
                raise ValueError(f"{field.name} must be {kind}, got {value!r}")
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}: choose from {', '.join(METHODS)}")
        own = METHODS[self.method][1]
        if own is None and self.clusters is None:
            raise ValueError(f"{self.method} needs clusters: name them, for example clusters='wordnet:level=4'")
        if own is not None and self.clusters not in (None, own):
            raise ValueError(f"{self.method} has clusters of its own ({own}), not {self.clusters!r}: use cl_infonce")
        object.__setattr__(self, "clusters", self.clusters or own)
        if self.encoder not in encoders.ENCODERS:
            raise ValueError(f"unknown encoder {self.encoder!r}: choose from {', '.join(encoders.ENCODERS)}")
        if self.probe not in ("lbfgs", "sgd"):
            raise ValueError(f"unknown probe {self.probe!r}: choose lbfgs or sgd")
        for name in ("epochs", "lr", "temperature", "projection_dim"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must be between 0 and 1, got {self.momentum}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 to have something to contrast with, got {self.batch_size}")


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(where: torch.device) -> torch.autocast:
    """bfloat16 where the hardware computes with it."""
    if where.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(where.type, torch.bfloat16, enabled=fast)


def fit(
    config: Pretraining, images: Images, z: torch.Tensor, checkpoint: Path, on_epoch: Callable[[int], None] = lambda epoch: None
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train on images with cluster ids z [N]; returns the encoder and, for each epoch, its loss, lr and seconds.

    The checkpoint is replaced after every epoch; where there is one, training goes on from it to the same numbers,
    for an epoch's order and views depend on nothing but the seed and the epoch. `on_epoch` is told the number of epochs
    done after each.
    Raises ValueError where a batch is larger than the data set, z is not one integer an image, or the loss is not finite.
    """
    if config.batch_size > len(images):
        raise ValueError(f"batch_size {config.batch_size} is more than the {len(images)} images")
    if z.shape != images.labels.shape or z.is_floating_point():
        raise ValueError(f"z must hold {len(images)} integer cluster ids, got {z.dtype} of shape {tuple(z.shape)}")
    where = device()
    method, optimizer = _initial(config, int(z.max()) + 1, where)
    history = _resume(checkpoint, method, optimizer, where)
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).contiguous().to(where)
    z = z.to(where)
    while len(history) < config.epochs:
        history.append(_epoch(config, method, optimizer, pixels, z, images, epoch=len(history)))
        state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        _replace(checkpoint, state)
        on_epoch(len(history))
    return method.encoder, history


def _initial(config: Pretraining, num_clusters: int, where: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same weights on every device
        torch.manual_seed(config.seed)
        method = METHODS[config.method][0](encoders.build(config.encoder), num_clusters, config).to(where)
    optimizer = torch.optim.SGD(
        method.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=True, fused=True
    )
    return method, optimizer


def _epoch(config, method, optimizer, pixels, z, images, epoch: int) -> dict[str, float]:
    start = time.perf_counter()
    generator = torch.Generator(pixels.device).manual_seed(1_000_003 * config.seed + epoch)
    steps = len(z) // config.batch_size
    total = torch.zeros((), device=z.device)
    method.train()
    for i, (views, ids) in enumerate(batches(config, pixels, z, images, generator)):
        lr = learning_rate(config, (epoch + i / steps) / config.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        total += step(method, optimizer, views, ids)
    loss = total.item() / steps
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss} in epoch {epoch + 1} of {config.method}: lower lr ({config.lr})")
    return {"epoch": epoch + 1, "loss": loss, "lr": lr, "seconds": time.perf_counter() - start}


def batches(
    config: Pretraining, pixels: torch.Tensor, z: torch.Tensor, images: Images, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of pixels, uint8 [M, 3, S, S], in random order: views [2N, 3, S, S], first views first, and cluster ids [N].

    The views of several batches are made at once: for one alone, starting the many small operations costs as much as they do.
    """
    size, steps = config.batch_size, len(z) // config.batch_size
    order = torch.randperm(len(z), generator=generator, device=z.device)[: steps * size].view(steps, size)
    for some in order.split(max(1, _AHEAD // size)):
        twice = some[:, None].expand(-1, 2, -1).flatten()
        views = random_view(pixels[twice], images.mean, images.std, generator)
        yield from zip(views.split(2 * size), z[some])


def step(method, optimizer, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """One step on the views [2N, 3, S, S] of images with cluster ids z [N]: loss, gradient, update; the loss."""
    with autocast(views.device):
        loss = method(views, z)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def learning_rate(config: Pretraining, progress: float) -> float:
    """Linear from 1e-5 to lr over the first `warmup` of the progress (0 to 1), then a cosine to lr/1000."""
    if progress < config.warmup:
        return 1e-5 + (config.lr - 1e-5) * progress / config.warmup
    cosine = (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup))) / 2
    return config.lr * (1e-3 + (1 - 1e-3) * cosine)


def _resume(checkpoint: Path, method: nn.Module, optimizer: torch.optim.Optimizer, where: torch.device) -> list[dict]:
    if not checkpoint.exists():
        return []
    state = torch.load(checkpoint, map_location=where, weights_only=True)
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def _replace(path: Path, state: dict) -> None:
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)
