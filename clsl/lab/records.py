"""What a finished run has to say, in one small file that can be committed, and what made it: code, commit, machine.

A record holds a run's configuration, result, history and the classes predicted of the test images.
"""

import base64
import dataclasses
import functools
import hashlib
import json
import platform
import subprocess
import zlib
from pathlib import Path

import numpy as np
import torch

from .. import ROOT, device
from ..config import Pretraining
from ..data import kept
from ..data.kept import Damaged
from .fingerprint import source

FORM = 1  # of the file


def write(path: Path, config: Pretraining, result: dict, history: list[dict], predicted: torch.Tensor, origin: dict = {}) -> None:
    """Keep a run's result, its history (a row an epoch) and the classes predicted of the test images, int64 [M].

    origin: more of what made it, beside this machine, commit and source: `data`, `also_on`.
    """
    classes = base64.b64encode(zlib.compress(predicted.numpy().astype("<i2").tobytes(), 9)).decode()
    record = {"form": FORM, "config": dataclasses.asdict(config), "result": result, "history": history}
    record |= {"predicted": classes, "made_by": machine() | {"commit": commit(), "source": source(config)} | origin}
    kept.write(path, _text(record | {"sha256": _checksum(record)}).encode())


def read(path: Path, config: Pretraining) -> dict:
    """The record of a configuration. Raises Damaged, in one line, where the file is not whole or is of another run or source."""
    try:
        record = json.loads(path.read_text())
        checksum = record.pop("sha256")
        whole = checksum == _checksum(record) and record["form"] == FORM
        mine = record["config"] == dataclasses.asdict(config) and record["made_by"]["source"] == source(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = mine = False
    if not whole:
        raise Damaged(f"the record {path} is damaged")
    if not mine:
        raise Damaged(f"the record {path} is of another configuration or source than its name says")
    return record


def predicted(record: dict) -> torch.Tensor:
    """The classes int64 [M] that the linear probe gave the test images."""
    return torch.from_numpy(np.frombuffer(zlib.decompress(base64.b64decode(record["predicted"])), "<i2").astype(np.int64))


def _text(record: dict) -> str:
    """JSON with a line for each part, and for each epoch."""
    history = ",\n  ".join(json.dumps(row) for row in record["history"])
    parts = [f'"{key}": {json.dumps(value)}' for key, value in record.items() if key != "history"]
    return "{" + ",\n ".join([*parts[:3], f'"history": [\n  {history}]', *parts[3:]]) + "}\n"


def _checksum(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@functools.cache
def commit() -> str:
    """The commit of the checkout, and whether its code and notebooks are as committed."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "clsl", "notebooks"], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with uncommitted changes" if changed else head


def machine() -> dict[str, str | int | bool]:
    """Device, threads, precision and versions of this process; numbers depend on the first three."""
    where, alone = device.device(), device.world() == 1
    processor = torch.cuda.get_device_name() if where.type == "cuda" else _processor()
    return {
        "device": processor if alone else f"{device.world()} × {processor}",
        "threads": torch.get_num_threads(),
        "bfloat16": device.precision(where) == torch.bfloat16,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def hardware(made_by: dict) -> str:
    """What `machine` told, in a few words."""
    precision = "bfloat16" if made_by["bfloat16"] else "float32"
    return f"{made_by['device']}, {made_by['threads']} CPU threads, {precision}, torch {made_by['torch']}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
