from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.svm import SVC

from mu_vision.errors import UsageError
from mu_vision.metrics import membership
from mu_vision.metrics.forgetting import unlearning_accuracy
from mu_vision.metrics.membership import (
    FEATURES,
    confidence,
    correctness,
    cross_entropy,
    entropy,
    entropy_mia,
    logit_scaled_confidence,
    mia_efficacy,
    mia_privacy,
    modified_entropy,
    probability_vector,
    starting_kit_mia,
)

CLASSES = 5


def sample(rows: int, seed: int, margin: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a classifier that is right when its margin is not drowned in noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, rows)
    logits = random.normal(size=(rows, CLASSES)) * 1.5
    logits[np.arange(rows), labels] += margin
    return logits, labels


def at(probability: float, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two classes whose label has this probability."""
    share = np.clip([1 - probability, probability], 1e-30, 1)
    return np.tile(np.log(share), (rows, 1)), np.ones(rows, int)


def plain_svc(retain, test, forget, feature: str) -> np.ndarray:
    """The published attack without any short cut: which of the forget set is called member."""
    count = len(test[0])
    get = FEATURES[feature]
    parts = [get(*s).reshape(len(s[0]), -1) for s in (retain, test, forget)]
    fit = np.concatenate([parts[0][:count], parts[1]])
    truth = np.repeat([1, 0], count)
    return SVC(kernel="rbf", C=3, gamma="auto").fit(fit, truth).predict(parts[2]) == 1


def test_features_equal_their_formulas():
    logits, labels = sample(200, 0)
    p = softmax(logits, axis=1)
    own = p[np.arange(200), labels]
    assert probability_vector(logits) == pytest.approx(p)
    assert confidence(logits, labels) == pytest.approx(own)
    assert cross_entropy(logits, labels).mean() == pytest.approx(log_loss(labels, p))
    assert entropy(logits) == pytest.approx(-(p * np.log(p)).sum(1))
    assert (correctness(logits, labels) == (p.argmax(1) == labels)).all()
    assert logit_scaled_confidence(logits, labels) == pytest.approx(np.log(own / (1 - own)))
    others = p * np.log1p(-p)
    others[np.arange(200), labels] = 0
    expected = -(1 - own) * np.log(own) - others.sum(1)
    assert modified_entropy(logits, labels) == pytest.approx(expected)


def test_modified_entropy_of_certain_answers():
    certain = np.array([[1000.0, 0, 0, 0]])
    assert modified_entropy(certain, [0]) == 0
    assert modified_entropy(certain, [1]) == pytest.approx(2000 - np.log(3))
    assert entropy(certain) == 0
    wrong = np.array([[2.0, 9.0, -1.0, 0.5]])
    swapped = wrong[:, [0, 3, 1, 2]]
    assert modified_entropy(wrong, [0]) == pytest.approx(modified_entropy(swapped, [0]))
    assert modified_entropy(wrong, [0]) > 10 > 0.1 > modified_entropy(wrong, [1])


def test_features_stay_finite_and_exact_where_probabilities_saturate():
    logits = np.array([[400.0, 0, 0], [0, 400.0, 0], [40.0, 0, -900]])
    for name, feature in FEATURES.items():
        assert np.isfinite(feature(logits, [0, 0, 0])).all(), name
    assert logit_scaled_confidence(logits, [0, 0, 0]) == pytest.approx([400 - np.log(2), -400, 40])
    assert entropy(np.zeros((1, 8))) == pytest.approx(np.log(8))
    assert logit_scaled_confidence(logits + 1e4, [0, 0, 0]) == pytest.approx(
        logit_scaled_confidence(logits, [0, 0, 0])
    )


@pytest.mark.parametrize("feature", FEATURES)
def test_separable_sets(feature):
    """Members are certain; non-members sit at 0.5, half of them wrong (for correctness)."""
    retain, test = at(1.0, 30), at(0.499, 20)
    for forget, efficacy in ((at(0.499, 10), 1.0), (at(1.0, 10), 0.0)):
        found = mia_efficacy(*retain, *test, *forget, feature=feature)
        assert found.efficacy == efficacy
        assert (found.members, found.non_members, found.feature) == (20, 20, feature)
        assert found.grid == 0 and found.seconds > 0
    assert mia_privacy(*retain, *test, feature=feature).privacy == 1.0


def test_correctness_attack_is_unlearning_accuracy():
    retain, forget = sample(300, 1, margin=30), sample(100, 3, margin=2)
    test = sample(200, 2, margin=4)
    assert correctness(*retain).all() and not correctness(*test).all()
    found = mia_efficacy(*retain, *test, *forget, feature="correctness")
    assert found.efficacy == pytest.approx(unlearning_accuracy(*forget))
    assert 0 < found.efficacy < 1


@pytest.mark.parametrize("feature", FEATURES)
def test_merged_rows_equal_the_plain_support_vector_machine(feature):
    retain, test, forget = sample(400, 1, 6), sample(300, 2, 4), sample(150, 3, 5)
    # rounded logits, so that there is something to merge
    retain, test = ((np.round(logits), labels) for logits, labels in (retain, test))
    found = mia_efficacy(*retain, *test, *forget, feature=feature)
    assert found.grid == 0
    assert found.efficacy == pytest.approx((~plain_svc(retain, test, forget, feature)).mean())


@pytest.mark.parametrize("rows, calls", [(1000, 0.005), (300, 0.01)])
@pytest.mark.parametrize("feature", ["confidence", "entropy", "modified_entropy", "loss", "phi"])
@pytest.mark.parametrize("margin", [4.2, 6.0])
def test_binned_rows_agree_with_the_plain_support_vector_machine(
    monkeypatch, rows, calls, feature, margin
):
    """Down to cells of 0.01, and members hardly unlike non-members (4.2), where it is hardest."""
    retain, test, forget = sample(1000, 1, margin), sample(1000, 2, 4), sample(1000, 3, 5)
    monkeypatch.setattr(membership, "MAX_ROWS", rows)
    found = mia_efficacy(*retain, *test, *forget, feature=feature)
    assert 1e-4 <= found.grid <= 1e-2
    exact = (~plain_svc(retain, test, forget, feature)).mean()
    assert found.efficacy == pytest.approx(exact, abs=calls)


def test_fifty_thousand_rows_take_seconds():
    retain, test, forget = sample(25_000, 1, 6), sample(25_000, 2, 5), sample(5000, 3, 6)
    found = mia_efficacy(*retain, *test, *forget)
    assert found.members == 25_000 and 0 < found.grid <= 1e-2
    assert found.seconds < 30


def test_efficacy_does_not_depend_on_the_order_of_samples():
    retain, test, forget = sample(200, 1, 6), sample(200, 2, 4), sample(100, 3, 5)
    found = mia_efficacy(*retain, *test, *forget).efficacy
    mix = np.random.default_rng(0).permutation
    shuffled = []
    for logits, labels in (retain, test, forget):
        order = mix(len(labels))
        shuffled += [logits[order], labels[order]]
    assert mia_efficacy(*shuffled).efficacy == found
    renamed = [(s[0][:, ::-1], CLASSES - 1 - s[1]) for s in (retain, test, forget)]
    assert mia_efficacy(*(array for pair in renamed for array in pair)).efficacy == found


def test_members_are_the_first_of_the_retain_set_and_sizes_are_equal():
    test, forget = sample(50, 2), sample(40, 3)
    retain = sample(120, 1, 6)
    first = tuple(array[:50] for array in retain)
    whole, cut = mia_efficacy(*retain, *test, *forget), mia_efficacy(*first, *test, *forget)
    assert whole.efficacy == cut.efficacy and whole.members == cut.members == 50
    few = tuple(array[:30] for array in retain)
    short = mia_efficacy(*few, *test, *forget)
    assert (short.members, short.non_members) == (30, 30)


def test_privacy_is_the_mean_of_both_held_out_accuracies():
    retain, test = sample(2000, 1, 6), sample(1000, 2, 4)
    found = mia_privacy(*retain, *test)
    assert found.members == found.non_members == 500
    assert found.privacy == (found.member_accuracy + found.non_member_accuracy) / 2
    fitted, held = (
        [tuple(array[part] for array in s) for s in (retain, test)]
        for part in (slice(500), slice(500, None))
    )
    assert found.member_accuracy == plain_svc(*fitted, held[0], "confidence").mean()
    assert found.non_member_accuracy == (~plain_svc(*fitted, held[1], "confidence")).mean()
    assert found.privacy > 0.6
    assert mia_privacy(*sample(2000, 5), *sample(2000, 6)).privacy == pytest.approx(0.5, abs=0.05)


def test_starting_kit_on_equal_and_on_distinct_distributions():
    equal = starting_kit_mia(*sample(2000, 1), *sample(3000, 2))
    assert equal.accuracy == pytest.approx(0.5, abs=0.04)
    assert equal.members == equal.non_members == 2000 and equal.std > 0
    assert starting_kit_mia(*at(0.999, 50), *at(0.01, 60)).accuracy == 1
    again = starting_kit_mia(*sample(2000, 1), *sample(3000, 2))
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(equal, seconds=0)


def test_starting_kit_leaves_the_global_generator_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    starting_kit_mia(*sample(30, 1), *sample(30, 2), splits=2)
    assert (np.random.get_state()[1] == before).all()


def test_entropy_attack():
    retain, test, forget = sample(500, 1, 8)[0], sample(90, 2, 3)[0], sample(100, 3, 5)[0]
    found = entropy_mia(retain, test, forget)
    model = LogisticRegression(class_weight="balanced")
    features = np.concatenate([entropy(retain), entropy(test)])[:, None]
    model.fit(features, np.repeat([1, 0], [500, 90]))
    assert found.member_share == model.predict(entropy(forget)[:, None]).mean()
    assert (found.members, found.non_members, found.feature) == (500, 90, "entropy")
    certain, flat = at(1.0, 20)[0], at(0.5, 20)[0]
    assert entropy_mia(certain, flat, certain).member_share == 1
    assert entropy_mia(certain, flat, flat).member_share == 0


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        mia_efficacy(*at(1.0, 5), *at(0.5, 5), *at(0.5, 5)).efficacy = 0


def test_a_missing_scikit_learn_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"need the package scikit-learn.*pip install"):
        mia_efficacy(*at(1.0, 5), *at(0.5, 5), *at(0.5, 5))


GOOD = sample(12, 0)
EMPTY = (np.zeros((0, CLASSES)), np.zeros(0, int))
NAN = (np.full((12, CLASSES), np.nan), GOOD[1])
TWO = at(0.5, 12)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: confidence(*EMPTY), "The logits are empty"),
        (lambda: entropy(np.ones(3)), r"The logits must be \[N, C\]"),
        (lambda: modified_entropy(GOOD[0], GOOD[1][:3]), r"12 rows, but .* shape \[3\]"),
        (lambda: logit_scaled_confidence(GOOD[0], GOOD[1] + 9), "so label .* is not one of 0 to 4"),
        (lambda: mia_efficacy(*GOOD, *EMPTY, *GOOD), "The test logits are empty"),
        (lambda: mia_efficacy(*NAN, *GOOD, *GOOD), "The retain logits hold values that are not"),
        (lambda: mia_efficacy(*GOOD, *GOOD, *TWO), r"same number of classes, not \[5, 5, 2\]"),
        (lambda: mia_efficacy(*GOOD, *GOOD, *GOOD, "entropi"), "Did you mean 'entropy'"),
        (lambda: mia_privacy(*GOOD, *(a[:1] for a in GOOD)), "at least 2 retain and 2 test"),
        (lambda: starting_kit_mia(*GOOD, *(a[:9] for a in GOOD)), "10 samples of each set, not 9"),
        (lambda: starting_kit_mia(*GOOD, *GOOD, splits=0), "at least 1 split, not 0"),
        (lambda: entropy_mia(GOOD[0], GOOD[0], EMPTY[0]), "The forget logits are empty"),
        (lambda: entropy_mia(GOOD[0], TWO[0], GOOD[0]), r"classes, not \[5, 2, 5\]"),
    ],
)
def test_what_cannot_be_attacked_is_said(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()
