"""Precision and recall of generated pictures, from features (Kynkaanniemi et al. 2019).

A set of features stands for the union of balls around them, each as wide as the distance to its
k-th nearest neighbour in the set, itself left out. Precision is the share of generated pictures
within the real ones' balls (do they look real?), recall the share of real pictures within the
generated ones' (is everything drawn?). Source: arXiv 1904.06991, Eq. 1 and 2.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from .rates import Rate


def radii(features: np.ndarray, k: int = 3, block: int = 1024) -> np.ndarray:
    """[N] distance of each vector of [N, D] to its k-th nearest neighbour, itself left out.

    Raises:
        ValueError: if there are not more than k vectors.
    """
    if len(features) <= k:
        raise ValueError(f"{k} neighbours of a picture need more than {len(features)} pictures")
    return np.concatenate(
        [
            np.partition(cdist(features[start : start + block], features), k, axis=1)[:, k]
            for start in range(0, len(features), block)
        ]
    )


def within(
    points: np.ndarray, features: np.ndarray, radius: np.ndarray, block: int = 1024
) -> np.ndarray:
    """[N] bool: which of the points [N, D] lie within a ball around one of the features [M, D]."""
    return np.concatenate(
        [
            (cdist(points[start : start + block], features) <= radius).any(axis=1)
            for start in range(0, len(points), block)
        ]
    )


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> tuple[Rate, Rate]:
    """(precision, recall); swapping the two sets swaps them.

    Args:
        real: [N, D] features of real pictures.
        generated: [M, D] features of generated ones, by the same network.
        k: the neighbour that a ball reaches.

    Raises:
        ValueError: if a set has not more than k vectors, or a value is not finite.
    """
    real, generated = (np.asarray(found, np.float64) for found in (real, generated))
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise ValueError("the features hold values that are not finite")
    return (
        Rate.of(within(generated, real, radii(real, k))),
        Rate.of(within(real, generated, radii(generated, k))),
    )
