"""The Frechet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500).

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

The product C1 C2 is not symmetric, but it has the eigenvalues of the symmetric R^T C2 R with
C1 = R R^T, so its root has the trace ``sum sqrt(eigenvalues)``: a factorisation and a symmetric
eigenproblem in float64 take the place of a general matrix root. With fewer samples than
dimensions the trace is the sum of the singular values of A B^T (C1 = A^T A, C2 = B^T B, A and B
the centred features), a small n1 x n2 problem that never squares the condition number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass
class FeatureStatistics:
    """Count, mean and scatter of feature vectors, gathered in a stream in float64.

    Parts can be gathered anywhere and merged (Chan, Golub and LeVeque 1979): the result is that
    of one pass over all of them, up to float64 rounding.

    Attributes:
        count: vectors seen.
        mean: [D].
        scatter: [D, D], sum of (x - mean)(x - mean)^T.
    """

    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scatter: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @classmethod
    def of(cls, features: np.ndarray | Iterable[np.ndarray]) -> FeatureStatistics:
        """Statistics of one array [N, D], or of an iterable of such blocks."""
        found = cls()
        for block in [features] if isinstance(features, np.ndarray) else features:
            found.update(block)
        return found

    def update(self, features: np.ndarray) -> None:
        """Add the vectors of a block [N, D]."""
        block = np.asarray(features, np.float64)
        if block.ndim != 2:
            raise ValueError(f"features must be [N, D], not {list(block.shape)}")
        if len(block):
            mean = block.mean(axis=0)
            centred = block - mean
            self.merge(FeatureStatistics(len(block), mean, centred.T @ centred))

    def merge(self, other: FeatureStatistics) -> None:
        """Take in the vectors that another instance has seen."""
        if not other.count:
            return
        if not self.count:
            self.count, self.mean, self.scatter = other.count, other.mean, other.scatter
            return
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"{len(self.mean)} dimensions cannot merge with {len(other.mean)}")
        total = self.count + other.count
        shift = other.mean - self.mean
        weight = self.count * other.count / total
        self.mean = self.mean + shift * (other.count / total)
        self.scatter = self.scatter + other.scatter + weight * np.outer(shift, shift)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """[D, D] unbiased covariance (n - 1), as pytorch-fid's ``np.cov``."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 vectors, not {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """Squared Frechet distance of two Gaussians, the number that is called FID.

    Args:
        mean1: [D], of the first.
        covariance1: [D, D] of the first, symmetric positive semidefinite.
        mean2: [D], of the second.
        covariance2: [D, D] of the second.

    Returns:
        A number >= 0; agrees with ``pytorch_fid.fid_score.calculate_frechet_distance``.

    Raises:
        ValueError: if shapes differ or a value is not finite.
    """
    means = [np.atleast_1d(np.asarray(m, np.float64)) for m in (mean1, mean2)]
    covariances = [np.atleast_2d(np.asarray(c, np.float64)) for c in (covariance1, covariance2)]
    if means[0].shape != means[1].shape or covariances[0].shape != covariances[1].shape:
        raise ValueError("both Gaussians must have the same number of dimensions")
    if not all(np.isfinite(array).all() for array in (*means, *covariances)):
        raise ValueError("the feature statistics hold values that are not finite")
    difference = means[0] - means[1]
    traces = sum(float(np.trace(c)) for c in covariances)
    distance = float(difference @ difference) + traces - 2 * _trace_of_root(*covariances)
    return max(distance, 0.0)


def _trace_of_root(covariance1: np.ndarray, covariance2: np.ndarray) -> float:
    """Trace of (C1 C2)^(1/2)."""
    root = _factor(torch.from_numpy(covariance1))
    if root.shape[1] == 0:
        return 0.0
    eigenvalues = torch.linalg.eigvalsh(root.T @ torch.from_numpy(covariance2) @ root)
    return float(eigenvalues.clamp(min=0).sqrt().sum())


def _factor(covariance: torch.Tensor) -> torch.Tensor:
    """R [D, K] with R R^T = C: Cholesky's factor, or the eigenvectors of a singular C."""
    noise = len(covariance) * torch.finfo(torch.float64).eps
    root, fault = torch.linalg.cholesky_ex(covariance)
    pivots = root.diagonal() ** 2
    if not int(fault) and pivots.min() > noise * pivots.max():
        return root
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > noise * values.abs().max()
    return vectors[:, kept] * values[kept].sqrt()


def frechet_from_features(features1: np.ndarray, features2: np.ndarray) -> float:
    """Squared Frechet distance of two sets of features [N1, D] and [N2, D].

    Uses the small n1 x n2 form when a set has no more vectors than dimensions (its covariance is
    then singular), and streamed statistics otherwise.

    Raises:
        ValueError: if a set has fewer than 2 vectors or a value is not finite.
    """
    features1, features2 = np.asarray(features1), np.asarray(features2)
    if min(len(features1), len(features2)) > features1.shape[1]:
        first, second = FeatureStatistics.of(features1), FeatureStatistics.of(features2)
        return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)
    if min(len(features1), len(features2)) < 2:
        raise ValueError("a Frechet distance needs at least 2 pictures on each side")
    if not (np.isfinite(features1).all() and np.isfinite(features2).all()):
        raise ValueError("the features hold values that are not finite")
    mean1, root1 = _centred(features1)
    mean2, root2 = _centred(features2)
    product = torch.from_numpy(root1 @ root2.T)
    trace = float(torch.linalg.svdvals(product).sum())
    difference = mean1 - mean2
    spread = float((root1**2).sum() + (root2**2).sum())
    return max(float(difference @ difference) + spread - 2 * trace, 0.0)


def _centred(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D], and A [N, D] with A^T A = the unbiased covariance."""
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=0)
    return mean, (features - mean) / np.sqrt(len(features) - 1)
