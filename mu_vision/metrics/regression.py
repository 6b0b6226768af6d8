"""How much a regressor has forgotten, from predictions and targets as plain arrays.

Errors are in the unit of the targets (or its square). Arithmetic is in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UsageError
from .forgetting import to_array
from .membership import support_vectors


def check_values(values: ArrayLike, name: str) -> np.ndarray:
    """Return values as float64 [N], N >= 1.

    Raises:
        UsageError: if they are empty, of another shape, or hold NaN or infinity.
    """
    array = to_array(values)
    if array.ndim != 1 or not len(array):
        raise UsageError(f"The {name} must be [N] with N >= 1, not {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise UsageError(f"The {name} hold values that are not finite.")
    return array


def wasserstein_1(u: ArrayLike, v: ArrayLike) -> float:
    """Wasserstein-1 distance of two sets of predictions as distributions on the line.

    For equal sizes it is (1/n) sum_i |sort(u)_i - sort(v)_i|.

    Args:
        u: [N], such as the unlearned model's on the forget set.
        v: [M], such as the retrained model's.

    Returns:
        A distance >= 0 in the unit of the predictions.

    Raises:
        UsageError: if a set is empty, of another shape, or not finite.
    """
    from scipy.stats import wasserstein_distance

    return float(
        wasserstein_distance(check_values(u, "predictions"), check_values(v, "predictions"))
    )


def member_share(
    member_errors: ArrayLike,
    other_errors: ArrayLike,
    forget_errors: ArrayLike,
    most: int = 2000,
    seed: int = 0,
) -> float:
    """Share of the forget set that an attack on the errors calls MEMBER; compare with Retrain's.

    Source: Tarun et al., ICML 2023, arXiv 2210.08196. The attacker (SVC, rbf, C = 3, gamma "auto")
    sees one number a sample, its error under the audited model. The sign is opposite to
    ``membership.mia_efficacy``.

    Args:
        member_errors: [N] of training samples, forgotten ones among them.
        other_errors: [M] of test samples.
        forget_errors: [K] of the forget set.
        most: samples drawn of each side (paper's code: 2000); as many of both.
        seed: of the draw; NumPy's global state is not touched.

    Returns:
        A share in [0, 1]; 0.5 if all errors are the same, which tells an attacker nothing.

    Raises:
        UsageError: if a set is empty, of another shape, or not finite.
    """
    sets = [
        check_values(errors, f"{name} errors")
        for name, errors in (
            ("member", member_errors), ("test", other_errors), ("forget", forget_errors)
        )
    ]  # fmt: skip
    rng = np.random.default_rng(seed)
    count = min(most, *map(len, sets[:2]))
    members, others = (values[rng.permutation(len(values))[:count], None] for values in sets[:2])
    if len(np.unique(np.concatenate([members, others]))) == 1:
        return 0.5
    calls_member, _ = support_vectors(members, others)
    return float(calls_member(sets[2][:, None]).mean())
