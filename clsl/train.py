"""One training: its frozen configuration, and the loop, which knows no method by name."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from . import augment, distributed, encoders, evaluate, information
from .clusters import KMeans
from .data import Images
from .encoders import autocast, device, precision
from .methods import METHODS, SETTINGS, WMSE, Method
from .pixels import Pixels

_AHEAD = 2**20  # pixels whose views are made at once, in images of 32 pixels 1024


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Everything that decides the numbers of one run. Wrong values raise ValueError at once."""

    dataset: str = "cifar10"
    train_size: int | None = None  # images trained on, drawn once at random; None: all
    test_size: int | None = None  # images tested on, likewise
    image_size: int | None = None  # side of the views in pixels; None: that of the images, 64 where they come from files
    encoder: str = "tiny"  # tiny, resnet18, resnet50
    method: str = "simclr"  # a name in methods.METHODS
    clusters: str | None = None  # as clusters.make reads it, "wordnet:level=4"; None: the method's own
    seed: int = 0  # of the weights, the order, the views, and of clusters drawn at random
    epochs: int = 10
    batch_size: int = 128  # images; the loss sees two views of each; an incomplete last batch is left out
    lr: float | None = None  # at its highest; None: what search.py found for the method
    warmup: float = 0.1  # share of all steps in which the learning rate rises from 1e-5, before it falls as a cosine
    optimizer: str = "sgd"  # with Nesterov's correction, or lars, for large batches
    momentum: float = 0.9  # of either
    weight_decay: float = 1e-4
    temperature: float | None = None  # of the loss; None: likewise
    base_temperature: float | None = None  # 0.07 for the factor τ/0.07 that the authors' code leaves in
    projection_dim: int = 128
    jitter: float = augment.JITTER  # of the views' colours; the authors' dual head: 0.8
    blur: float = 0.0  # probability of a blurred view; the authors' dual head: 0.5
    queue_size: int = 4096  # of MoCo and PCL, in projections; their authors' scripts for small data: 16384
    encoder_momentum: float = 0.99  # of MoCo's, PCL's and BYOL's slow copy; the first two's same scripts: 0.8 or 0.999
    refresh: float = 0.1  # share of the training after which +progressive clusters anew; 1: never
    pseudo_loss: str = "cl_infonce"  # of +progressive, or cross_entropy
    pseudo_rise: str = "steps"  # of its weight, or linear, constant
    pseudo_weight: float = 0.1  # which it reaches
    tested_on: str = "test"  # or held_out: images of the training split that are not trained on, to choose settings by
    probe: str = "lbfgs"  # linear evaluation: lbfgs on fixed features, or one of the authors' protocols, in evaluate.PROBES

    def __post_init__(self):
        self._check_types()
        self._settle()
        self._check_choices()
        self._check_ranges()

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(1.0, field.type) and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif not isinstance(value, field.type) or isinstance(value, bool):
                kind = getattr(field.type, "__name__", field.type)
                raise ValueError(f"{field.name} must be {kind}, got {value!r}")

    def _settle(self) -> None:
        """Put the method's own clusters and settings where none are given."""
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}: choose from {', '.join(METHODS)}")
        own = METHODS[self.method]
        _check_clusters(self.method, self.clusters, own.clusters)
        for name, default in {"clusters": own.clusters, **SETTINGS.get(self.method, {})}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if self.lr is None or self.temperature is None:
            raise ValueError(f"{self.method} has no settings yet: give lr and temperature, or run python -m clsl search")

    def _check_choices(self) -> None:
        choices = {"encoder": encoders.ENCODERS, "optimizer": OPTIMIZERS, "probe": ("lbfgs", *evaluate.PROBES)}
        choices |= {"tested_on": ("test", "held_out"), "pseudo_loss": ("cl_infonce", "cross_entropy")}
        choices |= {"pseudo_rise": ("steps", "linear", "constant")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(known)}")

    def _check_ranges(self) -> None:
        for name in ("epochs", "lr", "temperature", "projection_dim"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("momentum", "encoder_momentum"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 to have something to contrast with, got {self.batch_size}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of the training, between 0 and 1, got {self.warmup}")
        for name in ("jitter", "blur", "pseudo_weight", "refresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.image_size is not None and self.image_size < 8:
            raise ValueError(f"image_size must be at least 8 pixels, got {self.image_size}")
        if self.base_temperature is not None and not self.base_temperature > 0:
            raise ValueError(f"base_temperature must be positive, got {self.base_temperature}")
        if self.method.startswith("w_mse") and self.batch_size <= WMSE.dimensions:
            raise ValueError(
                f"batch_size must be more than the {WMSE.dimensions} dimensions that w_mse whitens, got {self.batch_size}"
            )
        if self.method in ("moco", "pcl") and self.queue_size < self.batch_size:
            raise ValueError(f"queue_size must be at least batch_size ({self.batch_size}), got {self.queue_size}")


def _check_clusters(method: str, clusters: str | None, own: str | None) -> None:
    example = "kmeans:k=250" if own == "kmeans" else "wordnet:level=4"
    if own in (None, "kmeans") and clusters is None:
        raise ValueError(f"{method} needs clusters: name them, for example clusters={example!r}")
    if own == "kmeans" and not clusters.startswith("kmeans"):
        raise ValueError(f"{method} needs clusters made by k-means, for example {example!r}, got {clusters!r}")
    if own not in (None, "kmeans") and clusters not in (None, own):
        raise ValueError(f"{method} has clusters of its own ({own}), not {clusters!r}: use cl_infonce")


def fit(
    config: Pretraining,
    images: Images,
    z: torch.Tensor | KMeans,
    checkpoint: Path,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train on images with cluster ids z [N], attributes z [N, A] for methods that take them, or clusters by k-means.

    Returns the encoder and, for each epoch, its loss, lr and seconds, and how many clusters there were, their H(Z), I(Z;T)
    and H(Z|T) in bits. The checkpoint is replaced after every epoch; where there is one, training goes on from it to the
    same numbers, for an epoch's clusters, order and views depend on nothing but the seed, the epoch and the weights.
    `on_epoch` is told the number of epochs done after each. Processes that torchrun started share every batch; the first writes.
    Raises ValueError where a batch is larger than the data set or cannot be shared, z does not fit it, or the loss is not
    finite, and OSError where the checkpoint cannot be written.
    """
    if config.batch_size > len(images):
        raise ValueError(f"batch_size {config.batch_size} is more than the {len(images)} images")
    _check(z, images, METHODS[config.method].attributes)
    distributed.share(config.batch_size)
    where = device()
    method, optimizer = _initial(config, _size(z), where)
    history, grouped = _resume(checkpoint, method, optimizer, where)
    pixels, parallel = Pixels(images, where), distributed.parallel(method)
    known = grouped if isinstance(z, KMeans) else z
    statistics = None if known is None else _statistics(known, images.labels)
    while len(history) < config.epochs:
        start = time.perf_counter()
        if method.begin(len(history), config.epochs) and isinstance(z, KMeans):
            known, statistics = _grouped(config, method, optimizer, images, z, len(history))
        row = _epoch(config, parallel, optimizer, pixels, known.to(where), images, epoch=len(history))
        history.append(row | statistics | {"seconds": time.perf_counter() - start})
        if distributed.rank() == 0:
            state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
            state["grouped"] = known if isinstance(z, KMeans) else None
            _replace(checkpoint, state)
            on_epoch(len(history))
    return method.encoder, history


def _check(z: torch.Tensor | KMeans, images: Images, attributes: bool) -> None:
    if attributes and (isinstance(z, KMeans) or z.ndim != 2 or len(z) != len(images) or not z.is_floating_point()):
        raise ValueError(f"this method needs attributes, floating, [{len(images)}, A]: clusters.vectors makes them")
    if attributes or isinstance(z, KMeans):
        return
    if z.shape != images.labels.shape or z.is_floating_point():
        raise ValueError(f"z must hold {len(images)} integer cluster ids, got {z.dtype} of shape {tuple(z.shape)}")


def _size(z: torch.Tensor | KMeans) -> int:
    """The number of clusters, or of attributes."""
    if isinstance(z, KMeans):
        return z.k
    return int(z.max()) + 1 if z.ndim == 1 else z.shape[1]


def _grouped(config, method: Method, optimizer, images: Images, kmeans: KMeans, epoch: int) -> tuple[torch.Tensor, dict]:
    """The coming epoch's clusters, made of the network's projections as they are now, and what they know."""
    where = next(method.parameters()).device
    method.eval()
    projections = F.normalize(encoders.features(method.project, images, where, config.image_size), dim=1)
    like = torch.empty(len(images), dtype=torch.int64, device=where)
    z = distributed.from_first(lambda: kmeans(projections, seed=1_000_003 * config.seed + epoch), like).cpu()
    for parameter in method.regroup(projections, z.to(where), progress=(epoch + 0.5) / config.epochs):
        if "momentum_buffer" in optimizer.state[parameter]:
            optimizer.state[parameter]["momentum_buffer"].zero_()
    return z, _statistics(z, images.labels)


def _statistics(z: torch.Tensor, t: torch.Tensor) -> dict[str, float]:
    """How many clusters, or combinations of attributes, there are, and their H(Z), I(Z;T) and H(Z|T) in bits."""
    z, t = z.unique(dim=0, return_inverse=True)[1].numpy(), t.numpy()
    return {
        "num_clusters": int(z.max()) + 1,
        "h_z": information.entropy(z),
        "i_zt": information.mutual_information(z, t),
        "h_z_given_t": information.conditional_entropy(z, given=t),
    }


def _initial(config: Pretraining, size: int, where: torch.device) -> tuple[Method, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU: the same weights on every device
        torch.manual_seed(config.seed)
        encoder = encoders.build(config.encoder, config.image_size)
        method = distributed.synchronised(METHODS[config.method].module(encoder, size, config)).to(where)
    trained = [p for p in method.parameters() if p.requires_grad]
    return method, OPTIMIZERS[config.optimizer](trained, config.lr, config.momentum, config.weight_decay)


def _epoch(config, method, optimizer, pixels, z, images, epoch: int) -> dict[str, float]:
    generator = torch.Generator(pixels.where).manual_seed(1_000_003 * config.seed + epoch)
    steps = len(z) // config.batch_size
    total = torch.zeros((), device=z.device)
    method.train()
    for i, (views, ids) in enumerate(batches(config, pixels, z, images, generator)):
        lr = learning_rate(config, (epoch + i / steps) / config.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        total += step(method, optimizer, views, ids)
    loss = distributed.total(total).item() / steps / distributed.world()
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss} in epoch {epoch + 1} of {config.method}: lower lr ({config.lr})")
    return {"epoch": epoch + 1, "loss": loss, "lr": lr}


def batches(
    config: Pretraining, pixels: Pixels, z: torch.Tensor, images: Images, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch in random order, in this process's share of every batch: views [2n, 3, S, S], first views first, and their z.

    The views of several batches are made at once: for one alone, starting the many small operations costs as much as they do.
    What is random is drawn for the whole batch, so that several processes see together what one would see alone.
    """
    size, steps, where = config.batch_size, len(z) // config.batch_size, z.device
    order = torch.randperm(len(z), generator=generator, device=where)[: steps * size].view(steps, size)
    mine = distributed.share(size)
    some = order.split(max(1, _AHEAD // (size * pixels.side**2)))
    aspects = None if images.aspects is None else images.aspects.to(where)
    for batch, x in zip(some, pixels.each(batch[:, None, mine].expand(-1, 2, -1).flatten() for batch in some)):
        twice = batch[:, None].expand(-1, 2, -1)
        known = None if aspects is None else aspects[twice.flatten()]
        drawn = augment.draw(twice.numel(), generator, known, config.jitter, config.blur)
        if distributed.world() > 1:
            drawn = drawn.of(torch.arange(twice.numel(), device=where).view(twice.shape)[..., mine].flatten())
        views = augment.view(x, images.mean, images.std, drawn, config.image_size, precision(where))
        yield from zip(views.split(len(x) // len(batch)), z[batch[:, mine]])


def step(method, optimizer, views: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """One step on the views [2N, 3, S, S] of N images of which z is known: loss, gradient, update; the loss."""
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


def _resume(checkpoint: Path, method: nn.Module, optimizer: torch.optim.Optimizer, where: torch.device) -> tuple:
    """The history so far, and the clusters that k-means made last."""
    if not checkpoint.exists():
        return [], None
    state = torch.load(checkpoint, map_location=where, weights_only=True)
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"], None if state["grouped"] is None else state["grouped"].cpu()


def _replace(path: Path, state: dict) -> None:
    unfinished = path.with_suffix(".unfinished")
    try:
        torch.save(state, unfinished)
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        unfinished.unlink(missing_ok=True)
        raise OSError(
            f"the checkpoint {path} cannot be written ({str(error).splitlines()[0]}): make room and run again"
        ) from None


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates (You et al. 2017, algorithm 1): SGD whose step is in proportion to the weights it changes.

    Biases and batch normalisation, of one dimension, are neither scaled nor decayed, as SimCLR's authors do.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, momentum: float, weight_decay: float, trust: float = 1e-3
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                change = p.grad
                if p.ndim > 1:
                    change = change.add(p, alpha=group["weight_decay"])
                    a, b = p.norm(), change.norm()
                    change = change * torch.where((a > 0) & (b > 0), group["trust"] * a / b, 1.0)
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                p.sub_(state["momentum_buffer"].mul_(group["momentum"]).add_(change, alpha=group["lr"]))


def _sgd(parameters, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=True, fused=True)


OPTIMIZERS = {"sgd": _sgd, "lars": LARS}
