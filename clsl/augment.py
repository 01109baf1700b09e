"""Two random views of a whole batch at once, every image with parameters of its own; on the images' device.

The authors' transformations: a random crop resized to the image's size, a horizontal flip, colour jitter, grayscale,
normalisation, no blur. A crop, its resize and its flip are a product of matrices, rows · image · columnsᵀ; brightness,
contrast and saturation are an affine map of the colours. Where this differs from torchvision's per-image pipeline:

- crops begin and end between pixels too, and are resampled in floating point by the triangle filter that both
  libraries call bilinear, which may look at a pixel beyond the crop's border;
- brightness, contrast and saturation come in this order before the hue, not in a random one, and are clipped to
  [0, 1] once, not each on its own;
- grayscale is a saturation of 0, which leaves out what a turn of the hue would have done to the gray.

The laws of all parameters and the hue's turn through HSV are torchvision's.
"""

import math
from collections.abc import Sequence

import torch

SCALE = (0.4, 1.0)  # share of the image's area in a crop
RATIO = (3 / 4, 4 / 3)  # width over height of a crop
FLIP = 0.5  # probabilities
JITTER = 0.8
GRAYSCALE = 0.2
STRENGTH = 0.4  # brightness, contrast and saturation change by up to this factor
HUE = 0.1  # turns
LUMA = (0.299, 0.587, 0.114)
_CHUNK = 128  # images at a time on a CPU: what stays in its cache


