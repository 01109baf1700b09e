"""What made a number: the code, the commit, the hardware. Needs no torch until it is asked for the hardware."""

import ast
import functools
import hashlib
import io
import platform
import subprocess
import tokenize
from collections.abc import Iterable
from pathlib import Path

from . import ROOT

# What can change a number, in the order of the method (downloads cannot: what they bring is checked by its hash).
SOURCES = "information wordnet images cifar layouts data clusters augment pixels distributed encoders losses methods evaluate train".split()


@functools.cache
def source_digest() -> str:
    """A hash of the code that can change a number (SOURCES), its comments and docstrings left out."""
    return digest(Path(__file__).with_name(f"{name}.py").read_text() for name in SOURCES)


def digest(sources: Iterable[str]) -> str:
    """A hash of some Python sources, their comments and docstrings left out."""
    return hashlib.sha256("".join(map(_code, sources)).encode()).hexdigest()[:12]


def _code(source: str) -> str:
    """The source without comments, docstrings and blank lines; the same under every version of Python."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines[docstring.lineno - 1 : docstring.end_lineno] = [""] * (docstring.end_lineno - docstring.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def commit() -> str:
    """The commit of the checkout, and whether its code and notebooks are as committed."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "clsl", "notebooks"], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with uncommitted changes" if changed else head


def machine() -> dict[str, str | int]:
    """Device, threads and versions of this process."""
    import torch  # here, for it takes seconds

    from . import distributed, encoders

    where, alone = encoders.device(), distributed.world() == 1
    processor = torch.cuda.get_device_name() if where.type == "cuda" else _processor()
    return {
        "device": processor if alone else f"{distributed.world()} × {processor}",
        "threads": torch.get_num_threads(),
        "bfloat16": encoders.precision(where) == torch.bfloat16,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "source": source_digest(),
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
