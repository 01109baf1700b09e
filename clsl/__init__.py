"""The executable companion to the Cl-InfoNCE papers. Read the modules in the order of the method (README.md)."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout: notebooks/, figures/, runs/
