from __future__ import annotations

import numpy as np
import pytest

from mu_vision.metrics import clip


def test_score_is_100_times_the_cosine_and_never_negative():
    images = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    texts = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert clip.clip_scores(images, texts) == pytest.approx([100, 100 / np.sqrt(2), 0], abs=1e-4)
    assert clip.image_similarity(images, texts)[2] == pytest.approx(-1)


def test_zero_shot_finds_style_and_object_of_a_grid():
    """Text features that add a style part and an object part are told apart on both axes."""
    random = np.random.default_rng(0)
    styles, objects = random.normal(size=(4, 64)), random.normal(size=(5, 64))
    texts = styles[:, None] + objects[None]
    images = texts.reshape(-1, 64) + 0.1 * random.normal(size=(20, 64))
    truth = np.indices((4, 5)).reshape(2, -1)
    np.testing.assert_array_equal(clip.zero_shot_pairs(images, texts), truth)
    np.testing.assert_array_equal(clip.zero_shot(images, texts.reshape(20, 64)), np.arange(20))


def test_a_zero_feature_does_not_become_nan():
    assert clip.clip_scores(np.zeros((1, 3)), np.ones((1, 3))) == pytest.approx([0])
