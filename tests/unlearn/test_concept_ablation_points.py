"""Concept Ablation on clouds of points, where all that it claims can be counted; see ``compass.py``."""

from __future__ import annotations

from functools import cache

import points
import pytest
import torch
from compass import CLOUDS, EAST, PICTURES, distance, drift, original, shares

from mu_vision.unlearn.diffusion.concept_ablation import ConceptAblation


@cache
def ablated(**changes):
    settings = {"steps": 150, "lr": 2e-3, "batch": 64, **PICTURES, **changes}
    return ConceptAblation(**settings).unlearn(original(), EAST).model


def test_the_original_draws_the_clouds():
    assert shares(original()) == [1, 0, 0, 0]
    for name, centre in CLOUDS.items():
        drawn = points.draw(original(), name)
        assert (drawn.mean(0) - torch.tensor(centre)).norm() < 0.2
        assert (drawn.std(0) - 0.3).abs().max() < 0.1


@pytest.mark.parametrize("changes", [{}, {"teacher": "frozen"}, {"target": "noise"}])
def test_concept_ablation_draws_the_anchor_instead(changes):
    assert shares(ablated(**changes))[1] > 0.95


def test_the_regulariser_keeps_the_anchor_where_it_is():
    """Published toy: 5 to 9 times less drift at equal erasure; here 10.7 and 54 (models 0 and 1).

    Nothing is claimed of other clouds: the loss has no term for them, and they move.
    """
    plain, kept = ablated(), ablated(reg="on", reg_weight=1.0)
    assert shares(kept)[1] > 0.95
    assert drift(plain, "west") > 5 * drift(kept, "west")


def test_more_steps_forget_more_and_move_the_others_more():
    runs = [ablated(steps=2), ablated(steps=20), ablated()]
    known = [shares(model)[0] for model in runs]
    others = [max(drift(model, name) for name in ("north", "south")) for model in runs]
    assert known == sorted(known, reverse=True) and known[0] > known[-1] == 0
    assert others == sorted(others) and others[-1] > 2 * others[0]


def test_a_larger_rate_forgets_more_and_moves_the_others_more():
    runs = [ablated(lr=lr) for lr in (1e-5, 1e-4, 1e-3)]
    assert [shares(model)[0] for model in runs] == [1, 1, 0]
    west = [distance(model) for model in runs]
    others = [max(drift(model, name) for name in ("north", "south")) for model in runs]
    assert west == sorted(west, reverse=True) and others == sorted(others)


def test_all_weights_need_a_frozen_teacher_at_a_rate_that_keys_and_values_bear():
    """The anchor's prediction runs away with the network; measured 11.3 against 0.3 and 2.7."""
    alone, taught = (ablated(variant="full", lr=1e-3, teacher=t) for t in ("self", "frozen"))
    assert distance(alone) > 8 and drift(alone, "west") > 8
    assert distance(taught) < 1 and drift(taught, "west") < 1
    assert distance(ablated(lr=1e-3)) < 4
