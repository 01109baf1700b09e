"""What is kept on disk is whole, or found out: every file has a checksum, and gets its name when it is complete."""

import contextlib
import functools
import hashlib
import io
import json
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch as safetensors
import torch
from safetensors import SafetensorError, safe_open


class Damaged(ValueError):
    """A file that cannot be believed."""


_FORM = b"clsl checkpoint 1 "  # the version of the form, then the checksum of the rest
_SEAL = "whole.json"


def write(path: Path, *parts: bytes, keep_last: bool = False) -> None:
    """Write a file in place of the one before, which stays beside it if asked. Raises OSError where the disk is full."""
    unfinished = path.with_suffix(".unfinished")
    try:
        with open(unfinished, "wb") as file:
            file.writelines(parts)
        if keep_last and path.exists():
            path.replace(_before(path))
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error.strerror or error}): make room and run again") from None


def seal(folder: Path) -> None:
    """Keep the checksums of all files of a folder in it."""
    files = {path.relative_to(folder).as_posix(): checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / _SEAL).write_text(json.dumps({"form": 1, "files": files}, indent=1))


@functools.cache
def whole(folder: Path) -> bool:
    """Whether a folder has all its files as they were sealed; each folder is read once in a process."""
    try:
        kept = json.loads((folder / _SEAL).read_text())
        return kept["form"] == 1 and all(checksum(folder / name) == sealed for name, sealed in kept["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def save(path: Path, state: dict[str, Any]) -> None:
    """Keep the state of a training in place of the one before, which stays beside it. Raises OSError where the disk is full."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, _FORM, hashlib.sha256(buffer.getbuffer()).digest(), buffer.getbuffer(), keep_last=True)


def load(path: Path, where: torch.device, config: dict[str, Any]) -> dict[str, Any] | None:
    """The last whole state of a training of that configuration; None where there is none. What is damaged is named in a line."""
    for each in (path, _before(path)):
        if not each.exists():
            continue
        content = each.read_bytes()
        digest, rest = content[len(_FORM) : len(_FORM) + 32], content[len(_FORM) + 32 :]
        if content.startswith(_FORM) and hashlib.sha256(rest).digest() == digest:
            with contextlib.suppress(pickle.UnpicklingError):  # more than weights
                state = torch.load(io.BytesIO(rest), map_location=where, weights_only=True)
                if state.get("config") == config:
                    return state
        said = "goes on from the one before" if each == path and _before(path).exists() else "begins again"
        print(f"clsl: the checkpoint {each} is damaged, or of another training: the training {said}", file=sys.stderr)
    return None


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Keep the weights of a network as safetensors, with their checksum. Raises OSError where the disk is full."""
    weights = {name: value.cpu().contiguous() for name, value in weights.items()}
    write(path, safetensors.save(weights, {"clsl": f"1 {_checksum_of(weights)}"}))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a network. Raises Damaged where the file is not as it was saved."""
    try:
        with safe_open(path, "pt") as file:
            seal = (file.metadata() or {}).get("clsl")
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, ValueError, SafetensorError) as error:
        raise Damaged(f"the weights {path} are damaged ({str(error).splitlines()[0][:80]})") from None
    if seal != f"1 {_checksum_of(weights)}":
        raise Damaged(f"the weights {path} are damaged, or of an earlier version")
    return weights


def _checksum_of(weights: Mapping[str, torch.Tensor]) -> str:
    total = hashlib.sha256()
    for name, value in sorted(weights.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def remove(path: Path) -> None:
    """Remove the states of a training that is finished."""
    for each in (path, _before(path)):
        each.unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_suffix(".before")


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
