from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from sklearn.metrics import accuracy_score

from mu_vision.errors import UsageError
from mu_vision.metrics.forgetting import (
    accuracy,
    activation_distance,
    ain,
    aus,
    average_gap,
    js_divergence,
    sparsity,
    tow,
    unlearning_accuracy,
    weight_distance,
    zrf,
)

RETRAIN = {"ua": 0.054, "ra": 1.0, "ta": 0.944, "mia": 0.131}


def logits(rows: int = 50, classes: int = 7, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, classes)) * scale


def test_accuracy_equals_sklearn_and_ua_is_its_complement():
    scores, labels = logits(), np.random.default_rng(1).integers(0, 7, 50)
    assert accuracy(scores, labels) == accuracy_score(labels, scores.argmax(1))
    assert unlearning_accuracy(scores, labels) + accuracy(scores, labels) == 1
    assert unlearning_accuracy(scores, scores.argmax(1)) == 0


def test_torch_tensors_of_any_precision_are_welcome():
    scores = torch.tensor(logits(), dtype=torch.bfloat16, requires_grad=True)
    assert accuracy(scores, scores.argmax(1)) == 1.0


def test_average_gap_and_tow_of_the_retrained_model():
    assert average_gap(RETRAIN, RETRAIN) == 0
    assert tow(RETRAIN, RETRAIN) == 1


def test_average_gap_recomputes_a_published_row():
    """FT, dense, random 10 %, Table 3 of Jia et al. 2023, prints 2.74 (percent)."""
    retrain = {"ua": 0.0541, "mia": 0.1312, "ra": 1.0, "ta": 0.9442}
    tuned = {"ua": 0.0683, "mia": 0.1497, "ra": 0.9661, "ta": 0.9013}
    assert average_gap(tuned, retrain) == pytest.approx(0.0274, abs=5e-5)
    assert average_gap(tuned, retrain, keys=["ua"]) == pytest.approx(0.0142)


def test_tow_and_aus_by_hand():
    found = {"ua": 0.5, "ra": 0.8, "ta": 0.9}
    assert tow(found, {"ua": 1.0, "ra": 1.0, "ta": 1.0}) == pytest.approx(0.5 * 0.8 * 0.9)
    assert aus(0.9, 0.9, 0.9) == 1
    assert aus(0.9, 0.8, 0.3) == pytest.approx(0.9 / 1.5)


@pytest.mark.parametrize("seed", range(3))
def test_js_equals_scipy_is_symmetric_and_bounded(seed):
    p, q = softmax(logits(seed=seed), axis=1), softmax(logits(seed=seed + 9), axis=1)
    found = js_divergence(p, q)
    assert found == pytest.approx((jensenshannon(p, q, axis=1) ** 2).mean(), rel=1e-12)
    assert found == js_divergence(q, p)
    assert 0 < found < math.log(2)
    order = np.random.default_rng(seed).permutation(len(p))
    assert js_divergence(p[order], q[order]) == pytest.approx(found, rel=1e-14)
    assert js_divergence(logits(seed=seed), logits(seed=seed + 9), logits=True) == pytest.approx(
        found
    )


def test_js_is_exact_with_zeros():
    one, other = np.array([[1.0, 0, 0]]), np.array([[0, 1.0, 0]])
    assert js_divergence(one, one) == 0
    assert js_divergence(one, other) == pytest.approx(math.log(2), abs=1e-15)
    assert js_divergence(one, other) <= math.log(2)
    half = np.array([[0.5, 0.5, 0]])
    by_hand = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert js_divergence(one, half) == pytest.approx(by_hand)


def test_js_tells_nearly_equal_distributions_apart():
    p = np.array([[0.5, 0.5]])
    for step in (1e-4, 1e-6, 1e-7):
        assert js_divergence(p, p + np.array([[step, -step]])) == pytest.approx(
            step**2 / 2, rel=1e-3
        )


def test_js_of_float32_rows_stays_in_range():
    p = torch.softmax(torch.randn(500, 100, generator=torch.manual_seed(0)) * 20, 1)
    assert js_divergence(p, p) == 0
    assert js_divergence(p, p.flip(1)) <= math.log(2)


def test_zrf_of_the_random_teacher_is_one():
    teacher = softmax(logits(scale=0.1), axis=1)
    certain = np.eye(7)[np.arange(50) % 7]
    assert zrf(teacher, teacher) == 1
    assert 1 - math.log(2) <= zrf(certain, teacher) < 1
    assert zrf(certain, np.roll(certain, 1, 1)) == pytest.approx(1 - math.log(2))


