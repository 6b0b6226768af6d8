"""Relearning: the curve, the steps to half of it, and that the victim stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import scenes

from mu_vision.attack.relearning import Relearning
from mu_vision.metrics.forgetting import steps_to


def test_steps_to_a_level_in_closed_form():
    assert steps_to(0.5, [0, 10, 20], [0.0, 0.25, 0.75]) == 15.0
    assert steps_to(0.5, [0, 10, 20], [0.5, 0.1, 0.1]) == 0.0
    assert steps_to(0.5, [5, 10], [0.9, 1.0]) == 5.0
    assert steps_to(0.5, [0, 10, 20], [0.0, 0.5, 1.0]) == 10.0
    assert steps_to(0.5, [0, 10, 40], [0.2, 0.0, 1.0]) == 25.0  # the first time that it rises
    assert steps_to(0.5, [0, 10], [0.0, 0.49]) is None
    assert steps_to(1.0, [0, 80], [0.0, 1.0]) == 80.0


def test_the_curve_begins_at_the_unattacked_share_and_training_moves_it(sd):
    victim = scenes.edited(sd)
    own = scenes.scene(victim, sd).unattacked.mean(axis=(1, 2, 3))
    verdict = scenes.bright(float(np.sort(own)[1]))  # one of three lies above
    scene = scenes.scene(victim, sd, verdict)
    result = Relearning(marks=(0, 2, 4), batch=2, lr=1e-2).run(scene)
    curves = result.details["curves"]
    assert set(curves) == {"concept", "unrelated"}
    for curve in curves.values():
        assert len(curve) == 3
        assert (
            curve[0]
            == pytest.approx(scene.before.mean(), abs=1e-4)
            == pytest.approx(1 / 3, abs=1e-4)
        )
    assert result.details["half"] == {
        name: steps and round(steps, 1)
        for name, curve in curves.items()
        for steps in [steps_to(0.5, [0, 2, 4], curve)]
    }
    # what is judged in the end are the pictures of the model that was trained
    assert not np.array_equal(result.pictures[~scene.before], scene.unattacked[~scene.before])
    assert Relearning.headline is False


def test_it_trains_on_the_captions_of_its_pictures(sd, monkeypatch):
    read = set()
    inner = type(sd).encode_prompt_with_grad
    monkeypatch.setattr(
        type(sd),
        "encode_prompt_with_grad",
        lambda self, prompts: read.update(prompts) or inner(self, prompts),
    )
    scene = scenes.scene(scenes.edited(sd), sd)
    Relearning(marks=(0, 6), batch=4).run(scene)
    assert read == {*scene.examples.prompts, *scene.others.prompts}


def test_without_a_mark_at_zero_there_is_a_curve_too(sd):
    result = Relearning(marks=(1, 2), batch=1).run(scenes.scene(scenes.edited(sd), sd))
    assert result.details["marks"] == [1, 2]
    assert result.details["curves"] == {"concept": [0.0, 0.0], "unrelated": [0.0, 0.0]}
    assert result.details["half"] == {"concept": None, "unrelated": None}
