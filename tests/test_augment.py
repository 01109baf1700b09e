import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv

from clsl import augment, device
from clsl.config import Pretraining

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def views(images, seed=0):
    return augment.two_views(images, MEAN, STD, torch.Generator().manual_seed(seed))


@pytest.fixture
def batch(cifar10):
    return torch.from_numpy(cifar10.images[:100]).permute(0, 3, 1, 2)


def test_two_views(batch):
    v = views(batch)
    assert v.shape == (200, 3, 32, 32) and v.dtype == torch.float32
    assert v.is_contiguous(memory_format=torch.channels_last)
    assert (v == views(batch)).all() and not (v == views(batch, seed=1)).all()
    pixels = v * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert pixels.min() >= -1e-5 and pixels.max() <= 1 + 1e-5
    assert not torch.isclose(v[:100], v[100:]).flatten(1).all(1).any()  # two views of an image differ


def test_every_image_has_parameters_of_its_own(batch):
    same = batch[:1].expand(64, -1, -1, -1)
    v = views(same).flatten(1)
    assert torch.cdist(v, v).fill_diagonal_(1).min() > 0.1


def test_the_size_of_a_chunk_changes_nothing(batch, monkeypatch):
    expected = views(batch)
    monkeypatch.setattr(augment, "_CHUNK", 7)
    assert torch.allclose(views(batch), expected, atol=1e-6)


def crop(x, top, height, left, width, flip, size=None):
    start, length, flip = torch.stack((top, left)), torch.stack((height, width)), torch.stack((torch.zeros_like(flip), flip))
    return augment.crop(x, *augment.resampling(start, length, flip, x.shape[-1], size or x.shape[-1]))


def jitter(x, brightness=None, contrast=None, saturation=None, hue=None):
    one = torch.ones(len(x))
    factors = (one if factor is None else factor for factor in (brightness, contrast, saturation))
    x = augment.recolour(x, *augment.colour_map(*factors))
    return augment.turn_hue(x, torch.zeros(len(x)) if hue is None else hue)


def test_the_whole_image_is_left_as_it_is(batch):
    x = batch / 255
    zero, full, no = torch.zeros(100), torch.full((100,), 32.0), torch.zeros(100, dtype=torch.bool)
    assert torch.allclose(crop(x, zero, full, zero, full, no), x, atol=1e-6)
    assert torch.allclose(crop(x, zero, full, zero, full, ~no), x.flip(3), atol=1e-6)
    assert torch.allclose(jitter(x), x, atol=1e-5)


def test_crop_against_torchvision(batch):
    """On boxes of whole pixels the same as torchvision's antialiased bilinear resize of the crop."""
    x = batch[:20] / 255
    generator = torch.Generator().manual_seed(0)
    height, width = torch.randint(15, 33, (2, 20), generator=generator)
    top, left = ((33 - side) * torch.rand(20, generator=generator) for side in (height, width))
    top, left = top.int(), left.int()
    flip = torch.arange(20) % 2 == 0
    ours = crop(x, top, height, left, width, flip)[..., 2:-2, 2:-2]  # within the border, beyond which ours looks
    for i in range(20):
        expected = tv.resized_crop(x[i], int(top[i]), int(left[i]), int(height[i]), int(width[i]), [32, 32], antialias=True)
        expected = expected.flip(2) if flip[i] else expected
        assert torch.allclose(ours[i], expected[:, 2:-2, 2:-2], atol=1e-4)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_against_torchvision(batch, name):
    x = batch[:40] / 255
    factors = torch.linspace(-0.1, 0.1, 40) if name == "hue" else torch.linspace(0.6, 1.4, 40)
    ours = jitter(x, **{name: factors})
    function = getattr(tv, f"adjust_{name}")
    expected = torch.stack([function(image, float(f)) for image, f in zip(x, factors)])
    assert torch.allclose(ours, expected, atol=2e-3)
    assert (ours - x).abs().max() > 0.05  # something was done


def test_grayscale_is_a_saturation_of_nothing(batch):
    gray = jitter(batch / 255, saturation=torch.zeros(100), hue=torch.full((100,), 0.05))
    assert torch.allclose(gray, tv.rgb_to_grayscale(batch / 255, 3), atol=1e-3)


def test_laws_of_the_parameters():
    n = 200_000
    start, length, flip, factors, hue, _ = augment.draw(n, torch.Generator().manual_seed(0))
    assert flip[1].float().mean() == pytest.approx(0.5, abs=0.01) and not flip[0].any()
    gray = factors[2] == 0
    assert gray.float().mean() == pytest.approx(0.2, abs=0.01)
    for factor in (*factors[:2], factors[2][~gray]):
        assert 0.6 <= factor.min() < 0.61 and 1.39 < factor.max() <= 1.4
        assert (factor == 1).float().mean() == pytest.approx(0.2, abs=0.01)
    assert hue.abs().max() <= 0.1 and (hue == 0).float().mean() == pytest.approx(0.2, abs=0.01)
    assert (start >= 0).all() and (start + length <= 1 + 1e-5).all()
    height, width = length
    area, ratio = height * width, width / height
    assert 0.4 - 1e-4 <= area.min() and area.max() <= 1
    assert 0.75 - 1e-4 <= ratio.min() and ratio.max() <= 4 / 3 + 1e-4


