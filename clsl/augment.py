"""Two random views of a whole batch at once, every image with parameters of its own; on the images' device.

The authors' transformations: a random crop resized to the image's size, a horizontal flip, colour jitter, grayscale,
normalisation; a blur only where it is asked for. A crop, its resize and its flip are a product of matrices,
rows · image · columnsᵀ; brightness, contrast and saturation are an affine map of the colours. The laws of all parameters and the
hue's turn through HSV are torchvision's. What differs: crops begin and end between pixels too, and are resampled in floating point;
brightness, contrast and saturation come in this order before the hue, and are clipped once; grayscale is a saturation of 0;
images from files were squeezed into squares before, and on a CPU their crops begin and end at whole pixels.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import device
from .device import SMALL

SCALE = (0.4, 1.0)  # share of the image's area in a crop
RATIO = (3 / 4, 4 / 3)  # width over height of a crop
FLIP = 0.5  # probabilities
JITTERED = 0.8
GRAYSCALE = 0.2
JITTER = 0.4  # brightness, contrast and saturation change by up to this factor, the hue by a quarter of it in turns
LUMA = (0.299, 0.587, 0.114)
Moments = Sequence[float]  # of the pixels, one a channel
_CHUNK = 2**17  # pixels at a time on a CPU: what stays in its cache
_AHEAD = 2**20  # pixels whose views are made at once, in images of 32 pixels 1024


class Draw(NamedTuple):
    """The random parameters of n views."""

    start: torch.Tensor  # float32 [2, n], where the crop begins, in shares of the image's height and width
    length: torch.Tensor  # float32 [2, n], its height and width, likewise
    flip: torch.Tensor  # bool [2, n], of rows (never) and columns
    colours: torch.Tensor  # float32 [3, n], factors of brightness, contrast, saturation
    hue: torch.Tensor  # float32 [n], turns
    blur: torch.Tensor | None  # float32 [n], the Gaussian's standard deviation in pixels of the view

    def of(self, views: slice | torch.Tensor) -> "Draw":
        """The parameters of some of them."""
        return Draw(*(None if part is None else part[..., views] for part in self))


def draw(
    n: int, generator: torch.Generator, aspects: torch.Tensor | None = None, jitter: float = JITTER, blur: float = 0.0, crop=SCALE[0]
) -> Draw:
    """The parameters of n views, on the generator's device.

    aspects: width over height [n] of images that were squeezed into squares; jitter: what brightness, contrast and saturation
    change by at most, four times that of the hue in turns; blur: the probability of a Gaussian blur of 0.1 to 2 pixels; crop: the
    smallest share of the image's area in a view.
    """
    probabilities = torch.tensor((FLIP, JITTERED, GRAYSCALE), device=generator.device)
    flip, jittered, gray = _uniform(0, 1, 3, n, generator) < probabilities[:, None]
    change = _uniform(-1, 1, 4, n, generator) * jittered
    colours, hue = 1 + jitter * change[:3], jitter / 4 * change[3]
    colours[2].masked_fill_(gray, 0)
    length = _boxes(n, generator, aspects, crop)
    start = _uniform(0, 1, 2, n, generator) * (1 - length)
    sigma = None
    if blur:
        on, sigma = _uniform(0, 1, 1, n, generator)[0] < blur, _uniform(0.1, 2, 1, n, generator)[0]
        sigma = sigma.where(on, 1e-3)
    return Draw(start, length, torch.stack((torch.zeros_like(flip), flip)), colours, hue, sigma)


def two_views(images: torch.Tensor, mean: Moments, std: Moments, generator: torch.Generator) -> torch.Tensor:
    """Two views of each image: uint8 [N, 3, S, S] → float32 [2N, 3, S, S], channels last, first views first.

    Raises ValueError for images of another shape or type.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be uint8 [N, 3, S, S], got {images.dtype} of shape {tuple(images.shape)}")
    twice = images.repeat(2, 1, 1, 1)
    return view(twice, mean, std, draw(len(twice), generator))


