"""How much clusters and labels say about each other: H(Z), I(Z;T) and H(Z|T), in bits.

Plug-in estimates from counts; paper A judges clusters by the last two (claim A4).
"""

import numpy as np
from numpy.typing import ArrayLike


def entropy(z: ArrayLike) -> float:
    """H(Z) in bits of the integer ids z [N]; 0 for one cluster, log2 N for one image a cluster.

    Raises ValueError where z is not a non-empty 1-D integer array.
    """
    _, counts = np.unique(_ids(z), return_counts=True)
    p = counts / counts.sum()
    return max(0.0, float(-(p * np.log2(p)).sum()))


def mutual_information(z: ArrayLike, t: ArrayLike) -> float:
    """I(Z;T) = H(Z) + H(T) - H(Z,T) in bits, of two integer arrays [N] of any ids.

    Raises ValueError where the two differ in length or either is not a 1-D integer array.
    """
    return max(0.0, entropy(z) + entropy(t) - entropy(_pairs(z, t)))


def conditional_entropy(z: ArrayLike, given: ArrayLike) -> float:
    """H(Z|T) = H(Z,T) - H(T) in bits: what is left to say about z [N] once `given` [N] is known.

    Raises ValueError where the two differ in length or either is not a 1-D integer array.
    """
    return max(0.0, entropy(_pairs(z, given)) - entropy(given))


def partial_information(s1: ArrayLike, s2: ArrayLike, t: ArrayLike) -> dict[str, float]:
    """What two sources tell of a target, I(S1,S2;T) in bits, in its redundant, two unique and synergistic parts.

    s1, s2, t: integer arrays [N], one entry a case, all cases equally likely. Redundant is Williams and Beer's I_min (2010):
    Σ_t p(t) min_i I(S_i;T=t), with I(S;T=t) = Σ_s p(s|t) log2(p(t|s) / p(t)). Raises ValueError as
    mutual_information does.
    """
    both = mutual_information(_pairs(s1, s2), t)
    one, two = mutual_information(s1, t), mutual_information(s2, t)
    values, counts = np.unique(_ids(t), return_counts=True)
    told = np.minimum(*([_specific(_ids(s), _ids(t), value) for value in values] for s in (s1, s2)))
    redundant = float((counts / counts.sum() * told).sum())
    parts = {"redundant": redundant, "unique_1": one - redundant, "unique_2": two - redundant}
    return parts | {"synergistic": both - one - two + redundant}


def _specific(s: np.ndarray, t: np.ndarray, value: int) -> float:
    """I(S;T=value) in bits."""
    here = t == value
    states, counts = np.unique(s[here], return_counts=True)
    backward = np.array([here[s == state].mean() for state in states])
    return float((counts / counts.sum() * np.log2(backward / here.mean())).sum())


def _ids(z: ArrayLike) -> np.ndarray:
    z = np.asarray(z)
    if z.ndim != 1 or z.size == 0 or not np.issubdtype(z.dtype, np.integer):
        raise ValueError(f"ids must be a non-empty 1-D array of integers, got {z.dtype} of shape {z.shape}")
    return z


def _pairs(z: ArrayLike, t: ArrayLike) -> np.ndarray:
    """One id for each pair (z, t)."""
    z, t = _ids(z), _ids(t)
    if len(z) != len(t):
        raise ValueError(f"both arrays must describe the same images, got {len(z)} and {len(t)} ids")
    t_values, t_ids = np.unique(t, return_inverse=True)
    return np.unique(z, return_inverse=True)[1] * len(t_values) + t_ids
