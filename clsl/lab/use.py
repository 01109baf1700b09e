"""What a trained encoder is good for: features of one's own images, neighbours, images in a wrong cluster, other programs."""

import copy
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn
from tqdm import tqdm

from .. import ROOT, config, data, device, encoders, printable
from ..data import cifar, kept, own, packing
from . import figures, fingerprint, records, runs, sheet

MOMENTS = {  # mean and standard deviation of what is fetched, as data.load has them, so that an encoder needs no images
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


class Encoder(nn.Module):
    """A trained encoder with what it must know of images: uint8 [N, side, side, 3] → features float32 [N, encoder.dim].

    encoder: the network alone, of normalised float32 [N, 3, side, side]; config: the Pretraining it comes from; side, in
    pixels; mean, std: of the pixels it was trained on, by channel. `embed` takes images of any size.
    """

    def __init__(self, encoder: nn.Module, chosen: config.Pretraining, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.encoder, self.config = encoder, chosen
        self.side = chosen.image_size or (32 if chosen.dataset in cifar.DATASETS else data.packed_side(None))
        for name, moment in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(moment))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features [N, dim] of uint8 [N, side, side, 3], on the encoder's device."""
        return self.encoder(((images / 255 - self.mean) / self.std).permute(0, 3, 1, 2))

    def embed(self, images: data.Images | np.ndarray | Sequence[Image.Image | np.ndarray | Path | str]) -> torch.Tensor:
        """Features float32 [N, dim], on the CPU: of Images, of uint8 [N, H, W, 3], of an image or a list: arrays, PIL images, files.

        As the training's evaluation sees them, the central square of each; in bfloat16 where the processor has it, about three
        digits. Raises ValueError for what is no image.
        """
        if isinstance(images, (str, Path, Image.Image)):
            images = [images]
        if not len(images):
            raise ValueError("there are no images to embed: give at least one")
        side, aspects = data.packed_side(self.side), getattr(images, "aspects", None)
        pixels = images.images if isinstance(images, data.Images) else images
        if getattr(pixels, "dtype", None) != np.uint8 or pixels.shape[1:] != (side, side, 3):
            squares, shapes = zip(*(_square(each, side) for each in pixels))
            pixels, aspects = np.stack(squares), torch.tensor(shapes) if aspects is None else aspects
        moments, t = (self.mean.tolist(), self.std.tolist()), torch.zeros(len(pixels), dtype=torch.int64)
        seen, where = data.Images(pixels, t, (), *moments, aspects=aspects), self.mean.device
        with tqdm(desc="features", total=len(pixels), unit=" images", delay=1) as bar:
            return encoders.features(lambda x: (self.encoder(x), bar.update(len(x)))[0], seen, where, self.side).cpu()


def _square(image: Image.Image | np.ndarray | Path | str, side: int) -> tuple[np.ndarray, float]:
    """An image as uint8 [side, side, 3], and its width over height."""
    if isinstance(image, (str, Path)):
        square, found = packing.decode(Path(image), side)
        if square is None:
            raise ValueError(f"{image} cannot be read: {found}")
        return square, found
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"an image must be uint8 [H, W, 3], PIL's or a file, got {type(image).__name__} {np.shape(image)}")
    image = packing._rgb(ImageOps.exif_transpose(image))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)), image.width / image.height


def load(name: str | Path) -> Encoder:
    """The encoder of a run or of a committed record, by its name or a beginning that no other has, or by the run's folder.

    In evaluation mode, on the CPU. It needs the images that it was trained on only where they are one's own, for their moments.
    Raises ValueError for another name and for damaged files, OSError where something is missing.
    """
    name, known, folder = str(name), _known(), Path(name).expanduser()
    if name not in known and (folder / "record.json").is_file():
        return _read(folder / "record.json", folder / "encoder.safetensors")
    found = [name] if name in known else sorted(each for each in known if each.startswith(name))
    if len(found) == 1:
        return _read(*known[found[0]])
    some = ", ".join((found or sorted(known))[:5]) + ", …" * (len(found or known) > 5)
    said = f"{name!r} begins the names of {len(found)} encoders" if found else f"no encoder {name!r}, and no run's folder"
    raise ValueError(f"{said}: choose from {some or 'none yet: train a run first'}")


