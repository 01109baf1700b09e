"""What a finished run has to say, in one small file that can be committed, and what made it: code, commit, machine.

A record holds a run's configuration, result, history and its classes of the test images. A run is named by a hash of its whole
configuration and of the source that can change its numbers, so an old number never stands for new code.
"""

import ast
import base64
import dataclasses
import functools
import hashlib
import inspect
import json
import platform
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from .. import ROOT, device
from ..config import Pretraining
from ..data import cifar
from ..methods import METHODS

FORM = 1  # of the file
_FLOOR = "information wordnet clusters augment encoders losses methods/method train evaluate device data/__init__".split()


class Damaged(ValueError):
    """A record that cannot be believed."""


def name(config: Pretraining) -> str:
    """The method, and a hash of the configuration and of the source that can change its numbers."""
    key = json.dumps(dataclasses.asdict(config), sort_keys=True) + source(config)
    return f"{config.method}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def write(path: Path, config: Pretraining, result: dict, history: list[dict], predicted: torch.Tensor) -> None:
    """Keep a run's result, its history (a row an epoch) and the classes predicted of the test images, int64 [M]."""
    classes = base64.b64encode(zlib.compress(predicted.numpy().astype("<i2").tobytes(), 9)).decode()
    record = {"form": FORM, "config": dataclasses.asdict(config), "result": result, "history": history}
    record |= {"predicted": classes, "made_by": machine() | {"commit": commit(), "source": source(config)}}
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(_text(record | {"sha256": _checksum(record)}))
    unfinished.replace(path)


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


def source(config: Pretraining) -> str:
    """A hash of the code that can change a configuration's numbers: the method's floor, its method, its data set's reader."""
    module = METHODS[config.method].module
    classes = [module.func, *module.args] if isinstance(module, functools.partial) else [module]
    methods = {base.__module__ for each in classes for base in inspect.getmro(each) if base.__module__.startswith("clsl.")}
    kind = config.dataset.partition(":")[0]
    return _digest(tuple(sorted(m.removeprefix("clsl.").replace(".", "/") for m in methods)), kind)


@functools.cache
def _digest(methods: tuple[str, ...], kind: str) -> str:
    reader = ("data/cifar", kind) if kind in cifar.DATASETS else ("data/layouts", kind)
    code = [tuple(_code(file)) for file in dict.fromkeys([*_FLOOR, *methods])] + [tuple(_code(*reader))]
    if kind not in cifar.DATASETS:
        code.append(tuple(_code("data/packing")))
    return hashlib.sha256(repr(code).encode()).hexdigest()[:12]


def _code(file: str, reader: str | None = None) -> Iterator[str]:
    """What counts in a file: each definition, without what cannot change a number; of a reader's file only what the reader uses."""
    tree = ast.parse((ROOT / "clsl" / f"{file}.py").read_text())
    if reader is None:
        yield from filter(None, map(_plain, tree.body))
        return
    defined = {name: node for node in tree.body for name in _names(node)}
    wanted, used = [reader], set()
    while wanted:
        if (name := wanted.pop()) in defined and name not in used:
            used.add(name)
            wanted += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    yield from (_plain(defined[name]) for name in sorted(used))


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return [node.name] if hasattr(node, "name") else []


def _plain(node) -> str:
    """A syntax tree as text, the same under every version of Python.

    Left out are comments, docstrings, type hints, imports, what an error says, and conditions that only raise one: a reworded
    message or one more check changes no number.
    """
    if isinstance(node, list):
        kept = [item for item in node if not (isinstance(item, ast.stmt) and _idle(item))]
        return "[" + ",".join(map(_plain, kept)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.stmt) and _idle(node):
        return ""
    if isinstance(node, ast.Raise):
        return "Raise"
    parts = [(field, value) for field, value in ast.iter_fields(node) if value not in (None, []) and field not in _HINTS]
    return f"{type(node).__name__}({','.join(f'{field}={_plain(value)}' for field, value in sorted(parts))})"


_HINTS = ("annotation", "returns", "type_comment", "kind", "type_params", "ctx")


def _idle(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return not node.orelse and all(isinstance(each, ast.Raise) for each in node.body)
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return text or isinstance(node, (ast.Import, ast.ImportFrom))


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
