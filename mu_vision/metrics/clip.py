"""CLIP score and zero-shot labels from image and text features.

CLIP score: Hessel et al. 2021, arXiv 2104.08718, as 100 max(cos, 0) (the paper's factor is 2.5
instead of 100). Zero shot: Radford et al. 2021, arXiv 2103.00020.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def normalised(features: np.ndarray) -> np.ndarray:
    """Rows [..., D] scaled to length 1, float32; rows of zeros stay zeros."""
    features = np.asarray(features, np.float32)
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)


def clip_scores(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Score of each picture with its own text, [N] float32 in [0, 100].

    Args:
        images: [N, D] image features.
        texts: [N, D] features of the text of each picture.
    """
    cosine = (normalised(images) * normalised(texts)).sum(axis=-1)
    return 100 * np.maximum(cosine, 0)


def zero_shot_pairs(images: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Style and object of each picture: those of the prompt that fits it best.

    Args:
        images: [N, D] image features.
        texts: [S, O, D] features of the prompt of every style and object.

    Returns:
        Positions of the styles [N] and of the objects [N], int64.
    """
    best = zero_shot(images, texts.reshape(-1, texts.shape[-1]))
    return best // texts.shape[1], best % texts.shape[1]


def zero_shot(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """[N] int64: the class whose text feature is nearest by cosine."""
    return (normalised(images) @ normalised(classes).T).argmax(axis=-1)


def image_similarity(images1: np.ndarray, images2: np.ndarray) -> np.ndarray:
    """[N] cosine of paired pictures, in [-1, 1]."""
    return (normalised(images1) * normalised(images2)).sum(axis=-1)


def nearest_classes(features: np.ndarray, labels: np.ndarray, targets: Sequence[int]) -> list[int]:
    """The other classes, those most like the targets first.

    Likeness is the cosine between mean features; with several targets that to the nearest one.

    Args:
        features: [N, D] image features.
        labels: [N] classes 0 .. K-1, each with at least one picture.
        targets: classes to be compared with.
    """
    means = np.stack([features[labels == k].mean(axis=0) for k in range(int(labels.max()) + 1)])
    means = normalised(means)
    alike = (means @ means[list(targets)].T).max(axis=1)
    return [k for k in np.argsort(-alike, kind="stable").tolist() if k not in targets]
