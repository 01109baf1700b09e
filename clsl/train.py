"""The one training loop, from the first weights to the last checkpoint. It knows no method by name."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from . import Diverged, augment, clusters, device, encoders, information
from .config import Pretraining
from .data import Images, kept
from .methods import METHODS, Method


def fit(config: Pretraining, images: Images, checkpoint: Path, on_step: Callable = lambda done: None) -> tuple[nn.Module, list]:
    """Train a configuration's method on images, on the clusters that it names.

    Returns the encoder and the history: for each epoch loss, lr, seconds, number of clusters, and H(Z), I(Z;T), H(Z|T) in bits.
    From the checkpoint, replaced after every epoch, training goes on to the same numbers. `on_step` is told the steps done. Raises
    ValueError where clusters cannot be made, a batch is too large or the loss not finite, OSError where the disk is full.
    """
    if config.batch_size > len(images):
        raise ValueError(f"batch_size {config.batch_size} is more than the {len(images)} images")
    device.share(config.batch_size)
    where, steps = device.device(), len(images) // config.batch_size
    told, k = tell(config, images)
    method, optimizer = begin(config, k or (int(told.max()) + 1 if told.ndim == 1 else told.shape[1]), where)
    history, grouped = _resume(kept.load(checkpoint, where, dataclasses.asdict(config)), method, optimizer)
    told = grouped if k else told
    pixels, parallel = device.Pixels(images.images, where), device.parallel(method)
    statistics = None if told is None else _statistics(config, told, images.labels)
    on_step(len(history) * steps)
    for epoch in range(len(history), config.epochs):
        start = time.perf_counter()
        method.weigh(epoch, config.epochs)
        if k and method.clusters_anew(epoch, config.epochs):
            told = cluster(config, method, optimizer, images, k, epoch)
            statistics = _statistics(config, told, images.labels)
        method.train()
        generator = torch.Generator(where).manual_seed(1_000_003 * config.seed + epoch)
        sum_of_losses = torch.zeros((), device=where)
        for i, (views, z) in enumerate(augment.batches(config, epoch, pixels, told.to(where), images, generator)):
            lr = learning_rate(config, (epoch + i / steps) / config.epochs)
            sum_of_losses += step(parallel, optimizer, views, z, lr)
            on_step(epoch * steps + i + 1)
        loss = device.total(sum_of_losses).item() / steps / device.world()
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} in epoch {epoch + 1} of {config.method}: lower lr ({config.lr})")
        seconds = time.perf_counter() - start
        history.append({"epoch": epoch + 1, "loss": loss, "lr": lr} | statistics | {"seconds": seconds})
        if device.rank() == 0:
            state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "grouped": told if k else None}
            kept.save(checkpoint, state | {"history": history, "config": dataclasses.asdict(config)})
    return method.encoder, history


def step(method: nn.Module, optimizer: torch.optim.Optimizer, views: torch.Tensor, z: torch.Tensor, lr: float) -> torch.Tensor:
    """One step on the views [2N, 3, S, S] of N images with cluster ids z [N], or attributes [N, A]; the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    with device.autocast(views.device):
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


def tell(config: Pretraining, images: Images) -> tuple[torch.Tensor | None, int | None]:
    """What the method is told of each image, and None: cluster ids z [N], or attributes [N, A] for methods that take attributes.

    Or None, and k: so many clusters, which the training makes by k-means of what the network has learned.
    """
    if k := clusters.kmeans_k(config.clusters, images):
        return None, k
    make = clusters.vectors if METHODS[config.method].attributes else clusters.make
    return make(config.clusters, images, config.seed), None


def begin(config: Pretraining, size: int, where: torch.device) -> tuple[Method, torch.optim.Optimizer]:
    """A method with its first weights, for so many clusters or attributes, and its optimiser."""
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same weights on every device
        torch.manual_seed(config.seed)
        encoder = encoders.build(config.encoder, config.image_size)
        method = device.synchronised(METHODS[config.method].module(encoder, size, config)).to(where)
    trained = [p for p in method.parameters() if p.requires_grad]
    return method, OPTIMIZERS[config.optimizer](trained, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def cluster(config: Pretraining, method: Method, optimizer, images: Images, k: int, epoch: int) -> torch.Tensor:
    """The coming epoch's cluster ids z [N]: k-means of the projections as the network makes them now, from one start."""
    where = next(method.parameters()).device
    method.eval()
    projections = F.normalize(encoders.features(method.project, images, where, config.image_size), dim=1)
    z = torch.empty(len(images), dtype=torch.int64)
    if device.rank() == 0:
        z = clusters.from_kmeans(projections, k, seed=1_000_003 * config.seed + epoch, starts=1)
    z = device.from_first(z.to(where))
    for parameter in method.regroup(projections, z):
        if "momentum_buffer" in optimizer.state[parameter]:
            optimizer.state[parameter]["momentum_buffer"].zero_()
    return z.cpu()


def _statistics(config: Pretraining, told: torch.Tensor, t: torch.Tensor) -> dict[str, float]:
    """How many clusters, or combinations of attributes, there are, their H(Z), I(Z;T) and H(Z|T) in bits, companions in a batch."""
    z = told.unique(dim=0, return_inverse=True)[1]
    order = augment.shuffled(z, config.companions, torch.Generator().manual_seed(0))
    order = order[: len(z) // config.batch_size * config.batch_size]
    batch = torch.arange(len(order)) // config.batch_size
    together = (batch * len(z) + z[order]).unique(return_counts=True)[1].double()
    met = (together**2).sum().item() / len(order) - 1
    z, t = z.numpy(), t.numpy()
    i, h = information.mutual_information(z, t), information.conditional_entropy(z, given=t)
    known = {"num_clusters": int(z.max()) + 1, "h_z": information.entropy(z), "i_zt": i, "h_z_given_t": h}
    return known | {"companions": met}


def _resume(state: dict | None, method: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list, torch.Tensor | None]:
    """The history so far, and the cluster ids that k-means made last."""
    if state is None:
        return [], None
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"], None if state["grouped"] is None else state["grouped"].cpu()


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates (You et al. 2017, algorithm 1): SGD whose step is in proportion to the weights it changes.

    Biases and batch normalisation, of one dimension, are neither scaled nor decayed, as SimCLR's authors do.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, momentum: float, weight_decay: float, trust: float = 1e-3):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self) -> None:
        for group, p in ((group, p) for group in self.param_groups for p in group["params"] if p.grad is not None):
            change = p.grad
            if p.ndim > 1:
                change = change.add(p, alpha=group["weight_decay"])
                a, b = p.norm(), change.norm()
                change = change * torch.where((a > 0) & (b > 0), group["trust"] * a / b, 1.0)
            speed = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            p.sub_(speed.mul_(group["momentum"]).add_(change, alpha=group["lr"]))


OPTIMIZERS = {"sgd": partial(torch.optim.SGD, nesterov=True, fused=True), "lars": LARS}