def test_activation_distance():
    one, other = np.array([[1.0, 0]]), np.array([[0, 1.0]])
    assert activation_distance(one, one) == 0
    assert activation_distance(one, other) == pytest.approx(math.sqrt(2))
    p, q = softmax(logits(seed=1), axis=1), softmax(logits(seed=2), axis=1)
    assert activation_distance(p, q) == pytest.approx(np.sqrt(((p - q) ** 2).sum(1)).mean())


def test_anamnesis_index():
    assert ain(3, 3) == 1 and ain(0, 0) == 1
    assert ain(0, 5) == pytest.approx(0.01 / 5.01)
    assert ain(0, 5) < ain(2, 5) < 1 < ain(9, 5)


def test_weight_distance():
    b = {"w": torch.full((2, 2), 2.0, requires_grad=True), "b": [0.0]}
    a = {"b": [0.0], "w": np.full((2, 2), 5.0)}
    found = weight_distance(a, b)
    assert found.l2 == pytest.approx(6.0) and found.relative == pytest.approx(1.5)
    assert weight_distance(b, b).l2 == weight_distance(b, b).relative == 0
    assert weight_distance([[1.0]], [[0.0]]).relative == math.inf
    layer = torch.nn.Linear(3, 2)
    assert weight_distance(layer.parameters(), layer.parameters()).l2 == 0


def test_sparsity():
    weights = [np.array([[0.0, 1.0], [1e-4, -2.0]]), np.array([0.0, -1e-4])]
    assert sparsity(weights) == pytest.approx(2 / 6)
    assert sparsity(weights, tolerance=1e-3) == pytest.approx(4 / 6)
    assert sparsity({"w": np.ones(3)}) == 0 and sparsity([np.zeros(3)]) == 1


P = np.full((2, 2), 0.5)
NAN = np.array([[0.0, np.nan]])


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: accuracy([], []), "The logits are empty"),
        (lambda: accuracy([1.0, 2.0], [0, 1]), r"must be \[N, C\] with C >= 2, not \[2\]"),
        (lambda: accuracy(np.ones((2, 1)), [0, 0]), r"C >= 2, not \[2, 1\]"),
        (lambda: accuracy(P, [0]), r"have 2 rows, but their labels have shape \[1\]"),
        (lambda: accuracy(P, [0, 2]), "have 2 classes, so label 2 is not one of 0 to 1"),
        (lambda: accuracy(P, [-1, 0]), "label -1 is not one of"),
        (lambda: accuracy(P, [0.5, 0]), "label 0.5 is not one of"),
        (lambda: unlearning_accuracy(NAN, [0]), "hold values that are not finite"),
        (lambda: average_gap({"ua": 0.1}, RETRAIN), "of the unlearned model lack 'ra'"),
        (lambda: tow(RETRAIN, {"ua": 0.1}), "of the retrained model lack 'ra'"),
        (lambda: average_gap(RETRAIN, RETRAIN, ()), "needs at least one key"),
        (lambda: tow({**RETRAIN, "ra": 94.2}, RETRAIN), "ra is 94.2, which is not a fraction"),
        (lambda: average_gap({**RETRAIN, "ua": math.nan}, RETRAIN), "ua is nan"),
        (lambda: aus(0.9, 90, 0.1), "test_unlearned is 90, which is not a fraction"),
        (lambda: js_divergence(P, P[:1]), r"need one shape, not \[2, 2\] and \[1, 2\]"),
        (lambda: js_divergence(P, 2 * P), "sum to 1 in every row"),
        (lambda: zrf([[1.5, -0.5]], P[:1]), "must be >= 0 and sum to 1"),
        (lambda: js_divergence([], []), "The probabilities are empty"),
        (lambda: activation_distance(NAN, NAN, logits=True), "The logits hold values that"),
        (lambda: ain(-1, 1), "must be finite and >= 0, not -1"),
        (lambda: ain(1, math.inf), "must be finite and >= 0, not inf"),
        (lambda: ain(1, 1, 0), "The offset of the anamnesis index must be > 0, not 0"),
        (lambda: weight_distance([], []), "There are no parameters to measure"),
        (lambda: weight_distance({"a": [1]}, {"b": [1]}), "must have the same parameters"),
        (lambda: weight_distance([[1, 2]], [[1]]), r"Parameter 0 has shapes \[2\] and \[1\]"),
        (lambda: sparsity({"w": [np.nan]}), "Parameter w holds values that are not finite"),
        (lambda: sparsity([[1.0]], -1), "The tolerance must be >= 0, not -1"),
    ],
)
def test_what_cannot_be_measured_is_said(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()
