from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from pytorch_fid import fid_score

from mu_vision.metrics.frechet import (
    FeatureStatistics,
    frechet_distance,
    frechet_from_features,
)


@pytest.fixture
def reference(monkeypatch):
    """pytorch-fid's own function; newer SciPy's ``sqrtm`` no longer takes ``disp``."""
    root = scipy.linalg.sqrtm
    monkeypatch.setattr(
        scipy.linalg, "sqrtm", lambda a, disp=True: root(a) if disp else (root(a), 0.0)
    )
    return fid_score.calculate_frechet_distance


def gaussian(dim: int, seed: int, decay: float = 1.0):
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(dim, dim)))
    spectrum = np.arange(1, dim + 1) ** -decay
    return random.normal(size=dim), (turn * spectrum) @ turn.T


@pytest.mark.parametrize("dim", [1, 5, 64, 200])
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.5])
def test_agrees_with_pytorch_fid(reference, dim, decay):
    one, two = gaussian(dim, 1, decay), gaussian(dim, 2, decay)
    assert frechet_distance(*one, *two) == pytest.approx(reference(*one, *two), rel=1e-6)


def test_agrees_with_pytorch_fid_on_features(reference):
    random = np.random.default_rng(0)
    one = random.gamma(1.0, size=(900, 128))
    two = random.gamma(1.2, size=(700, 128)) + 0.1
    expected = reference(
        one.mean(0), np.cov(one, rowvar=False), two.mean(0), np.cov(two, rowvar=False)
    )
    assert frechet_from_features(one, two) == pytest.approx(expected, rel=1e-6)


def test_closed_form_of_commuting_covariances():
    a, b = np.array([4.0, 9.0, 1.0]), np.array([1.0, 16.0, 1.0])
    mean = np.array([1.0, 2.0, 2.0])
    expected = 9.0 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(mean, np.diag(a), 0 * mean, np.diag(b)) == pytest.approx(expected)


def test_identical_sets_give_zero():
    for count in (300, 40):
        features = np.random.default_rng(3).normal(size=(count, 64))
        assert frechet_from_features(features, features) < 1e-4


def test_symmetric_and_shift_adds_its_squared_length():
    one, two = gaussian(32, 1), gaussian(32, 2)
    there, back = frechet_distance(*one, *two), frechet_distance(*two, *one)
    assert there == pytest.approx(back, rel=1e-9)
    shift = np.full(32, 0.5)
    equal = frechet_distance(one[0], one[1], one[0], two[1])
    moved = frechet_distance(one[0] + shift, one[1], one[0], two[1])
    assert moved - equal == pytest.approx(shift @ shift)


def test_fewer_samples_than_dimensions_equals_the_matrix_form():
    random = np.random.default_rng(5)
    one, two = random.normal(size=(20, 50)), random.normal(size=(30, 50)) * 1.5 + 0.2
    first, second = FeatureStatistics.of(one), FeatureStatistics.of(two)
    matrix = frechet_distance(first.mean, first.covariance, second.mean, second.covariance)
    assert frechet_from_features(one, two) == pytest.approx(matrix, rel=1e-6)


def test_statistics_stream_and_merge():
    features = np.random.default_rng(1).normal(3.0, 2.0, size=(1000, 16)).astype(np.float32)
    streamed = FeatureStatistics.of(features[start : start + 37] for start in range(0, 1000, 37))
    left, right = FeatureStatistics.of(features[:300]), FeatureStatistics.of(features[300:])
    right.merge(left)
    exact = np.cov(features.astype(np.float64), rowvar=False)
    for found in (streamed, right):
        assert found.count == 1000
        np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, exact, rtol=1e-10, atol=1e-12)


def test_bad_input_is_refused():
    good = np.zeros((4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_from_features(good[:1], good)
    with pytest.raises(ValueError, match="not finite"):
        frechet_from_features(good + np.nan, good)
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.array([np.inf]), np.eye(1), np.zeros(1), np.eye(1))
    with pytest.raises(ValueError, match="same number of dimensions"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="at least 2 vectors"):
        _ = FeatureStatistics.of(good[:1]).covariance
    with pytest.raises(ValueError, match="cannot merge"):
        FeatureStatistics.of(good).merge(FeatureStatistics.of(np.zeros((3, 5))))
