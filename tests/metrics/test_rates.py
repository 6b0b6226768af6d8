from __future__ import annotations

import numpy as np
import pytest

from mu_vision.metrics import harder
from mu_vision.metrics.rates import (
    Grid,
    Rate,
    confusion,
    over_requests,
    paired_change,
    unlearning_rates,
    wilson_interval,
)

STYLES = tuple(f"S{k}" for k in range(50))
OBJECTS = tuple(f"O{k}" for k in range(20))
SEEDS = 5
GRID = Grid(STYLES, OBJECTS)
WITH_THEME = Grid((*STYLES, "Seed_Images"), OBJECTS, "Seed_Images")


def right(grid: Grid = GRID) -> np.ndarray:
    return np.ones((len(grid.styles), len(grid.objects), SEEDS), bool)


def values(rates: dict[str, Rate]) -> dict[str, float]:
    return {name: rate.value for name, rate in rates.items()}


def test_perfect_model_and_ideal_unlearner():
    perfect = unlearning_rates(GRID, right(), right(), "style", ["S3"])
    assert values(perfect) == {"ua": 0, "ira": 1, "cra_all": 1, "cra_retain": 1}
    assert perfect["ua"].total == 100 and perfect["ira"].total == 4900
    assert perfect["cra_all"].total == 5000 and perfect["cra_retain"].total == 4900
    style = right()
    style[3] = False
    ideal = unlearning_rates(GRID, style, right(), "style", ["S3"])
    assert values(ideal) == {"ua": 1, "ira": 1, "cra_all": 1, "cra_retain": 1}


@pytest.mark.parametrize("kind, names", [("style", STYLES), ("object", OBJECTS)])
def test_ruin_that_always_shows_one_class(kind, names):
    """Every picture is called class 7, whatever was asked."""
    style, object = right() & False, right() & False
    style[7], object[:, 7] = True, True
    other = unlearning_rates(GRID, style, object, kind, [names[3]])
    assert other["ua"].value == 1
    assert other["ira"].value == pytest.approx(1 / (len(names) - 1))
    same = unlearning_rates(GRID, style, object, kind, [names[7]])
    assert same["ua"].value == 0 and same["ira"].value == 0


def test_ua_and_accuracy_sum_to_one_exactly():
    for hits in range(101):
        rate = Rate(hits, 100)
        assert rate.hits + rate.complement.hits == 100
        assert (1 - rate.value) + rate.value == 1.0


@pytest.mark.parametrize("kind, share", [("style", 1 / 50), ("object", 1 / 20)])
def test_cra_scope(kind, share):
    """Only the target's cells are wrong for the other judge."""
    wrong = ~GRID.target_mask(kind, [("S3", "O3")[kind == "object"]])[..., None] & right()
    tables = (right(), wrong) if kind == "style" else (wrong, right())
    rates = unlearning_rates(GRID, *tables, kind, [("S3", "O3")[kind == "object"]])
    assert rates["cra_retain"].value == 1
    assert rates["cra_all"].value == pytest.approx(1 - share)


def test_seed_theme_counts_only_when_asked():
    style = right(WITH_THEME)
    style[-1] = False
    left_out = unlearning_rates(WITH_THEME, style, right(WITH_THEME), "style", ["S3"])
    assert left_out["ira"].value == 1 and left_out["ira"].total == 4900
    counted = Grid(WITH_THEME.styles, OBJECTS, "Seed_Images", include_seed_theme=True)
    rates = unlearning_rates(counted, style, right(counted), "style", ["S3"])
    assert rates["ira"].value == pytest.approx(1 - 1 / 50)
    objects = unlearning_rates(counted, style, right(counted), "object", ["O3"])
    assert objects["ua"].total == 255 and objects["cra_all"].value == pytest.approx(1 - 1 / 51)


def test_several_targets():
    style = right()
    style[[3, 4]] = False
    rates = unlearning_rates(GRID, style, right(), "style", ["S3", "S4"])
    assert values(rates) == {"ua": 1, "ira": 1, "cra_all": 1, "cra_retain": 1}
    assert rates["ua"].total == 200 and rates["ira"].total == 4800


def test_request_must_leave_cells_on_both_sides():
    with pytest.raises(ValueError, match="both sides"):
        unlearning_rates(WITH_THEME, right(WITH_THEME), right(WITH_THEME), "style", ["Seed_Images"])


def test_confusion_rows_sum_to_pictures():
    random = np.random.default_rng(0)
    truth, found = np.repeat(np.arange(8), 50), random.integers(0, 10, 400)
    table = confusion(truth, found, 8, 10)
    assert table.shape == (8, 10) and (table.sum(axis=1) == 50).all()
    order = random.permutation(400)
    np.testing.assert_array_equal(table, confusion(truth[order], found[order], 8, 10))


def test_wilson_interval_against_published_values():
    # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3.
    for hits, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                                   (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson_interval(hits, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0
    for bad in ((0, 0), (5, 4), (-1, 3)):
        with pytest.raises(ValueError, match="is not a share"):
            wilson_interval(*bad)


def test_over_requests():
    summary = over_requests([0.9, 1.0, 0.8])
    assert summary.mean == pytest.approx(0.9) and summary.worst == 0.8 and summary.requests == 3
    assert 0.8 <= summary.interval[0] < 0.9 < summary.interval[1] <= 1.0
    assert over_requests([1, 3], higher_is_better=False).worst == 3
    with pytest.raises(ValueError, match="no request"):
        over_requests([])


def test_finer_scale_partition_and_both_readings():
    masks = harder.pair_masks(WITH_THEME, "S3", "O5")
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "UA": 1,
        "SC": 19,
        "OC": 49,
        "UP": 931,
    }
    assert sum(mask.astype(int) for mask in masks.values()).max() == 1
    random = np.random.default_rng(0)
    style, object = right() & (random.random((50, 20, 5)) < 0.5), right()
    object[3, 5] = [True, False, True, False, False]
    style[3, 5] = [True, True, False, False, True]
    both = harder.pair_rates(GRID, style, object, "S3", "O5")
    either = harder.pair_rates(GRID, style, object, "S3", "O5", "either_wrong")
    assert both["UA"].value == 1 / 5 and either["UA"].value == 4 / 5
    assert both["OC"].value == 1.0 and both["SC"].total == 95


def test_sequential_effects():
    assert harder.rebounds([(1.0, 0.99, 0.95, 0.87, 0.81, 0.75)]) == [0.25]
    assert harder.collapses([0.8239, 0.1456]) == [pytest.approx(0.6783)]


def test_paired_change_against_published_values():
    # Newcombe 1998 (Statistics in Medicine 17, 2635-2650), method 10, 36/12/2/0 of 50 pairs.
    after = np.repeat([True, True, False, False], [36, 12, 2, 0])
    before = np.repeat([True, False, True, False], [36, 12, 2, 0])
    change, interval = paired_change(before, after)
    assert change == pytest.approx(0.2)
    assert interval == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert paired_change(after, after)[0] == 0
    lost, (low, high) = paired_change(np.ones(20, bool), np.zeros(20, bool))
    assert lost == low == -1 and -1 < high < -0.7
    with pytest.raises(ValueError, match="same pictures"):
        paired_change(after, before[:3])
