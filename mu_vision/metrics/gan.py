"""What a GAN has forgotten and kept, from what a scorer says of the same latents before and after.

    PUL = 100 (N_G - N_P) / N_G

N_G and N_P count the pictures of the target among those of the original and of the unlearned
generator, on the same latents (Tiwary et al., TMLR 2025). It is negative if more show it than
before. A scorer has false positives, so a GAN that never saw the target has no PUL of 100; what
counts is the distance to its PUL.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..errors import RunError
from ..models.gan import Gan


def pul(before: np.ndarray, after: np.ndarray) -> float:
    """PUL in percent.

    Args:
        before: [N] bool, where the original's picture shows the target.
        after: [N] bool, the same latents of the unlearned generator.

    Raises:
        RunError: if none did before.
    """
    if before.shape != after.shape:
        raise ValueError("PUL needs the same latents before and after")
    had = int(np.count_nonzero(before))
    if not had:
        raise RunError(
            f"None of the original's {before.size:,} pictures shows the target, so PUL is not defined;"
            " take more latents, or another target."
        )
    return 100 * (had - int(np.count_nonzero(after))) / had


def pul_interval(
    before: np.ndarray, after: np.ndarray, seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """95 % percentile bootstrap of PUL over latents.

    Latents fall into four cells (before, after), so a resample is one draw of four counts.
    """
    cells = np.array(
        [np.count_nonzero((before == b) & (after == a)) for b in (0, 1) for a in (0, 1)]
    )
    counts = np.random.default_rng(seed).multinomial(before.size, cells / before.size, draws)
    had, have = counts[:, 2] + counts[:, 3], counts[:, 1] + counts[:, 3]
    values = 100 * (had - have) / np.maximum(had, 1)
    low, high = np.percentile(values[had > 0], [2.5, 97.5])
    return float(low), float(high)


def balance(labels: np.ndarray, kept: np.ndarray) -> float:
    """Entropy of the histogram of the kept classes, divided by its largest value; in [0, 1].

    Args:
        labels: [N] positions of classes.
        kept: [K] bool, the classes that are not to be forgotten.
    """
    counts = np.bincount(labels, minlength=len(kept))[kept].astype(np.float64)
    if len(counts) < 2 or not counts.sum():
        return 0.0
    shares = counts / counts.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))


def moved(before: np.ndarray, after: np.ndarray, kept: np.ndarray) -> float:
    """Mean |relative change| of the counts of the kept classes that occurred before.

    The collateral shift: what unlearning did to classes that it was not asked about.
    """
    old = np.bincount(before, minlength=len(kept))[kept]
    new = np.bincount(after, minlength=len(kept))[kept]
    there = old > 0
    return float(np.mean(np.abs(new[there] - old[there]) / old[there])) if there.any() else 0.0


@torch.no_grad()
def neighbour_path(
    gan: Gan,
    features: Callable[[torch.Tensor], torch.Tensor],
    pairs: torch.Tensor,
    step: float = 0.01,
    batch: int = 128,
) -> float:
    """Perceptual path length (Karras et al. 2019, arXiv 1812.04948): is the latent space smooth?

    The mean of |f(G(z)) - f(G(z'))|^2 / step^2 where z and z' are neighbours on the great circle
    through a pair of latents, at the middle between them.

    Args:
        gan: the GAN.
        features: pictures [N, C, S, S] in [-1, 1] to [N, D].
        pairs: [2, N, latent].
        step: distance of the neighbours, as a share of the way.
        batch: pairs at a time.
    """
    total = 0.0
    for first, second in zip(pairs[0].split(batch), pairs[1].split(batch), strict=True):
        near, far = (
            features(gan.generator(slerp(first, second, at).to(gan.device)).clamp(-1, 1))
            for at in (0.5, 0.5 + step)
        )
        total += float((near - far).double().square().sum()) / step**2
    return total / pairs.shape[1]


def slerp(first: torch.Tensor, second: torch.Tensor, at: float) -> torch.Tensor:
    """Points [N, D] on the great circles from first to second, with lengths in between."""
    sizes = [z.norm(dim=1, keepdim=True) for z in (first, second)]
    a, b = first / sizes[0], second / sizes[1]
    angle = (a * b).sum(1, keepdim=True).clamp(-1 + 1e-7, 1 - 1e-7).acos()
    turned = (torch.sin((1 - at) * angle) * a + torch.sin(at * angle) * b) / torch.sin(angle)
    return turned * (sizes[0] + at * (sizes[1] - sizes[0]))
