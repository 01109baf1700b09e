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
_CHUNK = 64  # images at a time on a CPU: what stays in its cache


def two_views(images: torch.Tensor, mean: Sequence[float], std: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """Two views of each image: uint8 [N, 3, S, S] → float32 [2N, 3, S, S], channels last, first views first."""
    return random_view(images.repeat(2, 1, 1, 1), mean, std, generator)


def random_view(images: torch.Tensor, mean: Sequence[float], std: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """A view of each image: uint8 [n, 3, S, S] → float32 [n, 3, S, S], channels last.

    mean, std: of the normalisation, one a channel, for pixels in [0, 1]. The generator lives on the images' device.
    """
    n, size = len(images), images.shape[-1]
    top, height, left, width, flip, brightness, contrast, saturation, hue = _draw(n, size, generator)
    rows = resampling(top, height, torch.zeros_like(flip), size)
    columns = resampling(left, width, flip, size)
    mix, blend = colour_map(brightness, contrast, saturation)
    out = torch.empty(images.shape, device=images.device, memory_format=torch.channels_last)
    chunk = n if images.is_cuda else _CHUNK
    for i in (slice(start, start + chunk) for start in range(0, n, chunk)):
        x = crop(images[i].float().div_(255), rows[i], columns[i])
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
    """Weights [n, size, size] that take a line of `size` pixels to `size` samples of a part of it, backward to flip.

    start, length: of the part, in pixels [n]; flip: bool [n]. The triangle has a reach of one pixel, since a part of the
    line is never taken to fewer samples than it has pixels.
    """
    step = torch.where(flip, -length, length) / size
    first = torch.where(flip, start + length, start)
    pixels = torch.arange(size, device=start.device) + 0.5
    centres = torch.addcmul(first[:, None], step[:, None], pixels).clamp_(0.5, size - 0.5)  # the border goes on beyond itself
    return (pixels - centres[:, :, None]).abs_().neg_().add_(1).clamp_(min=0)


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
    """RGB [n, 3, S, S] → HSV, the hue turned by `turns` [n], → RGB, without leaving RGB's planes.

    Value v and chroma c stay. With the hue h in sixths of a turn, red is v - c·clip(2 - |h - 3|), green v - c + c·clip(2 -
    |h - 2|) and blue v - c + c·clip(2 - |h - 4|), each clipped to [0, 1].
    """
    r, g, b = x.unbind(1)
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    # lerp with a weight of 0 or 1 chooses as where does, and several times faster on a CPU
    hue = torch.lerp((r - g).add_(chroma, alpha=4), (b - r).add_(chroma, alpha=2), value.clone().eq_(g))
    hue = torch.lerp(hue, g - b, value.clone().eq_(r)).div_(chroma.clamp(min=1e-6))
    hue = hue.div_(6).add_(1 + turns[:, None, None]).frac_().mul_(6)
    # clip(2 - d) = 2 - clip(d, 1, 2), so one clip of the distance d serves all three
    distance = (hue[:, None] - x.new_tensor((3.0, 2.0, 4.0))[:, None, None]).abs_().clamp_(1, 2)
    out = torch.empty_like(x)
    torch.addcmul(value - 2 * chroma, chroma, distance[:, 0], out=out[:, 0])
    torch.addcmul((value + chroma)[:, None], chroma[:, None], distance[:, 1:], value=-1, out=out[:, 1:])
    return out


def _draw(n: int, size: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """top, height, left, width in pixels, flip, brightness, contrast, saturation, hue in turns: of n views, each [n]."""
    random = torch.rand(9, n, generator=generator, device=generator.device)
    flip, jittered, gray = random[0] < FLIP, random[1] < JITTER, random[2] < GRAYSCALE
    brightness, contrast, saturation = 1 + jittered * STRENGTH * (2 * random[3:6] - 1)
    hue = jittered * HUE * (2 * random[6] - 1)
    height, width = _boxes(n, size, generator)
    top, left = random[7] * (size - height), random[8] * (size - width)
    return top, height, left, width, flip, brightness, contrast, saturation * ~gray, hue


def _boxes(n: int, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width of n crops in pixels: the first of ten draws that fits into the image, else the image."""
    area, ratio = torch.rand(2, 10, n, generator=generator, device=generator.device)
    area = size**2 * (SCALE[0] + (SCALE[1] - SCALE[0]) * area)
    ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio  # uniform in its logarithm
    height, width = (area / ratio).sqrt(), (area * ratio).sqrt()
    fits = (height <= size) & (width <= size)
    first = fits.int().argmax(0, keepdim=True)
    height, width = (torch.where(fits.any(0), side.gather(0, first)[0], float(size)) for side in (height, width))
    return height, width
