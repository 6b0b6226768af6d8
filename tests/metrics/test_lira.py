from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from mu_vision.errors import UsageError
from mu_vision.metrics.lira import (
    auc,
    lira_log_ratio,
    lira_scores,
    tpr_at_fpr,
    ulira,
    ulira_left_out,
)


def draw(rows: int, seed: int, shift: float = 0.0, examples: int = 40) -> np.ndarray:
    """Phi [rows, examples]; every example has its own mean, the same in every draw."""
    centre = np.linspace(-5, 9, examples)
    return centre + shift + np.random.default_rng(seed).normal(size=(rows, examples))


def test_scores_equal_scipys_gaussians():
    target, unlearned, unseen = draw(3, 0), draw(20, 1, 0.5), draw(30, 2)
    u, o = (
        norm.pdf(target, shadows.mean(0), shadows.std(0, ddof=1)) for shadows in (unlearned, unseen)
    )
    assert lira_scores(target, unlearned, unseen) == pytest.approx(u / (u + o))
    ratio = lira_log_ratio(target[0], unlearned, unseen)
    assert ratio.shape == (40,) and ratio == pytest.approx(np.log(u / o)[0])
    assert lira_scores(target, unlearned, unseen) == pytest.approx(
        expit(lira_log_ratio(target, unlearned, unseen))
    )


def test_swapping_the_hypotheses_turns_the_score():
    target, one, two = draw(1, 0), draw(9, 1), draw(9, 2, 1.0)
    total = lira_scores(target, one, two) + lira_scores(target, two, one)
    assert total == pytest.approx(np.ones((1, 40)))


def test_equal_gaussians_are_a_coin_toss():
    same = draw(30, 1)
    assert (lira_scores(draw(2, 0), same, same) == 0.5).all()
    tie = ulira(draw(5, 2), draw(5, 3), same, same)
    assert tie.accuracy == tie.auc == 0.5
    found = ulira(draw(100, 2), draw(100, 3), draw(60, 4), draw(60, 5), fprs=(0.1, 0.01))
    assert found.accuracy == pytest.approx(0.5, abs=0.02)
    assert found.auc == pytest.approx(0.5, abs=0.02)
    assert found.tpr_at_fpr[0.1] == pytest.approx(0.1, abs=0.03)
    assert found.tpr_at_fpr[0.01] == pytest.approx(0.01, abs=0.01)
    assert (found.positives, found.negatives) == (4000, 4000)


def test_ten_sigma_apart_is_certain():
    found = ulira(draw(20, 2, 10), draw(20, 3), draw(60, 4, 10), draw(60, 5))
    assert found.accuracy == found.auc == 1
    assert found.tpr_at_fpr == {0.01: 1.0, 0.001: 1.0}
    assert found.per_example == (1.0,) * 40


def test_accuracy_of_known_gaussians():
    """One sigma apart with equal widths, the best accuracy is the normal CDF at 1/2."""
    found = ulira(draw(400, 2, 1.0), draw(400, 3), draw(400, 4, 1.0), draw(400, 5))
    assert found.accuracy == pytest.approx(norm.cdf(0.5), abs=0.01)
    assert found.auc == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)


def test_far_and_constant_values_stay_finite():
    constant = np.full((4, 2), 3.0)
    ratio = lira_log_ratio([3.0, 1e6], constant, constant - 1)
    assert np.isfinite(ratio).all() and (np.abs(ratio) > 1e5).all()
    assert lira_scores([3.0, 2.0], constant, constant - 1).tolist() == [1.0, 0.0]
    assert lira_scores([2.5, 2.5], constant, constant - 1).tolist() == [0.5, 0.5]
    wide = lira_log_ratio([3.0, 3.0], constant, constant - 1, variance_floor=1.0)
    assert wide == pytest.approx([0.5, 0.5])


def test_saturated_scores_still_rank():
    """Scores of exactly 1 on both sides would tie; log-ratios do not."""
    shadows = draw(50, 1, 20, 1), draw(50, 2, 0, 1)
    found = ulira(np.array([[30.0]]), np.array([[25.0]]), *shadows)
    assert found.auc == 1.0 and found.accuracy == 0.5


def test_models_that_are_left_out_are_attacked_by_the_others():
    unlearned, unseen = draw(5, 1, 0.7), draw(5, 2)
    found = ulira_left_out(unlearned, unseen)
    one = [
        ulira(unlearned[k], unseen[k], np.delete(unlearned, k, 0), np.delete(unseen, k, 0))
        for k in range(5)
    ]
    assert found.accuracy == pytest.approx(np.mean([f.accuracy for f in one]))
    assert (found.positives, found.negatives) == (200, 200)
    assert ulira_left_out(unlearned, draw(9, 2)).positives == 200


def test_leaving_out_is_fair():
    """Equal sides score 0.5 on average, and sides far apart all but 1, however few the models."""
    for models in (3, 8):
        even = [ulira_left_out(draw(models, 2 * s), draw(models, 2 * s + 1)) for s in range(150)]
        assert np.mean([f.accuracy for f in even]) == pytest.approx(0.5, abs=0.01)
        assert np.mean([f.auc for f in even]) == pytest.approx(0.5, abs=0.01)
        assert ulira_left_out(draw(models, 1, 50), draw(models, 2)).accuracy > 0.97


@pytest.mark.parametrize("ties", [False, True])
def test_roc_equals_sklearn(ties):
    random = np.random.default_rng(0)
    high, low = random.normal(0.7, 1, 300), random.normal(0, 1, 100)
    if ties:
        high, low = np.round(high), np.round(low)
    truth, scores = np.repeat([1, 0], [300, 100]), np.concatenate([high, low])
    assert auc(high, low) == pytest.approx(roc_auc_score(truth, scores))
    rates, found, _ = roc_curve(truth, scores, drop_intermediate=False)
    for fpr in (0.0, 0.005, 0.01, 0.07, 0.29, 0.5, 1.0):
        expected = found[rates <= fpr + 1e-12].max()
        assert tpr_at_fpr(high, low, fpr) == pytest.approx(expected)


ONE = np.zeros((2, 3))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: lira_scores([], ONE, ONE), "The target values are empty"),
        (lambda: lira_scores(ONE, ONE[None], ONE), r"must be \[models, n\], not \[1, 2, 3\]"),
        (lambda: lira_scores(ONE, ONE, ONE * np.nan), "unseen shadow models hold values that"),
        (lambda: lira_scores(ONE[:, :2], ONE, ONE), "the same examples, not 2, 3 and 3"),
        (lambda: lira_scores(ONE, ONE[:1], ONE), "at least 2 shadow models, not 1 unlearned and 2"),
        (lambda: lira_log_ratio(ONE, ONE, ONE, 0.0), "The variance floor must be > 0, not 0"),
        (lambda: ulira(ONE, [], ONE, ONE), "The target values are empty"),
        (
            lambda: ulira_left_out(ONE, np.zeros((3, 3))),
            "at least 3 on each side, not 2 unlearned and 3 unseen",
        ),
        (lambda: auc([], [1.0]), "The positive scores are empty"),
        (lambda: auc([1.0], [np.inf]), "The negative scores hold values that are not finite"),
        (lambda: tpr_at_fpr([1.0], [1.0], 5), "a fraction between 0 and 1, not 5"),
        (lambda: ulira(ONE, ONE, ONE, ONE, fprs=(-1,)), "between 0 and 1, not -1"),
    ],
)
def test_what_cannot_be_attacked_is_said(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()
