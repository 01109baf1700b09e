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