def test_stronger_colours_smaller_crops_and_blur():
    drawn = augment.draw(50_000, torch.Generator().manual_seed(0), jitter=0.8, blur=0.5)
    assert 1.79 < drawn.colours[0].max() <= 1.8 and 0.19 < drawn.hue.max() <= 0.2
    area = augment.draw(50_000, torch.Generator().manual_seed(0), crop=0.08).length.prod(0)
    assert 0.08 - 1e-4 <= area.min() < 0.09 and area.max() <= 1
    blurred = drawn.blur > 0.01
    assert blurred.float().mean() == pytest.approx(0.5, abs=0.01)
    assert 0.1 <= drawn.blur[blurred].min() < 0.11 and 1.99 < drawn.blur[blurred].max() <= 2


@pytest.mark.parametrize("height, width", [(320, 320), (320, 480), (600, 320), (200, 800)])
def test_boxes_follow_torchvisions_law(height, width):
    """Areas, shapes and their spread as in torchvision's own draws, which rejects boxes that do not fit."""
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(3, height, width)  # large, so that its rounding to whole pixels matters little
    boxes = [RandomResizedCrop.get_params(image, [0.4, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(8000)]
    theirs = torch.tensor(boxes).float().T
    aspects = torch.full((100_000,), width / height) if width != height else None
    ours = augment._boxes(100_000, torch.Generator().manual_seed(0), aspects) * torch.tensor([[height], [width]])
    for number in (lambda h, w: h * w / (height * width), lambda h, w: (w / h).log()):
        assert number(*ours).mean() == pytest.approx(number(*theirs).mean().item(), abs=0.008)
        assert number(*ours).std() == pytest.approx(number(*theirs).std().item(), abs=0.008)


def squeezed(height, width, side):
    """A smooth picture, and the same squeezed into a square, uint8."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    picture = (127 + 120 * torch.stack((torch.sin(x + y), torch.cos(2 * x), torch.sin(y * x / 2)))).to(torch.uint8)
    return picture, tv.resize(picture, [side, side], antialias=True)


def test_a_crop_of_a_squeezed_image_has_the_shape_of_the_original():
    picture, square = squeezed(200, 300, 128)
    box = dict(top=20, left=60, height=120, width=150)
    share = {name: torch.tensor([128 * value / (200 if name in ("top", "height") else 300)]) for name, value in box.items()}
    ours = crop(square[None] / 255, **share, flip=torch.tensor([False]), size=96)[0]
    theirs = tv.resized_crop(picture / 255, **box, size=[96, 96], antialias=True)
    assert (ours - theirs)[:, 2:-2, 2:-2].abs().max() < 0.02


def test_fewer_samples_than_pixels_against_torchvision(batch):
    x = tv.resize(batch[:4] / 255, [64, 64])
    box = dict(top=3, left=5, height=60, width=50)
    ours = crop(x, **{name: torch.full((4,), float(v)) for name, v in box.items()}, flip=torch.zeros(4) > 0, size=24)
    theirs = tv.resized_crop(x, **box, size=[24, 24], antialias=True)
    assert torch.allclose(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], atol=1e-4)


def test_gaussian_against_torchvision(batch):
    x = batch[:3] / 255
    weights = augment.gaussian(torch.full((3,), 1.2), 32)
    ours = augment.crop(x, weights, weights)[..., 8:-8, 8:-8]
    assert torch.allclose(ours, tv.gaussian_blur(x, [15, 15], [1.2, 1.2])[..., 8:-8, 8:-8], atol=1e-3)


def test_the_evaluation_view_of_a_squeezed_image_is_the_centre_of_the_original():
    """As the authors have it: the shorter side to the power of two, then the centre."""
    pictures, squares = zip(*(squeezed(h, w, 64) for h, w in ((150, 225), (240, 160), (128, 128))))
    aspects = torch.tensor([1.5, 2 / 3, 1])
    ours = augment.evaluation_view(torch.stack(squares), (0,) * 3, (1,) * 3, size=56, aspects=aspects)
    for view, picture in zip(ours, pictures):
        theirs = tv.center_crop(tv.resize(picture / 255, 64, antialias=True), [56, 56])
        assert (view - theirs).abs().max() < 0.03


def test_evaluation_view(batch):
    v = augment.evaluation_view(batch, MEAN, STD)
    expected = (batch / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(v, expected) and v.is_contiguous(memory_format=torch.channels_last)


def test_batches_are_images_of_their_own_and_what_is_told_of_them(noise):
    """An image is one gray, its index; of both views, the first of all images first."""
    grays = np.broadcast_to(2 * np.arange(96, dtype=np.uint8)[:, None, None, None], (96, 32, 32, 3)).copy()
    images, pixels = dataclasses.replace(noise, images=grays), device.Pixels(grays, torch.device("cpu"))
    config, seen = Pretraining(batch_size=40, jitter=0.0), []
    for told in (torch.arange(96), torch.arange(96)[:, None].expand(-1, 3)):
        batches = list(augment.batches(config, 0, pixels, told, images, torch.Generator().manual_seed(1)))
        assert [len(views) for views, _ in batches] == [80, 80]
        for views, z in batches:
            gray = (views.float().mean((1, 2, 3)) * 0.25 + 0.5) * 255 / 2
            assert torch.equal(gray.round().long(), z.view(40, -1)[:, 0].repeat(2))
        seen.append(torch.cat([z.view(40, -1)[:, 0] for _, z in batches]))
    assert len(seen[0].unique()) == 80 and torch.equal(*seen)


def test_views_may_be_gentler_during_the_warm_up():
    authors = dict(crop=0.08, jitter=0.8, warmup_crop=0.2, warmup_jitter=0.4)
    config = Pretraining(epochs=10, warmup=0.2, **authors)
    assert [augment._strength(config, epoch) for epoch in range(10)] == [(0.2, 0.4)] * 2 + [(0.08, 0.8)] * 8
    assert augment._strength(Pretraining(warmup=1.0), 0) == (augment.SCALE[0], augment.JITTER)