def two_views(images: torch.Tensor, mean: Sequence[float], std: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """Two views of each image: uint8 [N, 3, S, S] → float32 [2N, 3, S, S], channels last, first views first."""
    return random_view(images.repeat(2, 1, 1, 1), mean, std, generator)


def random_view(images: torch.Tensor, mean: Sequence[float], std: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """A view of each image: uint8 [n, 3, S, S] → float32 [n, 3, S, S], channels last.

    mean, std: of the normalisation, one a channel, for pixels in [0, 1]. The generator lives on the images' device.
    """
    n, size = len(images), images.shape[-1]
    start, length, flip, colours, hue = _draw(n, size, generator)
    mix, blend = colour_map(*colours)
    out = torch.empty(images.shape, device=images.device, memory_format=torch.channels_last)
    chunk = n if images.is_cuda else _CHUNK
    for i in (slice(first, first + chunk) for first in range(0, n, chunk)):
        x = images[i].float().div_(255)
        x = crop(x, *resampling(start[:, i], length[:, i], flip[:, i], size))
        x = turn_hue(recolour(x, mix[i], blend[i]), hue[i])
        out[i] = normalise_(x, mean, std)
    return out


def evaluation_view(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """The image itself, normalised: uint8 [N, 3, S, S] → float32, channels last.

    The authors resize to the next power of two and crop the centre, which leaves an image of 32 pixels as it is.
    """
    return normalise_(images.float().div_(255), mean, std).contiguous(memory_format=torch.channels_last)


def normalise_(x: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(x - mean) / std by channel, in place."""
    return x.sub_(x.new_tensor(mean)[:, None, None]).div_(x.new_tensor(std)[:, None, None])


def crop(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """rows · x · columnsᵀ for each image and channel: [n, 3, S, S] → [n, 3, S, S]; weights [n, S, S] of `resampling`."""
    x = torch.bmm(x.flatten(1, 2), columns.mT).unflatten(1, x.shape[1:3])
    return rows[:, None] @ x


def resampling(start: torch.Tensor, length: torch.Tensor, flip: torch.Tensor, size: int) -> torch.Tensor:
    """Weights [..., size, size] that take a line of `size` pixels to `size` samples of a part of it, backward to flip.

    start, length: of the part, in pixels [...]; flip: bool [...]. The triangle has a reach of one pixel, since a part of
    the line is never taken to fewer samples than it has pixels.
    """
    step = torch.where(flip, -length, length) / size
    first = torch.where(flip, start + length, start)
    pixels = torch.arange(size, device=start.device) + 0.5
    centres = torch.addcmul(first[..., None], step[..., None], pixels)
    centres.clamp_(0.5, size - 0.5)  # the border goes on beyond itself
    return (pixels - centres[..., None]).abs_().neg_().add_(1).clamp_(min=0)


def colour_map(brightness, contrast, saturation) -> tuple[torch.Tensor, torch.Tensor]:
    """Brightness, then contrast, then saturation, factors [n], as what `recolour` applies: mix [n, 3, 3], blend [n, 3]."""
    luma = brightness.new_tensor(LUMA)
    colours = torch.eye(3, device=luma.device)
    mix = (brightness * contrast)[:, None, None] * torch.lerp(luma.expand(3, 3), colours, saturation[:, None, None])
    return mix, (brightness * (1 - contrast))[:, None] * luma  # contrast blends with the image's mean luma


def recolour(x: torch.Tensor, mix: torch.Tensor, blend: torch.Tensor) -> torch.Tensor:
    """mix · colour + blend · mean colour of each pixel of [n, 3, S, S], clipped to [0, 1]."""
    offset = (x.mean((2, 3)) * blend).sum(1)[:, None, None]
    return torch.baddbmm(offset, mix, x.flatten(2)).clamp_(0, 1).unflatten(2, x.shape[2:])


def turn_hue(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The hue in HSV of RGB [n, 3, S, S] turned by `turns` [n], each less than a sixth of a turn, without leaving RGB.

    Along the hues red goes up and down a trapezoid between the pixel's lowest and highest colour, m and M. Its flanks,
    carried on beyond m and M, are m + M + 2r - (r + g + b), which falls where g > b and rises where b > g; over a sixth
    of a turn they change by M - m. So a turn of t sixths takes red to

        clip(m + M + 2r - (r + g + b) - t (M - m) sign(g - b), m, M)

    and green and blue likewise, each with the two others in the circle's order.
    """
    r, g, b = x.unbind(1)
    highest = torch.maximum(torch.maximum(r, g), b)
    lowest = torch.minimum(torch.minimum(r, g), b)
    turn = (lowest - highest).mul_(6 * turns[:, None, None])
    flank = (lowest + highest).sub_(r).sub_(g).sub_(b)
    out = torch.add(flank[:, None], x, alpha=2)
    for colour, (following, previous) in enumerate(((g, b), (b, r), (r, g))):
        out[:, colour].addcmul_((following - previous).sign_(), turn)
    return torch.clamp(out, lowest[:, None], highest[:, None], out=out)


def _draw(n: int, size: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Start and length in pixels and flip, each [2, n] for rows and columns; brightness, contrast, saturation [3, n]; hue [n]."""
    probabilities = torch.tensor((FLIP, JITTER, GRAYSCALE), device=generator.device)
    flip, jittered, gray = _uniform(0, 1, 3, n, generator) < probabilities[:, None]
    change = _uniform(-1, 1, 4, n, generator) * jittered
    colours, hue = 1 + STRENGTH * change[:3], HUE * change[3]
    colours[2].masked_fill_(gray, 0)
    length = _boxes(n, size, generator)
    start = _uniform(0, 1, 2, n, generator) * (size - length)
    return start, length, torch.stack((torch.zeros_like(flip), flip)), colours, hue


def _boxes(n: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Height and width [2, n] of crops in pixels: the first of ten draws that fits into the image, else the image."""
    area = _uniform(*SCALE, 11, n, generator).log_()
    ratio = _uniform(*map(math.log, RATIO), 11, n, generator)
    area[-1] = ratio[-1] = 0
    first = (ratio.abs() + area <= 0).int().argmax(0, keepdim=True)  # both sides at most 1
    area, ratio = area.gather(0, first), ratio.gather(0, first)
    return torch.cat((area - ratio, area + ratio)).div_(2).exp_().mul_(size)


def _uniform(low: float, high: float, rows: int, n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.empty(rows, n, device=generator.device).uniform_(low, high, generator=generator)
