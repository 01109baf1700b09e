"""Backbones and projection heads: an image → its representation → the projection that the loss sees."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from .augment import evaluation_view
from .data import Images
from .device import autocast, gathered, rank, world


@torch.no_grad()
def features(
    network: Callable, images: Images, where: torch.device = torch.device("cpu"), image_size: int | None = None
) -> torch.Tensor:
    """What a network in evaluation mode makes of the images, not augmented: float32 [N, D] on the device `where`.

    Processes that train together share the work, and all have the result.
    """
    pixels, part = torch.from_numpy(images.images), -(-len(images) // world())
    mine = (torch.arange(part) + rank() * part).clamp(max=len(images) - 1)  # the last may have some twice
    outputs = []
    with autocast(where):
        for indices in mine.split(max(1, 2**19 // pixels[0, ..., 0].numel())):
            aspects = None if images.aspects is None else images.aspects[indices]
            view = evaluation_view(pixels[indices].to(where).permute(0, 3, 1, 2), images.mean, images.std, image_size, aspects)
            outputs.append(network(view).float())
    return gathered(torch.cat(outputs))[: len(images)]


def build(name: str, image_size: int | None = None) -> nn.Module:
    """An encoder by name, float32 [N, 3, S, S] → features [N, encoder.dim], channels last.

    image_size: S, or None for small images. Above 64 pixels a ResNet keeps its usual stem, at most 64 it has a 3×3 one of
    stride 1 and no max-pool. Raises ValueError for an unknown name.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}: choose from {', '.join(ENCODERS)}")
    if image_size is not None and image_size < 8:
        raise ValueError(f"image_size must be at least 8 pixels, got {image_size}")
    return ENCODERS[name](small=image_size is None or image_size <= 64).to(memory_format=torch.channels_last)


def projection_head(dim: int, projection_dim: int) -> nn.Sequential:
    """Linear, ReLU, Linear without batch normalisation, as in the authors' code: [N, dim] → [N, projection_dim]."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, projection_dim))


def three_layer_head(dim: int, projection_dim: int, last_norm: bool) -> nn.Sequential:
    """Linear, batch normalisation, ReLU, twice, and a third linear layer, normalised or not: [N, dim] → [N, projection_dim].

    Without the last normalisation it is the head of the authors' dual-head code.
    """
    hidden = [
        layer for _ in range(2) for layer in (nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(inplace=True))
    ]
    last = [nn.Linear(dim, projection_dim, bias=not last_norm), *([nn.BatchNorm1d(projection_dim)] if last_norm else [])]
    return nn.Sequential(*hidden, *last)


class Tiny(nn.Sequential):
    """Four 3×3 convolutions with batch normalisation and ReLU, a max-pool before all but the first, and the mean: for CPUs.

    The image is halved at once and the channels grow with every further halving, which leaves most of the work to wide
    layers, where a CPU is efficient; pooling before a convolution costs a third less than a convolution of stride 2.
    """

    def __init__(self, small: bool = True, widths: tuple[int, ...] = (64, 128, 256, 384)):
        layers = [_convolution(3, widths[0], stride=2)]
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [nn.MaxPool2d(2), _convolution(inputs, outputs)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dim = widths[-1]


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _resnet(name: str, small: bool) -> nn.Module:
    """A ResNet of torchvision without its classifier; for small images with a 3×3 stem of stride 1 and no max-pool."""
    from torchvision import models  # takes seconds, which `tiny` need not wait for

    model = models.get_model(name)
    model.dim = model.fc.in_features
    model.fc = nn.Identity()
    if small:
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False), nn.Identity()
    return model


ENCODERS = {"tiny": Tiny, "resnet18": partial(_resnet, "resnet18"), "resnet50": partial(_resnet, "resnet50")}
