"""Samples with a value: their checks, forget sets of them, and the rendered gauges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from labelled import few_digits
from measured import digit_values, table

from mu_vision.data import gauges
from mu_vision.data.cards import load_card
from mu_vision.data.measured import Measured
from mu_vision.data.samples import Splits
from mu_vision.data.selectors import ForgetRequest, Selector, forget_rows, in_turn, load_forget_set
from mu_vision.errors import UsageError
from mu_vision.unlearn.samples import together

FEW = digit_values()


def select(**settings) -> ForgetRequest:
    return Selector(**settings).select(FEW)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_targets_that_are_not_finite_are_refused(value):
    y = torch.tensor([1.0, value, value])
    with pytest.raises(UsageError, match=rf"Sample 1 has the target {value:g} \(one of 2"):
        Measured(torch.zeros(3, 2), y, torch.zeros(3, dtype=torch.long), ("a",))


def test_every_sample_needs_a_value_and_a_subject():
    with pytest.raises(UsageError, match=r"one value and one subject each; got \[3, 2\], \[2\]"):
        Measured(torch.zeros(3, 2), torch.zeros(2), torch.zeros(3, dtype=torch.long), ("a",))


def test_the_deviation_is_absolute_or_squared():
    for deviation, expected in (("absolute", [2.0, 1.0]), ("squared", [4.0, 1.0])):
        data = Measured(
            torch.zeros(2, 1), torch.tensor([1.0, 3.0]), torch.zeros(2), ("a",), deviation
        )
        assert data.error(torch.tensor([3.0, 2.0])).tolist() == expected
        assert data.take([1]).deviation == deviation


def test_the_fingerprint_knows_every_part_of_the_data():
    data = table().train
    others = [
        data.take(range(len(data) - 1)),
        Measured(data.x, data.y, data.subjects.flip(0), data.names, data.deviation),
        Measured(data.x, data.y, data.subjects, ("x", "y", "z"), data.deviation),
        Measured(data.x, data.y, data.subjects, data.names, "absolute"),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert table().train.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("settings", "name", "values"),
    [
        ({"kind": "range", "high": 2}, "values up to 2", {0, 1, 2}),
        ({"kind": "range", "low": 8}, "values from 8", {8, 9}),
        ({"kind": "range", "low": 3, "high": 4}, "values from 3 to 4", {3, 4}),
        ({"kind": "subject", "of": "odd"}, "subject odd", {1, 3, 5, 7, 9}),
    ],
)
def test_a_range_or_a_subject_leaves_the_training_and_the_test_set(settings, name, values):
    asked = select(**settings)
    assert asked.name == name and asked.whole == ()
    for inside, outside in ((asked.forget, asked.retain), (asked.unseen, asked.test)):
        assert set(inside.y.tolist()) <= values and not set(outside.y.tolist()) & values
    assert len(asked.unseen) + len(asked.test) == len(FEW.test)


def test_a_random_share_leaves_the_test_set_as_it_is():
    asked = select(kind="random", share=0.25)
    assert len(asked.forget) == 60 and asked.test is FEW.test and asked.unseen is FEW.test
    part = select(kind="range", high=2, share=0.5)
    assert part.name == "50 % of values up to 2" and part.test is FEW.test
    assert 2 * len(part.rows) == pytest.approx(len(select(kind="range", high=2).rows), abs=1)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"kind": "range", "low": 20}, r"No training sample has a value from 20; they go from 0 to 9"),
        ({"kind": "range", "low": -5, "high": 50}, "is the whole training set: nothing is left to keep"),
        ({"kind": "range", "low": 4, "high": 3}, "from low=4 to high=3 is empty"),
        ({"kind": "range"}, "needs low=..., high=... or both"),
        ({"kind": "subject", "of": "eve"}, "There is no subject 'eve'. Did you mean 'even'"),
        ({"kind": "subject"}, "needs of=..., which is missing"),
        ({"kind": "class", "of": "3"}, "A forget set by class needs samples with a class each"),
    ],
)  # fmt: skip
def test_bad_ranges_and_subjects_are_refused(settings, fault):
    with pytest.raises(UsageError, match=fault):
        select(**settings)


def test_a_range_without_test_samples_is_refused():
    few = Splits("few", FEW.train, FEW.test.take((FEW.test.y > 2).nonzero().flatten()))
    with pytest.raises(
        UsageError, match=r"The test set of few has no sample .* \(values up to 2\)"
    ):
        Selector(kind="range", high=2).select(few)


def test_classes_have_no_range():
    with pytest.raises(UsageError, match="A forget set by range needs samples with a value each"):
        Selector(kind="range", high=2).select(few_digits())


def test_what_a_request_is_like_is_kept_in_files_and_by_requests_together(tmp_path):
    low, high = select(kind="range", high=1), select(kind="range", low=8)
    loaded = load_forget_set(low.save(tmp_path / "set.json"), FEW)
    assert loaded == low and loaded.like == low.like
    for both in (in_turn(low, high), together([low, high])):
        assert set(both.unseen.y.tolist()) <= {0, 1, 8, 9}
        assert set(both.like) == {*low.like, *high.like}
    assert set(in_turn(low, high).parts[1].known.y.tolist()) == set(range(2, 10))


def test_the_known_samples_are_those_that_no_request_took_before():
    first = forget_rows(FEW, range(10))
    assert first.known is FEW.train
    assert len(first.then(forget_rows(FEW, range(5, 15))).known) == 230


def test_a_gauge_is_a_function_of_its_name_and_number():
    picture, value = gauges.render("dial-night-1", 7)
    again, same = gauges.render("dial-night-1", 7)
    assert np.array_equal(picture, again) and value == same
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8 and 0 <= value <= 100
    assert gauges.render("dial-night-1", 8)[1] != value
    # pinned: the same bytes on every machine
    assert (round(value, 4), int(picture.sum()), int(picture[16, 16, 0])) == PINNED


PINNED = (89.2692, 349870, 150)


def test_gauges_have_the_values_and_instruments_of_their_card():
    splits, card = gauges.load(), load_card("gauges")
    y = splits.train.y
    assert gauges.load() is splits and splits.train.names == gauges.SUBJECTS
    assert len(splits.train) == 24 * 96 and len(splits.test) == 24 * 32
    assert card.size == (gauges.SIZE, gauges.SIZE) and card.count == 24 * 128
    assert {n: card.split(n) for n in card.splits} == {"train": gauges.TRAIN, "test": gauges.TEST}
    # 100 Beta(2, 2), within four standard errors
    assert float(y.mean()) == pytest.approx(50, abs=4 * 22.4 / len(y) ** 0.5)
    assert float((y < 30).float().mean()) == pytest.approx(0.216, abs=4 * 0.41 / len(y) ** 0.5)
    assert torch.bincount(splits.train.subjects).tolist() == [96] * 24
