"""Relearn time and the anamnesis index from curves."""

from __future__ import annotations

import pytest

from mu_vision.evaluation.forgetting import compare_relearning


def rows(**curves):
    return [{"method": method, "relearn": curve} for method, curve in curves.items()]


def test_relearn_time_is_counted_to_five_percent_below_the_original():
    found = rows(
        original=[0.8, 0.9], retrain=[0.0, 0.38, 1.0], ours=[0.52, 1.0, 1.0], held=[0.1, 0.2, 0.3]
    )
    compare_relearning(found)
    original, gold, ours, held = found
    assert original["relearn_time"] == 0
    assert gold["relearn_time"] == pytest.approx(1 + 0.38 / 0.62)  # 0.76 between 0.38 and 1
    assert ours["relearn_time"] == pytest.approx(0.5)
    assert gold["ain"] == 1 and ours["ain"] == pytest.approx(0.51 / (1.01 + 0.38 / 0.62))
    assert "relearn_time" not in held and "ain" not in held


def test_without_a_yardstick_that_relearns_there_is_no_index():
    found = rows(original=[1.0], retrain=[0.0, 0.1], ours=[0.0, 1.0])
    compare_relearning(found)
    assert found[2]["relearn_time"] == pytest.approx(0.95) and "ain" not in found[2]
    alone = rows(original=[1.0], ours=[0.0])
    compare_relearning(alone)
    assert alone == rows(original=[1.0], ours=[0.0])