def batches(
    config, epoch: int, pixels: device.Pixels, told: torch.Tensor, images, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch in random order, in this process's share of every batch: views [2n, 3, S, S], first views first, and rows of `told`.

    config: a Pretraining; told [N, …]: what is known of each of the Images. The views of several batches are made at once, or
    starting the many small operations would cost as much as they do. What is random is drawn for the whole batch, so that several
    processes see together what one would see alone.
    """
    size, steps, where = config.batch_size, len(told) // config.batch_size, told.device
    order = shuffled(told, config.companions, generator)[: steps * size].view(steps, size)
    mine, (crop, jitter) = device.share(size), _strength(config, epoch)
    some = order.split(max(1, _AHEAD // (size * pixels.side**2)))
    aspects = None if images.aspects is None else images.aspects.to(where)
    for batch, x in zip(some, pixels.each(batch[:, None, mine].expand(-1, 2, -1).flatten() for batch in some)):
        twice = batch[:, None].expand(-1, 2, -1)
        shapes = None if aspects is None else aspects[twice.flatten()]
        parameters = draw(twice.numel(), generator, shapes, jitter, config.blur, crop)
        if device.world() > 1:
            parameters = parameters.of(torch.arange(twice.numel(), device=where).view(twice.shape)[..., mine].flatten())
        views = view(x, images.mean, images.std, parameters, config.image_size, device.precision(where))
        yield from zip(views.split(len(x) // len(batch)), told[batch[:, mine]])


def shuffled(z: torch.Tensor, companions: int | None, generator: torch.Generator) -> torch.Tensor:
    """The images of an epoch in random order, int64 [N]; with companions, so many of a cluster z [N] stand next to each other.

    What a cluster has beyond whole groups, or a cluster smaller than a group, is a smaller group. Every image comes once.
    """
    order = torch.randperm(len(z), generator=generator, device=z.device)
    if companions is None:
        return order
    z = z if z.ndim == 1 else z.unique(dim=0, return_inverse=True)[1]
    order = order[z[order].sort(stable=True).indices]  # by cluster, at random within
    _, ids, counts = z[order].unique_consecutive(return_inverse=True, return_counts=True)
    rank = torch.arange(len(z), device=z.device) - (counts.cumsum(0) - counts)[ids]
    group = (ids * len(z) + rank // companions).unique_consecutive(return_inverse=True)[1]
    place = torch.randperm(int(group[-1]) + 1, generator=generator, device=z.device)
    return order[place[group].sort(stable=True).indices]


def _strength(config, epoch: int) -> tuple[float, float]:
    """The smallest crop and the jitter of an epoch's views, which may be gentler during the warm-up."""
    gentle = (epoch + 0.5) / config.epochs < config.warmup
    crop = config.warmup_crop if gentle and config.warmup_crop is not None else config.crop
    return crop, config.warmup_jitter if gentle and config.warmup_jitter is not None else config.jitter


def view(
    images: torch.Tensor, mean: Moments, std: Moments, drawn: Draw, size: int | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """A view of each image: uint8 [n, 3, S, S] → dtype [n, 3, size, size], channels last; size: S if it is None.

    mean, std: of the normalisation, one a channel, for pixels in [0, 1].
    """
    n, side = len(images), images.shape[-1]
    size = size or side
    out = torch.empty(n, 3, size, size, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    brightness, contrast, saturation = drawn.colours
    mix, blend = colour_map(brightness / 255, contrast, saturation)
    chunk = n if images.is_cuda else max(1, _CHUNK // max(side, size) ** 2)
    for i in (slice(first, first + chunk) for first in range(0, n, chunk)):
        x = _cropped(images[i], drawn.of(i), size)
        x = turn_hue(recolour(x, mix[i], blend[i]), drawn.hue[i])
        out[i] = normalise_(x, mean, std).to(dtype)
    return out


def _cropped(images: torch.Tensor, drawn: Draw, size: int) -> torch.Tensor:
    """The crops of uint8 images [n, 3, S, S] as float32 [n, 3, size, size], still up to 255."""
    side = images.shape[-1]
    if not images.is_cuda and side > SMALL:
        x = _one_by_one(images, drawn, size)
        blurred = () if drawn.blur is None else (gaussian(drawn.blur, size),) * 2
        return crop(x, *blurred) if blurred else x
    rows, columns = resampling(drawn.start * side, drawn.length * side, drawn.flip, side, size)
    if drawn.blur is not None:
        rows, columns = (gaussian(drawn.blur, size) @ weights for weights in (rows, columns))
    return crop(images.float(), rows, columns)


def _one_by_one(images: torch.Tensor, drawn: Draw, size: int) -> torch.Tensor:
    """The crops of large images on a CPU, whole pixels as torchvision has them: a product of matrices would look at every
    pixel for each it makes, while this resize, made for bytes, looks at those that it needs."""
    side, out = images.shape[-1], torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    start = (drawn.start * side).round().int()
    end = torch.maximum(((drawn.start + drawn.length) * side).round().int(), start + 1)
    for i, ((top, left), (bottom, right), flip) in enumerate(zip(start.T.tolist(), end.T.tolist(), drawn.flip[1].tolist())):
        x = images[i : i + 1, :, top:bottom, left:right].contiguous(memory_format=torch.channels_last)
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)[0]
        out[i] = x.flip(2) if flip else x
    return out.float()


def evaluation_view(
    images: torch.Tensor, mean: Moments, std: Moments, size: int | None = None, aspects: torch.Tensor | None = None
) -> torch.Tensor:
    """The image itself, normalised: uint8 [N, 3, S, S] → float32 [N, 3, size, size], channels last.

    The authors resize to the next power of two, which S is for packed images, and crop the centre: `size` pixels of the
    shorter side. aspects: width over height [N] before the images were squeezed into squares.
    """
    x, side = images.float().div_(255), images.shape[-1]
    if aspects is not None or size not in (None, side):
        aspects = torch.ones(len(images)) if aspects is None else aspects
        length = (size or side) * torch.stack((aspects, 1 / aspects)).clamp(max=1).to(x.device)
        x = crop(x, *resampling((side - length) / 2, length, length < 0, side, size or side))
    return normalise_(x, mean, std).contiguous(memory_format=torch.channels_last)


def normalise_(x: torch.Tensor, mean: Moments, std: Moments) -> torch.Tensor:
    """(x - mean) / std by channel, in place."""
    return x.sub_(x.new_tensor(mean)[:, None, None]).div_(x.new_tensor(std)[:, None, None])


def crop(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """rows · x · columnsᵀ for each image and channel: [n, 3, S, S] → [n, 3, size, size]; weights [n, size, S] of `resampling`."""
    x = torch.bmm(x.flatten(1, 2), columns.mT).unflatten(1, x.shape[1:3])
    return rows[:, None] @ x


def resampling(start: torch.Tensor, length: torch.Tensor, flip: torch.Tensor, side: int, size: int) -> torch.Tensor:
    """Weights [..., size, side] that take a line of `side` pixels to `size` samples of a part of it, backward to flip.

    start, length: of the part, in pixels [...]; flip: bool [...]. The triangle reaches one pixel to either side, or as far as
    the next sample where those are farther apart.
    """
    step = torch.where(flip, -length, length) / size
    first = torch.where(flip, start + length, start)
    pixels, samples = (torch.arange(n, device=start.device) + 0.5 for n in (side, size))
    centres = torch.addcmul(first[..., None], step[..., None], samples)
    centres.clamp_(0.5, side - 0.5)  # the border goes on beyond itself
    distance = (pixels - centres[..., None]).abs_()
    if side <= size:  # a part of the line is never taken to fewer samples than it has pixels
        return distance.neg_().add_(1).clamp_(min=0)
    weights = distance.div_(-step.abs().clamp(min=1)[..., None, None]).add_(1).clamp_(min=0)
    return weights.div_(weights.sum(-1, keepdim=True))


def gaussian(sigma: torch.Tensor, size: int) -> torch.Tensor:
    """Weights [n, size, size] that blur a line of `size` samples by a Gaussian of standard deviation sigma [n]."""
    at = torch.arange(size, device=sigma.device)
    return (-((at - at[:, None]) / sigma[:, None, None]).square() / 2).softmax(-1)


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


def _boxes(n: int, generator: torch.Generator, aspects: torch.Tensor | None, smallest: float = SCALE[0]) -> torch.Tensor:
    """Height and width [2, n] of crops in shares of the image's: the first of ten draws that fits, else the largest that does."""
    area = _uniform(smallest, SCALE[1], 11, n, generator).log_()
    ratio = _uniform(*map(math.log, RATIO), 11, n, generator)
    ratio[-1] = 0 if aspects is None else aspects.log().clamp(*map(math.log, RATIO))
    if aspects is not None:
        ratio -= aspects.log()  # in the square
    area[-1] = -ratio[-1].abs()
    first = (ratio.abs() + area <= 0).int().argmax(0, keepdim=True)  # both sides at most 1
    area, ratio = area.gather(0, first), ratio.gather(0, first)
    return torch.cat((area - ratio, area + ratio)).div_(2).exp_()


def _uniform(low: float, high: float, rows: int, n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.empty(rows, n, device=generator.device).uniform_(low, high, generator=generator)
