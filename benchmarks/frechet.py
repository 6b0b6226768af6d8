"""Time the eigenvalue form of the Frechet distance against pytorch-fid's, both in this run.

    python benchmarks/frechet.py [dimensions=2048] [samples=5000] [repeats=1]

Prints both times, their ratio and the relative difference of the two numbers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import scipy.linalg
from pytorch_fid import fid_score

from mu_vision.metrics.frechet import frechet_distance


def features(samples: int, dimensions: int, seed: int) -> np.ndarray:
    """[N, D] correlated, non-negative, with a decaying spectrum: like pooled Inception features."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(dimensions, dimensions)) * np.arange(1, dimensions + 1) ** -0.5
    return np.maximum(random.normal(size=(samples, dimensions)) @ mixing.T / 4 + 0.3, 0)


def timed(function: Callable[..., float], arguments: tuple, repeats: int) -> tuple[float, float]:
    """The value, and the fastest of the repeats in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return float(value), min(seconds)


def main(dimensions: int = 2048, samples: int = 5000, repeats: int = 1) -> None:
    sets = [features(samples, dimensions, seed) for seed in (0, 1)]
    arguments = tuple(a for x in sets for a in (x.mean(0), np.cov(x, rowvar=False)))
    root = scipy.linalg.sqrtm
    # pytorch-fid 0.3.0 calls sqrtm(disp=False), which newer SciPy removes.
    pair = mock.patch.object(
        scipy.linalg, "sqrtm", lambda a, disp=True: root(a) if disp else (root(a), 0.0)
    )
    ours, fast = timed(frechet_distance, arguments, repeats)
    with pair:
        theirs, slow = timed(fid_score.calculate_frechet_distance, arguments, repeats)
    print(f"{dimensions} dimensions, {samples} samples")
    print(f"eigenvalue form {fast:8.2f} s   {ours:.10g}")
    print(f"pytorch-fid     {slow:8.2f} s   {theirs:.10g}")
    print(f"ratio {slow / fast:.1f}, relative difference {abs(ours - theirs) / theirs:.1e}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
