"""PUL, its interval, balance and collateral shift against counts by hand; paths of linear GANs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gans import tiny_gan

from mu_vision.errors import RunError
from mu_vision.metrics.gan import balance, moved, neighbour_path, pul, pul_interval, slerp


def flags(count: int, total: int = 100) -> np.ndarray:
    return np.arange(total) < count


def test_pul_is_the_share_of_negatives_that_are_gone():
    assert pul(flags(20), flags(20)) == 0
    assert pul(flags(20), flags(0)) == 100
    assert pul(flags(20), flags(5)) == 75
    assert pul(flags(20), flags(30)) == -50
    with pytest.raises(RunError, match="None of the original's 100 pictures shows the target"):
        pul(flags(0), flags(3))
    with pytest.raises(ValueError, match="same latents"):
        pul(flags(3), flags(3, 50))


def test_the_interval_holds_pul_and_narrows_with_more_latents():
    few = pul_interval(flags(20), flags(5))
    many = pul_interval(flags(2000, 10_000), flags(500, 10_000))
    assert few[0] < 75 < few[1] and many[0] < 75 < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 5
    assert few == pul_interval(flags(20), flags(5))
    assert pul_interval(flags(20), flags(0)) == (100, 100)


def test_the_interval_is_that_of_resampled_latents():
    rng = np.random.default_rng(1)
    before, after = rng.random(400) < 0.3, rng.random(400) < 0.1
    draws = []
    for _ in range(2000):
        rows = rng.integers(0, 400, 400)
        draws.append(pul(before[rows], after[rows]))
    low, high = np.percentile(draws, [2.5, 97.5])
    assert pul_interval(before, after) == pytest.approx((low, high), abs=3)


def test_balance_is_the_entropy_of_the_kept_classes():
    kept = np.array([True, True, False, True])
    assert balance(np.array([0, 1, 3, 2, 2, 2]), kept) == pytest.approx(1)
    assert balance(np.array([0, 0, 2]), kept) == 0
    halves = balance(np.array([0, 1, 0, 1]), kept)
    assert halves == pytest.approx(math.log(2) / math.log(3))
    assert balance(np.array([2, 2]), kept) == 0


def test_the_shift_is_relative_to_what_was_drawn_before():
    kept = np.array([True, True, False])
    before, after = np.repeat([0, 1, 2], [10, 20, 30]), np.repeat([0, 1, 2], [15, 10, 0])
    assert moved(before, after, kept) == pytest.approx((0.5 + 0.5) / 2)
    assert moved(before, before, kept) == 0


def test_great_circles_keep_the_length():
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    torch.testing.assert_close(slerp(first, second, 0.0), first)
    torch.testing.assert_close(slerp(first, second, 1.0), second)
    sizes = (first.norm(dim=1) + second.norm(dim=1)) / 2
    torch.testing.assert_close(slerp(first, second, 0.5).norm(dim=1), sizes)


def test_a_steeper_generator_has_a_longer_path():
    gan = tiny_gan("dcgan").clone()
    pairs = torch.stack([gan.latents(16, "pairs", k) for k in (0, 1)])

    def flat(x):
        return x.flatten(1)

    before = neighbour_path(gan, flat, pairs)
    torch.testing.assert_close(before, neighbour_path(gan, flat, pairs, batch=5), rtol=1e-4, atol=0)
    assert neighbour_path(gan, lambda x: 2 * flat(x), pairs) == pytest.approx(4 * before, rel=1e-4)
    with torch.no_grad():
        gan.generator.last.weight.zero_()
    assert neighbour_path(gan, flat, pairs) == 0
