"""U-LiRA: a likelihood-ratio attack on unlearning, one attacker an example.

Source: Hayes et al. 2024, arXiv 2403.01218, after LiRA (Carlini et al. 2022, arXiv
2112.03570). For one example, phi = log p_y - log(1 - p_y) is collected from models that trained
on it and unlearned it (u) and from models that never saw it (o). Both get a Gaussian, and a
target's phi is scored

    N(phi; mu_u, s_u) / (N(phi; mu_u, s_u) + N(phi; mu_o, s_o)).

An attacker that does no better than 0.5 cannot tell the two apart: ideal unlearning. All rates
are fractions of 1. ``membership.logit_scaled_confidence`` gives phi from logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError
from .forgetting import to_array

VARIANCE_FLOOR = 1e-6


def _check(values: ArrayLike, name: str) -> np.ndarray:
    """Values as float64 [rows, n]; one row may come as [n]."""
    array = np.atleast_2d(to_array(values))
    if array.size == 0:
        raise UsageError(f"The {name} are empty.")
    if array.ndim != 2:
        raise UsageError(f"The {name} must be [models, n], not {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise UsageError(f"The {name} hold values that are not finite.")
    return array


def _log_density(phi: np.ndarray, shadows: np.ndarray, floor: float) -> np.ndarray:
    """Log of the Gaussian fitted to each column of shadows [S, n] at phi [T, n]."""
    variance = np.maximum(shadows.var(axis=0, ddof=1), floor)
    return -0.5 * ((phi - shadows.mean(axis=0)) ** 2 / variance + np.log(2 * np.pi * variance))


def lira_log_ratio(
    target_phi: ArrayLike,
    unlearned_phi: ArrayLike,
    unseen_phi: ArrayLike,
    variance_floor: float = VARIANCE_FLOOR,
) -> np.ndarray:
    """Log-likelihood ratio of "trained on and unlearned" to "never seen", for every example.

    Args:
        target_phi: [n], or [T, n] for several target models.
        unlearned_phi: [S_u, n] of shadow models that unlearned the example, S_u >= 2.
        unseen_phi: [S_o, n] of shadow models that never saw it, S_o >= 2.
        variance_floor: least variance of a Gaussian, > 0; variances are unbiased (S - 1).

    Returns:
        An array like ``target_phi``; positive speaks for "unlearned".

    Raises:
        UsageError: if arrays are empty, not finite, of different n, have fewer than 2 shadow
            models, or the floor is not positive.
    """
    target = _check(target_phi, "target values")
    unlearned = _check(unlearned_phi, "values of unlearned shadow models")
    unseen = _check(unseen_phi, "values of unseen shadow models")
    columns = [array.shape[1] for array in (target, unlearned, unseen)]
    if len(set(columns)) > 1:
        raise UsageError(
            f"Targets, unlearned and unseen shadow models need the same examples, not "
            f"{columns[0]}, {columns[1]} and {columns[2]}."
        )
    if min(len(unlearned), len(unseen)) < 2:
        raise UsageError(
            f"Each Gaussian needs at least 2 shadow models, not {len(unlearned)} unlearned and "
            f"{len(unseen)} unseen."
        )
    if not 0 < variance_floor < np.inf:
        raise UsageError(f"The variance floor must be > 0, not {variance_floor:g}.")
    ratio = _log_density(target, unlearned, variance_floor)
    ratio -= _log_density(target, unseen, variance_floor)
    return ratio.reshape(np.shape(target_phi))


def lira_scores(
    target_phi: ArrayLike,
    unlearned_phi: ArrayLike,
    unseen_phi: ArrayLike,
    variance_floor: float = VARIANCE_FLOOR,
) -> np.ndarray:
    """Probability, at even odds, that each target trained on the example and unlearned it.

    Args and errors are those of ``lira_log_ratio``.

    Returns:
        An array like ``target_phi``, in [0, 1]; 0.5 where both Gaussians are equally likely.
    """
    ratio = lira_log_ratio(target_phi, unlearned_phi, unseen_phi, variance_floor)
    return 0.5 * (1.0 + np.tanh(0.5 * ratio))  # the logistic function, without overflow


def _scores(values: ArrayLike, name: str) -> np.ndarray:
    return _check(np.ravel(to_array(values)), name)[0]


def auc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive outscores a negative, ties half.

    Args:
        positives: scores of any shape.
        negatives: scores of any shape.

    Returns:
        A fraction in [0, 1].

    Raises:
        UsageError: if a side is empty or not finite.
    """
    high, low = (
        _scores(positives, "positive scores"),
        np.sort(_scores(negatives, "negative scores")),
    )
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.mean() / (2 * len(low)))


