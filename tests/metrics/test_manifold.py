import numpy as np
import pytest

from mu_vision.metrics.frechet import frechet_from_features
from mu_vision.metrics.inception import inception_score
from mu_vision.metrics.manifold import precision_recall, radii, within


def line(*places: float) -> np.ndarray:
    return np.array(places, float)[:, None]


def test_radii_on_a_line():
    """Places 0, 1, 3, 6: the distances to the k-th neighbour can be counted."""
    points = line(0, 1, 3, 6)
    assert radii(points, 1).tolist() == [1, 1, 2, 3]
    assert radii(points, 2).tolist() == [3, 2, 3, 5]
    assert radii(points, 3).tolist() == [6, 5, 3, 6]
    assert radii(points, 2, block=3).tolist() == [3, 2, 3, 5]
    with pytest.raises(ValueError, match="4 neighbours of a picture need more than 4 pictures"):
        radii(points, 4)


def test_equal_places_have_balls_without_width():
    assert radii(line(2, 2, 2, 5), 2).tolist() == [0, 0, 0, 3]
    assert within(line(2, 2.1), line(2), np.zeros(1)).tolist() == [True, False]


def test_precision_and_recall_can_be_counted():
    real, generated = line(0, 1, 2, 3), line(1.5, 2.5, 10, 40)
    precision, recall = precision_recall(real, generated, k=1)
    # the real balls cover [-1, 4]; those of the generated [0.5, 3.5], [2.5, 17.5], [10, 70]
    assert (precision.hits, precision.total) == (2, 4)
    assert (recall.hits, recall.total) == (3, 4)


def test_swapping_the_sets_swaps_them_and_leaves_the_frechet_distance():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(60, 4)), 0.5 * rng.normal(size=(80, 4))
    precision, recall = precision_recall(real, generated)
    other = precision_recall(generated, real)
    assert other == (recall, precision)
    assert precision.value > recall.value  # a narrow generator looks real and misses the rest
    apart = frechet_from_features(real, generated)
    assert frechet_from_features(generated, real) == pytest.approx(apart)


def test_equal_sets_are_perfect_and_distant_ones_share_nothing():
    points = np.random.default_rng(1).normal(size=(50, 3))
    assert [rate.value for rate in precision_recall(points, points.copy())] == [1, 1]
    assert [rate.value for rate in precision_recall(points, points + 100)] == [0, 0]
    with pytest.raises(ValueError, match="not finite"):
        precision_recall(points, np.full((50, 3), np.nan))


def test_blocks_change_nothing():
    rng = np.random.default_rng(2)
    points, features = rng.normal(size=(30, 3)), rng.normal(size=(40, 3))
    whole = within(points, features, radii(features))
    assert np.array_equal(whole, within(points, features, radii(features, block=7), block=11))


def test_the_inception_score_is_1_for_one_answer_and_k_for_sure_and_even_ones():
    assert inception_score(np.full((8, 4), 0.25)) == pytest.approx(1)
    assert inception_score(np.eye(4)[[0, 0, 0]]) == pytest.approx(1)
    assert inception_score(np.eye(4).repeat(5, 0)) == pytest.approx(4)
    mixed = np.array([[0.9, 0.1], [0.1, 0.9]])
    kl = 0.9 * np.log(1.8) + 0.1 * np.log(0.2)
    assert inception_score(mixed) == pytest.approx(np.exp(kl))


def test_splits_are_shuffled_so_that_sorted_classes_do_not_matter():
    sorted_by_class = np.eye(4).repeat(200, 0)
    assert inception_score(sorted_by_class, splits=4) > 3.8
    again = inception_score(sorted_by_class, splits=4)
    assert again == inception_score(sorted_by_class, splits=4)
    with pytest.raises(ValueError, match="3 pictures cannot make 4 splits"):
        inception_score(np.eye(3), splits=4)
    with pytest.raises(ValueError, match="must sum to 1"):
        inception_score(np.ones((3, 2)))