def _known() -> dict[str, tuple[Path, Path]]:
    """Name → record and weights, of what is committed ($CLSL_RECORDS, else in figures/) and of the finished runs here."""
    given = os.environ.get("CLSL_RECORDS")
    folders = [Path(given)] if given else [] if given == "" else sorted(ROOT.glob("figures/*/records"))
    committed = [path for folder in folders for path in folder.glob("*.json")]
    mine = [path for path in runs.folder().glob("*/record.json") if path.parent.suffix != ".unfinished"]
    pairs = {path.stem: (path, path.parents[1] / "encoders" / f"{path.stem}.safetensors") for path in committed}
    pairs |= {path.parent.name: (path, path.with_name("encoder.safetensors")) for path in mine}
    return {name: pair for name, pair in pairs.items() if pair[1].exists()}


def _read(record: Path, weights: Path) -> Encoder:
    try:
        told = json.loads(record.read_text())
        chosen, source = config.from_fields(told["config"]), told["made_by"]["source"]
    except (ValueError, KeyError, TypeError) as error:
        raise kept.Damaged(f"the record {record} cannot be read: {error}") from None
    if source == fingerprint.source(chosen):
        records.read(record, chosen)  # raises Damaged
    else:
        print(printable(f"clsl: {record} is of another version of the code, which may see images otherwise"), file=sys.stderr)
    encoder = encoders.build(chosen.encoder, chosen.image_size)
    encoder.load_state_dict(kept.load_weights(weights))  # bfloat16 becomes float32
    if chosen.dataset in MOMENTS:
        return Encoder(encoder, chosen, *MOMENTS[chosen.dataset]).eval()
    known = data.read(chosen.dataset, "train")[1]
    if "mean" not in known:  # of one's own images
        known = vars(data.load(chosen.dataset, "train", image_size=chosen.image_size))
    return Encoder(encoder, chosen, known["mean"], known["std"]).eval()


def neighbours(features, queries, k: int = 10) -> torch.Tensor:
    """The k features of [N, D] nearest in cosine to each query [M, D], nearest first: int64 [M, k], or [M, N] for N below k."""
    features, queries = (F.normalize(torch.as_tensor(each).float(), dim=1) for each in (features, queries))
    return (queries @ features.T).topk(min(k, len(features))).indices


def neighbour_sheet(encoder: Encoder, images: data.Images, features, files: Sequence[str], k: int = 10) -> figures.Figure:
    """Some files, each before the k images nearest to it, without itself; features: what encoder.embed(images) gives.

    Raises ValueError for a file that is no image.
    """
    names, rows = [os.path.abspath(name) for name in images.files or [""] * len(images)], []
    for file, near in zip(files, neighbours(features, encoder.embed(files), k + 1).tolist()):
        others = [i for i in near if names[i] != os.path.abspath(file)][:k]
        rows.append([_square(file, images.images.shape[1])[0], *images.images[others]])
    z = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
    titles = [Path(file).name[-24:].replace("$", r"\$") for file in files]  # two of which are a formula
    figures.style()
    return figures.sheet(data.Images(np.concatenate(rows), z, (), images.mean, images.std), z, titles, columns=k + 1)


