"""How much a classifier has forgotten, from logits, probabilities and weights as plain arrays.

Every accuracy, gap and score here is a fraction of 1, never a percentage. Inputs may be NumPy
arrays, torch tensors or nested lists; all arithmetic is in float64.

Outputs alone do not prove forgetting: a new head on the old backbone can score perfectly. Read
these numbers next to the retrained model's, and add ``weight_distance`` or ``ain``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError

GAP_KEYS = ("ua", "ra", "ta", "mia")
SUM_TOLERANCE = 1e-3  # a half-precision softmax sums to 1 only this well


def to_array(values: ArrayLike) -> np.ndarray:
    """Float64 array of numbers, or of a torch tensor on any device and of any precision."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, np.float64)


def check_logits(logits: ArrayLike, name: str = "logits") -> np.ndarray:
    """Return the logits as float64 [N, C].

    Args:
        logits: [N, C], N >= 1 and C >= 2.
        name: what an error calls them.

    Raises:
        UsageError: if they are empty, of another shape, or hold NaN or infinity.
    """
    array = to_array(logits)
    if array.size == 0:
        raise UsageError(f"The {name} are empty.")
    if array.ndim != 2 or array.shape[1] < 2:
        raise UsageError(f"The {name} must be [N, C] with C >= 2, not {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise UsageError(f"The {name} hold values that are not finite.")
    return array


def check_labelled(
    logits: ArrayLike, labels: ArrayLike, name: str = "logits"
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits as float64 [N, C], and labels as int64 [N] in 0..C-1.

    Raises:
        UsageError: as ``check_logits``, or if the labels do not fit the logits.
    """
    array = check_logits(logits, name)
    numbers = to_array(labels)
    if numbers.shape != array.shape[:1]:
        raise UsageError(
            f"The {name} have {len(array)} rows, but their labels have shape {list(numbers.shape)}."
        )
    last = array.shape[1] - 1
    wrong = ~((numbers >= 0) & (numbers <= last) & (numbers == np.floor(numbers)))
    if wrong.any():
        raise UsageError(
            f"The {name} have {last + 1} classes, so label {numbers[wrong][0]:g} is not one of "
            f"0 to {last}."
        )
    return array, numbers.astype(np.int64)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of float64 logits, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Share of rows whose largest logit is that of the label; RA and TA are this number.

    Args:
        logits: [N, C].
        labels: [N], whole numbers in 0..C-1.

    Returns:
        A fraction in [0, 1]. Of several largest logits the first counts, as with ``argmax``.

    Raises:
        UsageError: if an array is empty, shapes differ, a label is no class, or a logit is NaN.
    """
    array, truth = check_labelled(logits, labels)
    return float((array.argmax(axis=1) == truth).mean())


def unlearning_accuracy(forget_logits: ArrayLike, forget_labels: ArrayLike) -> float:
    """UA = 1 - accuracy on the forget set (Jia et al. 2023, arXiv 2304.04934).

    Args:
        forget_logits: [N, C].
        forget_labels: [N].

    Returns:
        A fraction in [0, 1]; best when nearest to the retrained model's.

    Raises:
        UsageError: as ``accuracy``.
    """
    return 1.0 - accuracy(forget_logits, forget_labels)


def _fraction(name: str, value: float) -> float:
    """``value``, if it is in [0, 1]: a percentage would pass through every formula below."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} is {value:g}, which is not a fraction between 0 and 1.")
    return float(value)


def _gaps(
    values: Mapping[str, float], retrain: Mapping[str, float], keys: Sequence[str]
) -> list[float]:
    """Absolute differences to the retrained model, one a key."""
    for key in keys:
        for owner, found in (("unlearned", values), ("retrained", retrain)):
            if key not in found:
                raise UsageError(f"The values of the {owner} model lack {key!r}.")
    return [abs(_fraction(key, values[key]) - _fraction(key, retrain[key])) for key in keys]


def average_gap(
    values: Mapping[str, float], retrain: Mapping[str, float], keys: Sequence[str] = GAP_KEYS
) -> float:
    """Mean absolute difference to the retrained model: Avg. Gap, also "Disparity Average".

    Source: Jia et al. 2023 (arXiv 2304.04934); Fan et al. 2024 (SalUn, arXiv 2310.12508).

    Args:
        values: fractions of the unlearned model by name; other names are ignored.
        retrain: the same of the retrained model.
        keys: the names that count.

    Returns:
        A fraction in [0, 1], 0 for the retrained model itself.

    Raises:
        UsageError: if no key is given, one is missing, or a value is not in [0, 1].
    """
    if not keys:
        raise UsageError("An average gap needs at least one key.")
    return float(np.mean(_gaps(values, retrain, keys)))


def tow(values: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """Tug of war, (1 - |dFA|)(1 - |dRA|)(1 - |dTA|) (Zhao et al. 2024, arXiv 2406.01257).

    d is the difference to the retrained model; |dFA| = |dUA|, as UA = 1 - FA.

    Args:
        values: fractions ``ua``, ``ra`` and ``ta`` of the unlearned model.
        retrain: the same of the retrained model.

    Returns:
        A number in [0, 1], 1 for the retrained model itself.

    Raises:
        UsageError: if a value is missing or not in [0, 1].
    """
    return math.prod(1.0 - gap for gap in _gaps(values, retrain, ("ua", "ra", "ta")))


def aus(test_original: float, test_unlearned: float, forget_unlearned: float) -> float:
    """Adaptive unlearning score (Cotogni et al. 2023, DUCK, arXiv 2312.02052).

    AUS = (1 - (A_t^o - A_t^u)) / (1 + |A_t^u - A_f^u|): a forget set should be treated like test
    data.

    Args:
        test_original: test accuracy of the original model, a fraction.
        test_unlearned: test accuracy of the unlearned model.
        forget_unlearned: accuracy of the unlearned model on the forget set.

    Returns:
        1 when test accuracy is kept and equals that on the forget set; can exceed 1 only if
        unlearning raises test accuracy.

    Raises:
        UsageError: if a value is not in [0, 1].
    """
    original = _fraction("test_original", test_original)
    test = _fraction("test_unlearned", test_unlearned)
    forget = _fraction("forget_unlearned", forget_unlearned)
    return (1.0 - (original - test)) / (1.0 + abs(test - forget))


def _distributions(p: ArrayLike, q: ArrayLike, logits: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both inputs as float64 probabilities [N, C] whose rows sum to 1."""
    name = "logits" if logits else "probabilities"
    first, second = check_logits(p, name), check_logits(q, name)
    if first.shape != second.shape:
        raise UsageError(
            f"Both sets of {name} need one shape, not {list(first.shape)} and {list(second.shape)}."
        )
    if logits:
        return np.exp(log_softmax(first)), np.exp(log_softmax(second))
    for array in (first, second):
        if array.min() < 0 or np.abs(array.sum(axis=1) - 1).max() > SUM_TOLERANCE:
            raise UsageError(
                "The probabilities must be >= 0 and sum to 1 in every row; "
                "for logits, pass logits=True."
            )
    # float32 rows miss 1 by 1e-7, which would leave the range that is promised
    return first / first.sum(1, keepdims=True), second / second.sum(1, keepdims=True)


def js_divergence(p: ArrayLike, q: ArrayLike, *, logits: bool = False) -> float:
    """Jensen-Shannon divergence in nats, mean over samples (Lin 1991).

    Per sample 0.5 KL(p || m) + 0.5 KL(q || m), m = (p + q) / 2, summed over classes (an average
    over classes would be C times smaller).

    Args:
        p: probabilities [N, C]; zeros are exact (0 log 0 = 0).
        q: probabilities [N, C].
        logits: both inputs are logits instead.

    Returns:
        A number in [0, ln 2]; symmetric, 0 only for equal distributions. With the retrained model
        as ``q``, 0 is best.

    Raises:
        UsageError: if arrays are empty, shapes differ, values are NaN, or rows do not sum to 1.
    """
    first, second = _distributions(p, q, logits)
    total = first + second
    # p / m = 1 + (p - q) / (p + q): log1p keeps the digits of nearly equal distributions
    contrast = np.divide(first - second, total, out=np.zeros_like(total), where=total > 0)
    terms = first * _log1p(contrast, first) + second * _log1p(-contrast, second)
    return float(np.clip(0.5 * terms.sum(axis=1), 0.0, math.log(2)).mean())


def _log1p(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """log(1 + values) where the weight is positive, 0 elsewhere."""
    return np.log1p(values, out=np.zeros_like(values), where=(weights > 0) & (values > -1))


def zrf(probabilities: ArrayLike, random_teacher: ArrayLike, *, logits: bool = False) -> float:
    """Zero-retrain forgetting, 1 - mean JS to a random network on the forget set.

    Source: Chundawat et al. 2023, "Can Bad Teaching Induce Forgetting?", arXiv 2205.08096.

    Args:
        probabilities: [N, C] of the unlearned model on the forget set.
        random_teacher: [N, C] of a randomly initialised network on the same samples.
        logits: both inputs are logits instead.

    Returns:
        A number in [1 - ln 2, 1], 1 for the random teacher itself. The target is the retrained
        model's ZRF, not 1.

    Raises:
        UsageError: as ``js_divergence``.
    """
    return 1.0 - js_divergence(probabilities, random_teacher, logits=logits)


def activation_distance(p: ArrayLike, q: ArrayLike, *, logits: bool = False) -> float:
    """Mean l2 distance of output probabilities (Golatkar et al. 2021; arXiv 2205.08096).

    Args:
        p: probabilities [N, C] of the unlearned model on the forget set.
        q: probabilities [N, C] of the retrained model on the same samples.
        logits: both inputs are logits instead.

    Returns:
        A number in [0, sqrt 2], 0 for equal outputs.

    Raises:
        UsageError: as ``js_divergence``.
    """
    first, second = _distributions(p, q, logits)
    return float(np.linalg.norm(first - second, axis=1).mean())


def ain(relearn_time: float, relearn_time_of_retrain: float, offset: float = 0.01) -> float:
    """Anamnesis index: relearn time over that of the retrained model (arXiv 2201.05629).

    Relearn time is the number of epochs (or steps) until accuracy on the forget set is back
    within 5 % of the original model's.

    Args:
        relearn_time: of the unlearned model, >= 0.
        relearn_time_of_retrain: of the retrained model, in the same unit.
        offset: added to both, so that a time of 0 has an index.

    Returns:
        1 is best; below 1 the model still remembers, above 1 it resists relearning unnaturally.

    Raises:
        UsageError: if a time is negative or not finite, or the offset is not positive.
    """
    for time in (relearn_time, relearn_time_of_retrain):
        if not (math.isfinite(time) and time >= 0):
            raise UsageError(f"A relearn time must be finite and >= 0, not {time:g}.")
    if not (math.isfinite(offset) and offset > 0):
        raise UsageError(f"The offset of the anamnesis index must be > 0, not {offset:g}.")
    return (relearn_time + offset) / (relearn_time_of_retrain + offset)


def steps_to(level: float, marks: Sequence[int], shares: Sequence[float]) -> float | None:
    """Steps at which a curve first reaches a level, between marks in a straight line; None: never."""
    for k, share in enumerate(shares):
        if share >= level:
            if k == 0:
                return float(marks[0])
            rise = (level - shares[k - 1]) / (share - shares[k - 1])
            return marks[k - 1] + rise * (marks[k] - marks[k - 1])
    return None


Parameters = Mapping[str, ArrayLike] | Iterable[ArrayLike]


@dataclass(frozen=True)
class WeightDistance:
    """Distance of two sets of weights.

    Attributes:
        l2: Euclidean norm of a - b over all weights together.
        relative: ``l2`` divided by the norm of b; infinite if b is all zeros and a is not.
    """

    l2: float
    relative: float


def _tensors(parameters: Parameters) -> dict[str | int, np.ndarray]:
    """Name (or place) to float64 array."""
    named = parameters.items() if isinstance(parameters, Mapping) else enumerate(parameters)
    arrays = {name: to_array(value) for name, value in named}
    if not sum(array.size for array in arrays.values()):
        raise UsageError("There are no parameters to measure.")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UsageError(f"Parameter {name} holds values that are not finite.")
    return arrays


def weight_distance(a: Parameters, b: Parameters) -> WeightDistance:
    """Euclidean distance of two models' weights, absolute and relative to the second.

    Args:
        a: arrays in a fixed order, or by name, of any shapes (``dict(model.named_parameters())``).
        b: the reference, such as the retrained model, with the same names and shapes.

    Returns:
        Both distances, >= 0.

    Raises:
        UsageError: if there are none, names or shapes differ, or a value is not finite.
    """
    first, second = _tensors(a), _tensors(b)
    if first.keys() != second.keys():
        raise UsageError("Both models must have the same parameters.")
    squares = norm = 0.0
    for name, array in first.items():
        if array.shape != second[name].shape:
            raise UsageError(
                f"Parameter {name} has shapes {list(array.shape)} and {list(second[name].shape)}."
            )
        squares += float(np.sum((array - second[name]) ** 2))
        norm += float(np.sum(second[name] ** 2))
    if norm:
        return WeightDistance(math.sqrt(squares), math.sqrt(squares / norm))
    return WeightDistance(math.sqrt(squares), math.inf if squares else 0.0)


def sparsity(parameters: Parameters, tolerance: float = 0.0) -> float:
    """Share of weights with |w| <= tolerance.

    Args:
        parameters: arrays of any shapes, in order or by name.
        tolerance: 0 counts exact zeros; l1 subgradient training leaves none, so its sparsity is
            read at a small threshold such as 1e-3.

    Returns:
        A fraction in [0, 1].

    Raises:
        UsageError: if there are no weights, one is not finite, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise UsageError(f"The tolerance must be >= 0, not {tolerance:g}.")
    arrays = _tensors(parameters).values()
    small = sum(int(np.count_nonzero(np.abs(array) <= tolerance)) for array in arrays)
    return small / sum(array.size for array in arrays)