def tpr_at_fpr(positives: ArrayLike, negatives: ArrayLike, fpr: float) -> float:
    """Largest share of positives found by a threshold whose false positive rate is <= ``fpr``.

    Args:
        positives: scores of any shape.
        negatives: scores of any shape; a rate below 1 over their number means no false positive.
        fpr: a fraction in [0, 1].

    Returns:
        A fraction in [0, 1], without interpolation.

    Raises:
        UsageError: if a side is empty or not finite, or ``fpr`` is not in [0, 1].
    """
    if not 0 <= fpr <= 1:
        raise UsageError(f"A false positive rate is a fraction between 0 and 1, not {fpr:g}.")
    high, low = (
        _scores(positives, "positive scores"),
        np.sort(_scores(negatives, "negative scores")),
    )
    # 0.29 * 100 is 28.999...: the small addition keeps the false positives that fpr allows
    allowed = int(fpr * len(low) + 1e-9)
    if allowed == len(low):
        return 1.0
    return float((high > low[-1 - allowed]).mean())


@dataclass(frozen=True)
class ULira:
    """Outcome of U-LiRA over all targets and examples.

    Attributes:
        accuracy: mean of the shares recognised on both sides with the score cut at 0.5 (a score
            of exactly 0.5 counts half); 0.5 is ideal.
        auc: area under the ROC curve; 0.5 is ideal.
        tpr_at_fpr: true positive rate by false positive rate; the same number is ideal.
        per_example: [n] accuracy of each example's own attacker.
        positives: target values that were trained on and unlearned.
        negatives: target values that never saw the example.
    """

    accuracy: float
    auc: float
    tpr_at_fpr: dict[float, float]
    per_example: tuple[float, ...]
    positives: int
    negatives: int


def ulira(
    unlearned_targets: ArrayLike,
    unseen_targets: ArrayLike,
    unlearned_phi: ArrayLike,
    unseen_phi: ArrayLike,
    fprs: Sequence[float] = (0.01, 0.001),
    variance_floor: float = VARIANCE_FLOOR,
) -> ULira:
    """Attack target models whose history is known, with Gaussians from other shadow models.

    Targets must not be among the shadow models, or the attack scores its own training data.

    Args:
        unlearned_targets: phi [n] or [T_u, n] of target models that unlearned the example.
        unseen_targets: phi [n] or [T_o, n] of target models that never saw it.
        unlearned_phi: [S_u, n] of shadow models, S_u >= 2.
        unseen_phi: [S_o, n] of shadow models, S_o >= 2.
        fprs: the false positive rates to report.
        variance_floor: least variance of a Gaussian, > 0.

    Returns:
        Accuracy, AUC and TPR at each FPR, with positives pooled over examples.

    Raises:
        UsageError: as ``lira_log_ratio``, or if a rate is not in [0, 1].
    """
    positive, negative = (
        lira_log_ratio(np.atleast_2d(to_array(phi)), unlearned_phi, unseen_phi, variance_floor)
        for phi in (unlearned_targets, unseen_targets)
    )
    return _outcome(positive, negative, fprs)


def ulira_left_out(
    unlearned_phi: ArrayLike,
    unseen_phi: ArrayLike,
    fprs: Sequence[float] = (0.01, 0.001),
    variance_floor: float = VARIANCE_FLOOR,
) -> ULira:
    """U-LiRA for few models: each is the target of Gaussians fitted to the others.

    Model k of both sides is left out at once: two sides that do not differ then score 0.5 on
    average, which leaving out one of a side would not give.

    Args:
        unlearned_phi: [S_u, n] of models that trained on the examples and unlearned them, S_u >= 3.
        unseen_phi: [S_o, n] of models that never saw them, S_o >= 3.
        fprs: the false positive rates to report.
        variance_floor: least variance of a Gaussian, > 0.

    Returns:
        As ``ulira``, over min(S_u, S_o) targets of each side.

    Raises:
        UsageError: as ``lira_log_ratio``, or with fewer than 3 models on a side.
    """
    unlearned = _check(unlearned_phi, "values of unlearned models")
    unseen = _check(unseen_phi, "values of unseen models")
    count = min(len(unlearned), len(unseen))
    if count < 3:
        raise UsageError(
            f"Models that are left out in turn need at least 3 on each side, not {len(unlearned)}"
            f" unlearned and {len(unseen)} unseen."
        )
    ratios = [
        lira_log_ratio(
            np.stack([unlearned[k], unseen[k]]), np.delete(unlearned, k, 0),
            np.delete(unseen, k, 0), variance_floor,
        )
        for k in range(count)
    ]  # fmt: skip
    positive, negative = np.stack(ratios, axis=1)
    return _outcome(positive, negative, fprs)


def _outcome(positive: np.ndarray, negative: np.ndarray, fprs: Sequence[float]) -> ULira:
    """The attack's rates from log-ratios [T, n] of targets that unlearned and that never saw.

    Log-ratios and not scores: scores saturate at 0 and 1, and would tie.
    """
    found = (0.5 * (1 + np.sign(positive))).mean(axis=0)
    rejected = (0.5 * (1 - np.sign(negative))).mean(axis=0)
    per_example = 0.5 * (found + rejected)
    return ULira(
        accuracy=float(per_example.mean()),
        auc=auc(positive, negative),
        tpr_at_fpr={fpr: tpr_at_fpr(positive, negative, fpr) for fpr in fprs},
        per_example=tuple(per_example.tolist()),
        positives=positive.size,
        negatives=negative.size,
    )
