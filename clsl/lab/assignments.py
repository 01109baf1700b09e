"""The checks of the three assignments in docs/teaching.md: python -m clsl check 1 my_solution.py"""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import clusters, information
from ..config import Pretraining
from ..losses import cl_infonce
from . import experiment, runs

ROWS = 2048  # views in the batch of the first assignment
QUICK = dict(dataset="cifar10", train_size=4000, test_size=4000, epochs=3, batch_size=128)


def check(number: int, solution: Path) -> str:
    """What is said of a solution, a Python file. Raises ValueError, with what is missing, where it does not pass; OSError for no file."""
    if number not in CHECKS:
        raise ValueError(f"there is no assignment {number}: choose from {', '.join(map(str, CHECKS))}")
    if not solution.is_file():
        raise OSError(f"there is no file {solution}")
    try:
        given = runpy.run_path(str(solution))
    except Exception as error:  # whatever a student writes
        raise ValueError(f"{solution} does not run: {type(error).__name__}: {error}") from None
    return CHECKS[number](given)


def _needed(given: dict[str, Any], name: str, kind: type | Callable) -> Any:
    if name not in given or not (callable(given[name]) if kind is callable else isinstance(given[name], kind)):
        raise ValueError(f"the solution must define {name}")
    return given[name]


def loss_without_mask(given: dict[str, Any]) -> str:
    """1: loss(u, v, z, temperature) equals Cl-InfoNCE with its gradient, and keeps one table of all pairs for backward."""
    loss = _needed(given, "loss", callable)
    generator = torch.Generator().manual_seed(0)
    for n, k in ((6, 3), (64, 5), (ROWS // 2, 100)):
        u, v = (torch.randn(n, 16, generator=generator, requires_grad=True) for _ in "uv")
        z = torch.randint(0, k, (n,), generator=generator)
        for temperature in (0.1, 0.5):
            mine, theirs = loss(u, v, z, temperature), cl_infonce(u, v, z, temperature)
            if not torch.isclose(mine, theirs, rtol=1e-4):
                raise ValueError(f"with {n} images in {k} clusters and temperature {temperature} the loss is {mine:.4f}, not {theirs:.4f}")
            gradients = [torch.autograd.grad(each, (u, v), materialize_grads=True) for each in (mine, theirs)]
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(*gradients)):
                raise ValueError(f"with {n} images in {k} clusters the loss is right and its gradient is not")
    tables = _kept(loss, u, v, z) / (4 * ROWS**2)
    if tables > 1.2:
        raise ValueError(f"right, but autograd keeps {tables:.1f} tables of all pairs: without the mask one will do")
    return f"passed: right to four digits, and keeps {tables:.1f} tables of all pairs"


def better_than_simclr(given: dict[str, Any]) -> str:
    """2: CLUSTERS, as clusters.make names them, which do not give the label away, on which Cl-InfoNCE beats SimCLR in two of three seeds."""
    spec = _needed(given, "CLUSTERS", str)
    images = experiment.Experiment("check").images(QUICK)
    z = clusters.make(spec, images)
    if spec.partition(":")[0] in ("split", "permuted", "instances") or _bits(images.labels, z)[1] < 0.05:
        raise ValueError(f"{spec} gives every image's label away, or is made of labels: find clusters that somebody could have")
    pairs = [[_top1(method, spec, seed) for method in ("cl_infonce", "simclr")] for seed in range(3)]
    wins = sum(a > b for a, b in pairs)
    said = ", ".join(f"{a:.1f} against {b:.1f}" for a, b in pairs)
    if wins < 2:
        raise ValueError(f"{spec} beats SimCLR in {wins} of 3 seeds: {said}")
    return f"passed: {said}"


def breaking_a4(given: dict[str, Any]) -> str:
    """3: BETTER and WORSE, two clusterings: the first knows more of the label and no more beside it, and is worse in two of three seeds."""
    better, worse = _needed(given, "BETTER", str), _needed(given, "WORSE", str)
    images = experiment.Experiment("check").images(QUICK)
    (i, h), (other_i, other_h) = (_bits(clusters.make(spec, images), images.labels) for spec in (better, worse))
    if i < other_i + 0.05 or h > other_h + 0.05:
        raise ValueError(f"by A4 {better} (I {i:.2f}, H {h:.2f}) need not be better than {worse} (I {other_i:.2f}, H {other_h:.2f})")
    pairs = [[_top1("cl_infonce", spec, seed) for spec in (better, worse)] for seed in range(3)]
    said = ", ".join(f"{a:.1f} against {b:.1f}" for a, b in pairs)
    if sum(a < b for a, b in pairs) < 2:
        raise ValueError(f"A4 stands: {said}")
    return f"passed, and a finding: {said}"


CHECKS = {1: loss_without_mask, 2: better_than_simclr, 3: breaking_a4}


def _kept(loss: Callable, u: torch.Tensor, v: torch.Tensor, z: torch.Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, every storage once."""
    storages = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = (x.untyped_storage().nbytes(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss(u, v, z, 0.1)
    return sum(size for size, _ in storages.values())


def _bits(z: torch.Tensor, t: torch.Tensor) -> tuple[float, float]:
    return information.mutual_information(z, t), information.conditional_entropy(z, given=t)


def _top1(method: str, spec: str, seed: int) -> float:
    own = {} if method == "simclr" else {"clusters": spec}
    return runs.get(Pretraining(method=method, seed=seed, **QUICK, **own)).result["top1"]