def suspects(features, z) -> pd.DataFrame:
    """Images that lie far from their cluster, whose tags are probably wrong, worst first: image, cluster, likelier, score.

    features [N, D]; z: integers [N], negative where no cluster is known. score: -log2 of the probability, in bits, that an
    image is of its cluster; likelier: the most probable cluster, be it another or not. The probabilities are those of linear
    discriminant analysis, where an image does not count for the mean of its own cluster; images alone in a cluster are left
    out. Raises ValueError for other shapes, features that are not finite, or a single cluster.
    """
    x, z = torch.as_tensor(features).float(), torch.as_tensor(z).long()
    if x.ndim != 2 or z.shape != x.shape[:1] or not x.isfinite().all():
        raise ValueError(f"suspects needs finite features [N, D] and clusters [N], got {tuple(x.shape)} and {tuple(z.shape)}")
    _, index, counts = z.unique(return_inverse=True, return_counts=True)
    images = ((z >= 0) & (counts[index] > 1)).nonzero()[:, 0]
    ids, z = z[images].unique(return_inverse=True)
    if len(ids) < 2:
        raise ValueError(f"suspects needs two clusters of at least two images, got {len(ids)}")
    log_p = _log_probabilities(F.normalize(x[images], dim=1), z)
    score = -log_p.gather(1, z[:, None])[:, 0] / np.log(2)
    columns = {"image": images, "cluster": ids[z], "likelier": ids[log_p.argmax(1)], "score": score.clamp(min=0) + 0}
    table = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _log_probabilities(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """log p [N, K] of each cluster for each of x [N, D], without x in the mean of its own: Gaussians of one covariance.

    To the covariance is added the mean variance in all directions, so that few images do. Of 0.03 to 3 times that much, this
    found the most wrong tags among 500 to 10,000 of CIFAR's images.
    """
    x, n = x - x.mean(0), z.bincount().float()
    sums = torch.zeros(len(n), x.shape[1]).index_add_(0, z, x)
    rest = x - (sums / n[:, None])[z]
    covariance = rest.T @ rest / len(x)
    covariance += (covariance.diagonal().mean() + 1e-12) * torch.eye(len(covariance))
    white = torch.linalg.inv(torch.linalg.cholesky(covariance)).T  # of x @ white the covariance is 1
    far = torch.cdist(x @ white, sums / n[:, None] @ white).square()
    without = (sums[z] - x) / (n[z, None] - 1)
    far.scatter_(1, z[:, None], ((x - without) @ white).square().sum(1, keepdim=True))
    return ((n / len(x)).log() - far / 2).log_softmax(1)


def embed(dataset: str, name: str, split: str | None, out: Path, files: Sequence[str] = (), spec: str | None = None) -> list[Path]:
    """Write a split's features and file names, to out.npy and out.names.csv, or to out.parquet; returns what was written.

    split: train or test; None for all images of a folder of one's own, with a label or without, else train. What cannot be
    read is left out, and said on stderr. files: for out.neighbours.png, see `neighbour_sheet`; spec: for out.suspects.csv, as `sheet.named` reads it. Raises
    ValueError and OSError, before anything is written, for what cannot be.
    """
    if out.suffix not in (".npy", ".parquet") or not out.parent.is_dir():
        raise ValueError(f"{out} must be FILE.npy or FILE.parquet in a folder that is there")
    if out.suffix == ".parquet" and not importlib.util.find_spec("pyarrow"):
        raise ValueError(f"{out} needs pyarrow: pip install pyarrow, or write {out.with_suffix('.npy')}")
    encoder = load(name).to(device.device())
    for file in files:
        _square(file, encoder.side)
    images = _all_of(dataset, encoder.side) if split is None else data.load(dataset, split, image_size=encoder.side)
    for line in images.left_out:
        print(printable(f"left out: {line}"), file=sys.stderr)
    z, words = sheet.named(dataset, images, spec) if spec else (None, None)
    names = pd.DataFrame({"file_name": images.files or [f"{dataset}/{split or 'train'}/{i}" for i in range(len(images))]})
    features, csv = encoder.embed(images), dict(index=False, errors="surrogateescape")  # names of files are bytes
    if out.suffix == ".npy":
        todo = {".npy": lambda file: np.save(file, features.numpy()), ".names.csv": lambda file: names.to_csv(file, **csv)}
    else:
        todo = {".parquet": names.join(pd.DataFrame(features.numpy()).add_prefix("feature_")).to_parquet}
    if files:
        todo[".neighbours.png"] = neighbour_sheet(encoder, images, features, files).savefig
    if spec:
        table = suspects(features, z)
        table["file_name"] = names["file_name"].to_numpy()[table.pop("image")]
        table[["cluster", "likelier"]] = table[["cluster", "likelier"]].map(words.__getitem__)
        table = table[["file_name", "cluster", "likelier", "score"]].round(3)
        todo[".suspects.csv"] = lambda file: table.to_csv(file, **csv)
    return [_written(out.with_suffix(suffix), write) for suffix, write in todo.items()]


def _all_of(dataset: str, side: int) -> data.Images:
    """All images of a folder of one's own, those without a label too; of another data set those to train on."""
    data.check_name(dataset)
    if (root := own.root_of(dataset)) is None:
        return data.load(dataset, "train", image_size=side)
    paths, known = own.with_gaps(root, split=None)
    pixels, aspects, kept, left_out = packing.pack("folder-all", paths, data.packed_side(side))
    known |= {"files": tuple(map(str, paths)), "left_out": (*known["left_out"], *left_out)}
    known |= own.selected(known, kept) | {"mean": (0.0,) * 3, "std": (1.0,) * 3, "aspects": aspects}  # encoders have their own moments
    return data.Images(images=pixels, **known)


def _written(path: Path, write: Callable[[Path], object]) -> Path:
    """A file written under another name first, so that it is whole or not there."""
    unfinished = path.with_name(f"unfinished-{path.name}")  # by its suffix many know what to write
    write(unfinished)
    return unfinished.replace(path)


def state_dict(encoder: Encoder, path: Path) -> Path:
    """Write a ResNet's weights as torchvision's own, which load without clsl:

        model = torchvision.models.resnet18()  # or resnet50
        model.fc = torch.nn.Identity()
        model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()  # to 64 pixels
        model.load_state_dict(torch.load(path))

    It takes float32 [N, 3, side, side], normalised by encoder.mean and encoder.std. Raises ValueError for another network.
    """
    if not encoder.config.encoder.startswith("resnet"):
        raise ValueError(f"torchvision has no {encoder.config.encoder}, only resnet18 and resnet50: export it to ONNX")
    weights = {name: value.cpu() for name, value in encoder.encoder.state_dict().items()}
    return _written(path, lambda file: torch.save(weights, file))


def onnx(encoder: Encoder, path: Path) -> float | None:
    """Write an encoder as ONNX: `images`, uint8 [N, side, side, 3] → `features`, float32 [N, dim], for any N.

    Returns the largest difference from torch on random images, None where there is no onnxruntime to tell. Raises ValueError
    where a package is missing, RuntimeError for a difference of more than 1e-4.
    """
    if missing := [package for package in ("onnx", "onnxscript") if not importlib.util.find_spec(package)]:
        raise ValueError(f"torch writes ONNX with {' and '.join(missing)}: pip install -e .[export]")
    encoder = copy.deepcopy(encoder).cpu().eval()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, encoder.side, encoder.side, 3), np.uint8))
    options = dict(input_names=["images"], output_names=["features"], dynamic_shapes={"images": {0: torch.export.Dim("n")}})
    options |= dict(dynamo=True, external_data=False, verbose=False)
    _written(path, lambda file: torch.onnx.export(encoder, (pixels,), file, **options))
    if not importlib.util.find_spec("onnxruntime"):
        return None
    session = importlib.import_module("onnxruntime").InferenceSession(str(path))
    apart = np.abs(session.run(None, {"images": pixels[:2].numpy()})[0] - encoder(pixels[:2]).detach().numpy()).max()
    if not apart <= 1e-4:
        raise RuntimeError(f"{path} differs from torch by {apart:.1e}: try another version of onnxscript")
    return float(apart)
