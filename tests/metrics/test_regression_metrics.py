"""Wasserstein-1 and membership of regressors, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mu_vision.errors import UsageError
from mu_vision.metrics.regression import member_share, wasserstein_1

DRAW = np.random.default_rng(5)


def test_w1_of_equal_sizes_is_the_mean_distance_of_sorted_values():
    u, v = DRAW.normal(size=(2, 31))
    assert wasserstein_1(u, v) == pytest.approx(np.abs(np.sort(u) - np.sort(v)).mean())
    assert wasserstein_1(torch.tensor(u), v) == wasserstein_1(v, u)


@pytest.mark.parametrize("shift", [-3.5, 0.0, 20.0])
def test_w1_of_a_shift_is_its_size(shift):
    u = DRAW.normal(size=40)
    assert wasserstein_1(u, u + shift) == pytest.approx(abs(shift))


def test_w1_of_two_points_against_one():
    assert wasserstein_1([0.0, 2.0], [1.0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([], r"predictions must be \[N\] with N >= 1, not \[0\]"),
        ([[1.0]], r"predictions must be \[N\] with N >= 1, not \[1, 1\]"),
        ([1.0, math.nan], "predictions hold values that are not finite"),
    ],
)
def test_w1_refuses_what_is_no_set_of_predictions(values, fault):
    with pytest.raises(UsageError, match=fault):
        wasserstein_1(values, [1.0])


def test_the_attack_tells_small_errors_from_large_ones():
    members, others = DRAW.uniform(0, 1, 200), DRAW.uniform(3, 4, 150)
    assert member_share(members, others, [0.5, 0.2, 3.5, 3.2]) == 0.5
    assert member_share(members, others, members[:20]) == 1.0
    assert member_share(members, others, others[:20]) == 0.0


def test_the_attack_is_a_function_of_the_seed_and_draws_no_more_than_asked():
    members, others, forget = DRAW.exponential(size=(3, 300))
    shares = {seed: member_share(members, others, forget, 50, seed) for seed in range(4)}
    assert shares[0] == member_share(members, others, forget, 50, 0)
    assert len(set(shares.values())) > 1
    before = np.random.get_state()[1].tolist()
    member_share(members, others, forget, 50)
    assert np.random.get_state()[1].tolist() == before


def test_a_model_with_one_error_for_all_tells_the_attacker_nothing():
    assert member_share(np.full(9, 2.0), np.full(7, 2.0), np.full(3, 2.0)) == 0.5
    # constant on either side, but different: that is a perfect attack
    assert member_share(np.zeros(9), np.full(7, 2.0), np.zeros(3)) == 1.0


def test_the_attack_refuses_errors_that_are_not_finite():
    with pytest.raises(UsageError, match="forget errors hold values that are not finite"):
        member_share([1.0], [2.0], [math.inf])
