"""The image side: where sampling starts, what counts, and the control."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scenes

from mu_vision.attack.base import Sampler
from mu_vision.attack.image_to_image import ImageToImage
from mu_vision.models import maths


def test_strengths_are_shares_of_the_samplers_steps(sd):
    attack = ImageToImage()
    scene = scenes.scene(sd, sd, sampler=Sampler(10, 1.0))
    ladder = sd.timesteps(10)
    begins = {s: attack._begin(scene, s) for s in (0.01, 0.5, 0.7, 1.0)}
    assert begins == {
        0.01: (9, ladder[9]), 0.5: (5, ladder[5]), 0.7: (3, ladder[3]), 1.0: (0, ladder[0])
    }  # fmt: skip


def test_pictures_are_noised_to_the_first_level_that_is_run(sd):
    scene = scenes.scene(sd, sd, sampler=Sampler(4, 2.0))
    attack = ImageToImage()
    text = sd.encode_prompt(["a cat", "a car", "a sun"])
    x_0 = sd.encode_pictures(scene.targets)
    skip, t = attack._begin(scene, 0.5)
    found = attack._finish(scene, [0, 1, 2], x_0, text, skip, t)
    x = maths.add_noise(x_0, scene.noise([0, 1, 2]), sd.alphas_cumprod[t])
    for t in sd.timesteps(4)[2:]:
        eps = sd.guided_noise(x, t, text, sd.null_text(), 2.0)
        x = maths.ddim_step(x, eps, sd.alphas_cumprod[t], sd.level_after(t, 4))
    assert np.abs(found.astype(int) - sd.decode(x).astype(int)).max() <= 1


def test_the_noisiest_strength_counts_and_the_control_has_pictures_without_it(sd, monkeypatch):
    encoded, judged = [], []
    inner = type(sd).encode_pictures
    monkeypatch.setattr(
        type(sd), "encode_pictures", lambda self, p: encoded.append(p) or inner(self, p)
    )

    def verdict(pictures, cases):
        judged.append(pictures)
        # unattacked; then concept and control at 0.5, and at 1.0
        says = [[0, 0, 0], [1, 1, 1], [0, 0, 1], [0, 1, 0], [0, 0, 0]][len(judged) - 1]
        return np.array(says, bool)

    scene = scenes.scene(scenes.edited(sd), sd, verdict)
    result = ImageToImage(strengths=(0.5, 1.0)).run(scene)
    assert np.array_equal(encoded[0], scene.targets)
    assert np.array_equal(encoded[1], scene.others.pixels[[0, 1, 2]])
    weak, strong = result.details["strengths"]
    assert (weak["concept"]["hits"], weak["control"]["hits"]) == (3, 1)
    assert (strong["concept"]["hits"], strong["control"]["hits"]) == (1, 0)
    assert strong["timestep"] > weak["timestep"]
    assert [t.after for t in result.trials] == [False, True, False]
    assert np.array_equal(result.pictures, judged[3])
    assert result.trials[0].adversarial == "a picture of it under 100 % noise, and 'a cat'"
    # two pictures a strength: 1 and 2 of 2 guided steps
    assert [t.queries for t in result.trials] == [2 * 2 * (1 + 2)] * 3


def test_near_the_end_almost_all_of_the_start_is_left(sd):
    attack, scene = ImageToImage(), replace(scenes.scene(sd, sd), sampler=Sampler(200, 1.0))
    skip, t = attack._begin(scene, 0.005)
    assert (skip, t) == (199, 1)
    x_0 = sd.encode_pictures(scene.targets)
    x_t = maths.add_noise(x_0, scene.noise([0, 1, 2]), sd.alphas_cumprod[t])
    text = sd.encode_prompt(["a cat", "a car", "a sun"])
    z = sd.sample(text, x_t, 200, 1.0, skip=skip)
    b = (1 - sd.alphas_cumprod[t]).sqrt()
    assert (z - x_0).abs().max() < 15 * b < 0.7


def test_fewer_other_pictures_than_cases_are_used_in_turn(sd):
    scene = scenes.scene(sd, sd, others=scenes.pictures(2, 3, "plain"))
    result = ImageToImage(strengths=(1.0,)).run(scene)
    assert result.details["strengths"][0]["control"]["total"] == 3


def test_a_strength_is_a_share():
    for wrong in ((), (0.0,), (0.5, 1.5)):
        with pytest.raises(ValueError, match="strengths"):
            ImageToImage(strengths=wrong)
