"""The executable companion to the Cl-InfoNCE papers. Read the modules in the order of the method (README.md)."""

import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout: notebooks/, figures/, runs/


class Diverged(ValueError):
    """A training whose numbers are no longer finite: it would end so again."""


def printable(text: str) -> str:
    """Text without control characters, which could steer a terminal: these are shown as Python writes them."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def load(name: str | Path):
    """A trained encoder by its name, or by as much of it as no other has, or by its run's folder: a lab.use.Encoder.

        encoder = clsl.load("supcon")
        features = encoder.embed(["one.jpg", "two.jpg"])  # or Images, PIL images, an array uint8 [N, H, W, 3]
    """
    return importlib.import_module("clsl.lab.use").load(name)


def __getattr__(name: str):
    """`from clsl import runs`, from wherever the house keeps it; only then, for torch takes seconds to import."""
    if name == "runs":
        return importlib.import_module("clsl.lab.runs")
    raise AttributeError(f"module 'clsl' has no attribute {name!r}")
