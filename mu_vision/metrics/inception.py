"""The Inception Score, with any classifier (Salimans et al. 2016, arXiv 1606.03498).

    IS = exp( mean over x of KL( p(y | x) || p(y) ) ),   p(y) = mean of p(y | x)

It lies between 1 (every picture gets the same answer) and the number of classes (sure answers, all
classes alike). The name is kept for a judge that is no Inception network; its numbers can only be
compared under one judge.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import entropy


def inception_score(probabilities: np.ndarray, splits: int = 1, seed: int = 0) -> float:
    """Mean score over splits of the pictures.

    Args:
        probabilities: [N, K], a judge's p(y | x), rows that sum to 1.
        splits: parts of equal size that are scored each by itself.
        seed: of the order: pictures that lie sorted by class would make parts of one class.

    Raises:
        ValueError: if there are fewer pictures than splits, or rows do not sum to 1.
    """
    p = np.asarray(probabilities, np.float64)
    if not 1 <= splits <= len(p):
        raise ValueError(f"{len(p)} pictures cannot make {splits} splits")
    if not np.allclose(p.sum(axis=1), 1, atol=1e-3):
        raise ValueError("the probabilities of a picture must sum to 1")
    order = np.random.default_rng(seed).permutation(len(p))
    scores = []
    for rows in np.array_split(order, splits):
        marginal = np.broadcast_to(p[rows].mean(axis=0), p[rows].shape)
        scores.append(np.exp(entropy(p[rows], marginal, axis=1).mean()))
    return float(np.mean(scores))
