"""A folder's image files, squeezed into squares and packed into one memory-mapped array, once."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from . import downloads

_FORM = 2  # raise it where the same file would give other pixels, or be left out
_AHEAD = 256  # images decoded before they are written


def pack(name: str, paths: Sequence[Path], side: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Image files as one memory-mapped array of squares, made once and kept in the cache beside the downloads.

    Each image is squeezed, not cropped, to `side` × `side` pixels; JPEGs are decoded at the smallest scale that is large
    enough. One channel, 16 bits, CMYK, palettes and transparency become RGB; what is turned by EXIF is turned back.

    Returns the images, uint8 [n, side, side, 3], their aspects, float32 [n], their indices in `paths`, int64 [n], and for
    each file that could not be read its path and the reason. Raises OSError where none can be read, or the disk has
    no room.
    """
    if not paths:
        raise OSError(f"{name} has no images: look into the folder it is read from")
    folder = downloads.once(f"packed/{name}-{side}-{state(paths)}", lambda into: _pack(name, paths, side, into))
    known = json.loads((folder / "left_out.json").read_text())
    aspects, kept = (torch.from_numpy(np.load(folder / f"{part}.npy")) for part in ("aspects", "kept"))
    return np.load(folder / "images.npy", mmap_mode="c")[: len(kept)], aspects, kept, tuple(known)


def state(paths: Sequence[Path]) -> str:
    """A hash of some files, another one where a file was added, removed or changed."""
    stats = ((path, path.stat() if path.exists() else None) for path in paths)
    parts = [(str(path), stat and (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)) for path, stat in stats]
    return hashlib.sha256(json.dumps([_FORM, PIL.__version__, parts]).encode()).hexdigest()[:12]


def _pack(name: str, paths: Sequence[Path], side: int, into: Path) -> None:
    need, free = len(paths) * side * side * 3, shutil.disk_usage(into).free
    if need > free:
        raise OSError(
            f"{name} needs {need / 1e9:.1f} GB in {into.parent}, which has {free / 1e9:.1f}: set CLSL_DATA to a larger disk"
        )
    images = np.lib.format.open_memmap(into / "images.npy", "w+", np.uint8, (len(paths), side, side, 3))
    if hasattr(os, "posix_fallocate"):  # takes the room now: on a disk that fills up later, writing would be a bus error
        with open(into / "images.npy", "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    aspects, kept, left_out = [], [], []
    with tqdm(desc=f"packing {name}", total=len(paths), unit=" images", delay=1) as bar:
        for i, (pixels, found) in enumerate(_decoded(paths, side)):
            if pixels is None:
                left_out.append(f"{paths[i]}: {found}")
            else:
                images[len(kept)] = pixels
                kept.append(i), aspects.append(found)
            bar.update()
    if not kept:
        raise OSError(f"{name}: none of {len(paths)} images can be read, the first of them {left_out[0]}")
    images.flush()
    np.save(into / "aspects.npy", np.array(aspects, dtype=np.float32))
    np.save(into / "kept.npy", np.array(kept, dtype=np.int64))
    (into / "left_out.json").write_text(json.dumps(left_out, indent=1))


def _decoded(paths: Sequence[Path], side: int) -> Iterator[tuple[np.ndarray, float] | tuple[None, str]]:
    """`decode` of each file, in order, by as many threads as there are cores: Pillow leaves Python while it works."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for i in range(0, len(paths), _AHEAD):
            yield from threads.map(lambda path: decode(path, side), paths[i : i + _AHEAD])


def decode(path: Path, side: int) -> tuple[np.ndarray, float] | tuple[None, str]:
    """A file's pixels, uint8 [side, side, 3], and its width over height; or None and why it cannot be read."""
    if path.exists() and not path.is_file():
        return None, "not a file"
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode == "I" and image.format == "TIFF":
                raise ValueError("32 bits a channel, of a range that is not known: save it with 8 or 16")
            image.draft("RGB", (side, side))
            image = _rgb(ImageOps.exif_transpose(image))
            return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)), image.width / image.height
    except Exception as error:  # Pillow raises whatever a damaged header makes it raise
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM):
            raise  # no fault of the picture
        said = str(error).replace(f": '{path}'", "").replace(f" '{path}'", "").replace("\n", " ") or type(error).__name__
        return None, _named(path) or said


def _named(path: Path) -> str:
    """What a file is that Pillow cannot read, where its first bytes tell."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return ""
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "HEIC, as telephones write it, whatever its name says: save it as JPEG"
    return "" if head else "an empty file"


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "LA", "PA"):
        image = image.convert("RGBA")  # or Pillow warns of what transparency may mean
    return image.convert("RGB")
