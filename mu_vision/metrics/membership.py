"""Membership inference attacks on a classifier, from logits and labels as plain arrays.

Papers report opposite signs under one name, so each function says what its share counts:

    mia_efficacy       share of the forget set called NON-member; target: the retrained model's
    mia_privacy        accuracy on held-out members and non-members; 0.5 is private
    starting_kit_mia   accuracy of telling forget set from test set; 0.5 is ideal
    entropy_mia        share of the forget set called MEMBER; target: the retrained model's

All shares are fractions of 1. Logits should come from the evaluation transform in eval mode. The
first two attacks take members in the order given (as the published protocol does), so a retain
set that is sorted by class must be shuffled beforehand. The features of a sample, which come
first, all raise UsageError for the reasons that ``confidence`` lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError, unknown
from .forgetting import check_labelled, check_logits, log_softmax

# The time of a support vector machine grows with the square of its rows, or faster.
MAX_ROWS = 5000
GRIDS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def _of_label(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[N]: the entry of each row [N, C] at its label."""
    return np.take_along_axis(values, labels[:, None], axis=1)[:, 0]


def _log_rest(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """[N]: logsumexp of each row without the given class, exact also where p rounds to 1."""
    rest = logits.copy()
    np.put_along_axis(rest, classes[:, None], -np.inf, axis=1)
    largest = rest.max(axis=1)
    return largest + np.log(np.exp(rest - largest[:, None]).sum(axis=1))


def probability_vector(logits: ArrayLike) -> np.ndarray:
    """Softmax [N, C] of logits [N, C].

    Raises:
        UsageError: if the logits are empty, not [N, C], or not finite.
    """
    return np.exp(log_softmax(check_logits(logits)))


def entropy(logits: ArrayLike) -> np.ndarray:
    """Entropy -sum_k p_k log p_k in nats, [N] in [0, ln C].

    Raises:
        UsageError: if the logits are empty, not [N, C], or not finite.
    """
    logs = log_softmax(check_logits(logits))
    return -(np.exp(logs) * logs).sum(axis=1) + 0.0


def confidence(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Probability of the label, [N] in [0, 1].

    Raises:
        UsageError: if an array is empty, shapes differ, a label is no class, or a logit is NaN.
    """
    return np.exp(-cross_entropy(logits, labels))


def correctness(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """1 where the largest logit is that of the label, else 0; [N]."""
    array, truth = check_labelled(logits, labels)
    return (array.argmax(axis=1) == truth).astype(np.float64)


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Loss -log p_y, [N] >= 0."""
    array, truth = check_labelled(logits, labels)
    return -_of_label(log_softmax(array), truth) + 0.0


def modified_entropy(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Mentr = -(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k), [N] >= 0.

    Source: Song and Mittal 2021, arXiv 2003.10595. Unlike entropy it tells a
    confident right answer (0) from a confident wrong one (large).
    """
    array, truth = check_labelled(logits, labels)
    logs = log_softmax(array)
    log_others = np.log1p(-np.minimum(np.exp(logs), 0.5))
    # only the top class can have p > 1/2, where 1 - p would lose its digits
    top = array.argmax(axis=1)
    norm = array[np.arange(len(array)), top] - _of_label(logs, top)
    np.put_along_axis(log_others, top[:, None], (_log_rest(array, top) - norm)[:, None], axis=1)
    weights = np.exp(logs)
    np.put_along_axis(weights, truth[:, None], 0.0, axis=1)
    own = np.exp(_of_label(log_others, truth)) * _of_label(logs, truth)
    return -own - (weights * log_others).sum(axis=1) + 0.0


def logit_scaled_confidence(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Logit-scaled confidence phi = log p_y - log(1 - p_y), [N] (finite at p_y = 1).

    Source: Carlini et al. 2022 (LiRA), arXiv 2112.03570.
    """
    array, truth = check_labelled(logits, labels)
    return _of_label(array, truth) - _log_rest(array, truth)


FEATURES: dict[str, Callable[[ArrayLike, ArrayLike], np.ndarray]] = {
    "confidence": confidence,
    "correctness": correctness,
    "entropy": lambda logits, labels: entropy(logits),
    "modified_entropy": modified_entropy,
    "probability": lambda logits, labels: probability_vector(logits),
    "loss": cross_entropy,
    "phi": logit_scaled_confidence,
}


@dataclass(frozen=True)
class AttackFit:
    """What an attacker saw of how many samples (held-out ones not counted), and its wall time."""

    feature: str
    members: int
    non_members: int
    seconds: float


@dataclass(frozen=True)
class EfficacyAttack(AttackFit):
    """``efficacy``: share of the forget set called non-member; ``grid``: see ``mia_efficacy``."""

    efficacy: float
    grid: float


@dataclass(frozen=True)
class PrivacyAttack(AttackFit):
    """``privacy``: mean of both held-out accuracies; ``grid``: see ``mia_efficacy``."""

    privacy: float
    member_accuracy: float
    non_member_accuracy: float
    grid: float


@dataclass(frozen=True)
class StartingKitAttack(AttackFit):
    """``accuracy``: mean over the splits; ``std``: their standard deviation."""

    accuracy: float
    std: float


@dataclass(frozen=True)
class EntropyAttack(AttackFit):
    """``member_share``: share of the forget set called member."""

    member_share: float


def _sklearn() -> tuple[Any, Any, Any]:
    """Modules ``linear_model``, ``model_selection`` and ``svm``; slow to load, so on demand."""
    try:
        from sklearn import linear_model, model_selection, svm
    except ImportError as error:
        raise UsageError(
            f"The membership attacks need the package scikit-learn, which cannot be loaded "
            f"({error}): pip install scikit-learn"
        ) from error
    return linear_model, model_selection, svm


def _same_classes(*sets: np.ndarray) -> None:
    counts = [array.shape[1] for array in sets]
    if len(set(counts)) > 1:
        raise UsageError(f"All logits must have the same number of classes, not {counts}.")


def _features(feature: str, **sets: tuple[ArrayLike, ArrayLike]) -> list[np.ndarray]:
    """[N, D] a set of logits and labels."""
    if feature not in FEATURES:
        raise unknown("feature", feature, FEATURES)
    checked = {name: check_labelled(*pair, f"{name} logits") for name, pair in sets.items()}
    _same_classes(*(pair[0] for pair in checked.values()))
    return [FEATURES[feature](*pair).reshape(len(pair[0]), -1) for pair in checked.values()]


def support_vectors(
    members: np.ndarray, non_members: np.ndarray
) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """Fit the attacker of Jia et al.: SVC, rbf kernel, C = 3, gamma = 1 / D.

    Equal rows of one side are merged into one row of their count as weight: in the dual problem
    their multipliers only occur as a sum, bounded by C times the count, so the optimum is the
    same. A single feature that still leaves more than MAX_ROWS rows is sorted into the finest
    cells of GRIDS that do not, and a cell stands at the mean of its values. First-order errors
    cancel there: with cells of width h the mean kernel value of a cell errs by at most h^2 / 4.

    Returns:
        A function from features [N, D] to "called member" [N] bool, and the width h (0 is exact).
    """
    rows = np.concatenate([members, non_members])
    side = np.repeat([1.0, 0.0], [len(members), len(non_members)])[:, None]
    for grid in GRIDS:
        cells = np.concatenate([np.round(rows / grid) if grid else rows, side], axis=1)
        unique, place, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        if len(unique) <= MAX_ROWS or rows.shape[1] > 1:
            break
    points, weights = unique[:, :-1], counts.astype(np.float64)
    if grid:
        points = (np.bincount(place.ravel(), weights=rows[:, 0]) / weights)[:, None]
    machine = _sklearn()[2].SVC(kernel="rbf", C=3.0, gamma="auto")
    machine.fit(points, unique[:, -1], sample_weight=weights)

    def calls_member(features: np.ndarray) -> np.ndarray:
        values, place = np.unique(features, axis=0, return_inverse=True)
        return (machine.predict(values) == 1)[place.ravel()]

    return calls_member, grid


def mia_efficacy(
    retain_logits: ArrayLike,
    retain_labels: ArrayLike,
    test_logits: ArrayLike,
    test_labels: ArrayLike,
    forget_logits: ArrayLike,
    forget_labels: ArrayLike,
    feature: str = "confidence",
) -> EfficacyAttack:
    """MIA-Efficacy: share of the forget set that a population attack calls NON-member.

    Source: Jia et al. 2023, arXiv 2304.04934; papers report ``confidence``. The
    attacker (SVC, rbf, C = 3, gamma "auto") is fitted on the first n samples of the retain set
    against the first n of the test set, n the smaller of both sizes (the published code needs
    retain >= test, and then does the same). Up to 5,000 distinct values the fit is exact; beyond,
    a single feature is binned at the finest decimal step that leaves no more, given as ``grid``.
    ``probability`` is never binned, and can take minutes on tens of thousands of rows.

    Args:
        retain_logits: [N_r, C], not sorted by class.
        retain_labels: [N_r].
        test_logits: [N_t, C]; without the class when a class is forgotten.
        test_labels: [N_t].
        forget_logits: [N_f, C].
        forget_labels: [N_f].
        feature: a key of ``FEATURES``.

    Returns:
        The efficacy in [0, 1], with what was used; compare with the retrained model's.

    Raises:
        UsageError: if a set is empty or does not fit its labels, a value is not finite, class
            counts differ, or the feature is unknown.
    """
    start = time.perf_counter()
    retain, test, forget = _features(
        feature,
        retain=(retain_logits, retain_labels),
        test=(test_logits, test_labels),
        forget=(forget_logits, forget_labels),
    )
    count = min(len(retain), len(test))
    calls_member, grid = support_vectors(retain[:count], test[:count])
    efficacy, seconds = float((~calls_member(forget)).mean()), time.perf_counter() - start
    return EfficacyAttack(feature, count, count, seconds, efficacy, grid)


def mia_privacy(
    retain_logits: ArrayLike,
    retain_labels: ArrayLike,
    test_logits: ArrayLike,
    test_labels: ArrayLike,
    feature: str = "confidence",
) -> PrivacyAttack:
    """MIA-Privacy: how well the same attack tells held-out members from held-out non-members.

    Source: Jia et al. 2023, arXiv 2304.04934. With n half of the smaller set, fits on
    the first n of each and scores the rest of each.

    Args:
        retain_logits: [N_r, C], N_r >= 2.
        retain_labels: [N_r].
        test_logits: [N_t, C], N_t >= 2.
        test_labels: [N_t].
        feature: a key of ``FEATURES``.

    Returns:
        The mean of both accuracies in [0, 1]; 0.5 is private, lower is better.

    Raises:
        UsageError: as ``mia_efficacy``, or if a set has fewer than 2 samples.
    """
    start = time.perf_counter()
    retain, test = _features(
        feature, retain=(retain_logits, retain_labels), test=(test_logits, test_labels)
    )
    half = min(len(retain), len(test)) // 2
    if not half:
        raise UsageError("MIA-Privacy needs at least 2 retain and 2 test samples.")
    calls_member, grid = support_vectors(retain[:half], test[:half])
    member = float(calls_member(retain[half:]).mean())
    non_member = float((~calls_member(test[half:])).mean())
    privacy, seconds = (member + non_member) / 2, time.perf_counter() - start
    return PrivacyAttack(feature, half, half, seconds, privacy, member, non_member, grid)


def starting_kit_mia(
    forget_logits: ArrayLike,
    forget_labels: ArrayLike,
    test_logits: ArrayLike,
    test_labels: ArrayLike,
    splits: int = 10,
    seed: int = 0,
) -> StartingKitAttack:
    """Accuracy of telling forget set from test set by the loss (NeurIPS 2023 starting kit).

    Logistic regression on cross-entropy, over stratified shuffle splits that hold out 10 %. The
    larger set is cut to a random sample of the smaller one's size.

    Args:
        forget_logits: [N_f, C], N_f >= 10.
        forget_labels: [N_f].
        test_logits: [N_t, C], N_t >= 10.
        test_labels: [N_t].
        splits: number of splits, >= 1.
        seed: of the sample and the splits; NumPy's global state is not touched.

    Returns:
        The mean held-out accuracy in [0, 1]; 0.5 is ideal.

    Raises:
        UsageError: as ``mia_efficacy``, if a set has fewer than 10 samples, or without a split.
    """
    start = time.perf_counter()
    sets = _features("loss", forget=(forget_logits, forget_labels), test=(test_logits, test_labels))
    count = min(map(len, sets))
    if count < 10:
        raise UsageError(f"The starting-kit attack needs 10 samples of each set, not {count}.")
    if splits < 1:
        raise UsageError(f"The starting-kit attack needs at least 1 split, not {splits}.")
    random = np.random.default_rng(seed)
    losses = np.concatenate([values[random.permutation(len(values))[:count]] for values in sets])
    truth = np.repeat([1, 0], count)
    linear_model, model_selection, _ = _sklearn()
    scores = model_selection.cross_val_score(
        linear_model.LogisticRegression(),
        losses,
        truth,
        cv=model_selection.StratifiedShuffleSplit(splits, test_size=0.1, random_state=seed),
        scoring="accuracy",
    )
    seconds = time.perf_counter() - start
    mean, std = float(scores.mean()), float(scores.std())
    return StartingKitAttack("loss", count, count, seconds, mean, std)


def entropy_mia(
    retain_logits: ArrayLike, test_logits: ArrayLike, forget_logits: ArrayLike
) -> EntropyAttack:
    """Share of the forget set that an attack on output entropy calls MEMBER (lower forgets more).

    Source: Chundawat et al. 2023, arXiv 2205.08096; in the form of Foster et al. 2024 (SSD,
    arXiv 2308.07707): class-balanced logistic regression on entropy, whole retain set against
    whole test set. It needs no labels.

    Args:
        retain_logits: [N_r, C].
        test_logits: [N_t, C].
        forget_logits: [N_f, C].

    Returns:
        The share in [0, 1]; the complement of the sign that ``mia_efficacy`` counts.

    Raises:
        UsageError: if a set is empty or not finite, or class counts differ.
    """
    start = time.perf_counter()
    given = {"retain": retain_logits, "test": test_logits, "forget": forget_logits}
    sets = {name: check_logits(array, f"{name} logits") for name, array in given.items()}
    _same_classes(*sets.values())
    retain, test, forget = (entropy(array)[:, None] for array in sets.values())
    model = _sklearn()[0].LogisticRegression(class_weight="balanced")
    model.fit(np.concatenate([retain, test]), np.repeat([1, 0], [len(retain), len(test)]))
    share, seconds = float((model.predict(forget) == 1).mean()), time.perf_counter() - start
    return EntropyAttack("entropy", len(retain), len(test), seconds, share)
