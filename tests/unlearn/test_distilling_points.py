"""SFD on five clouds of points on a ring, with networks that know a cloud's exact noise prediction.

Teacher, generator and fake score are Gaussians whose means and widths are learnt, so the best
generator is known: it draws every cloud with the teacher's mean and spread. The first cloud is to be
drawn as the second. One word changes the others too, by what the tokens share.
"""

from __future__ import annotations

import math
from functools import cache

import points
import pytest
import torch

from mu_vision.loop import train
from mu_vision.models.denoiser import Generator
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.diffusion.sfd import SFD

NAMES = "abcde"
CLOUDS = {
    name: (math.cos(2 * math.pi * i / 5), math.sin(2 * math.pi * i / 5))
    for i, name in enumerate(NAMES)
}
CENTRES = torch.tensor(list(CLOUDS.values()))
FORGET = ConceptRequest(
    kind="concept", name="a", prompts=("a",), anchor="b", keep=("b", "c", "d", "e")
)


@cache
def teacher() -> points.PointModel:
    return points.exact(CLOUDS, 0.12, seed=0, beta_schedule="linear")


def generators(weight: float, *after: int) -> list[points.PointModel]:
    """What SFD has made after so many steps, with lambda = mu = ``weight``."""
    method = SFD(
        steps=max(after), lr=3e-3, batch=64, psi_weight=weight, theta_weight=weight, average=0.9
    )
    objective, found = method.objective(teacher(), [FORGET]), []

    def look(step: int) -> None:
        if step + 1 in after:
            found.append(objective.result())

    objective.after_step = look
    train(objective, method.loop_config())
    return found


def drawn_as(model, name: str, cloud: str) -> float:
    """Share of the points of a name that are nearest to a cloud."""
    nearest = torch.cdist(points.draw(model, name), CENTRES).argmin(1)
    return (nearest == NAMES.index(cloud)).float().mean().item()


def spread(model, name: str) -> float:
    return points.draw(model, name).std(0).mean().item()


def test_a_generator_that_was_not_trained_draws_means():
    """One step from sigma 2.5 has the spread a0 b0 s^2 / V, far below s."""
    t = 440
    model = teacher().drawing_by(Generator(t))
    a2 = float(teacher().alphas_cumprod[t])
    a, b = a2**0.5, (1 - a2) ** 0.5
    for name in NAMES:
        assert drawn_as(model, name, name) == 1
        expected = a * b * 0.12**2 / (a2 * 0.12**2 + b**2)
        assert spread(model, name) == pytest.approx(expected, rel=0.1)


def test_the_first_cloud_becomes_the_second_and_the_others_stay():
    """In one evaluation, and with the spread of the teacher's clouds."""
    early, late = generators(1.0, 50, 200)
    assert drawn_as(early, "a", "a") < 0.05
    calls = []
    hook = late.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    assert drawn_as(late, "a", "b") > 0.99
    hook.remove()
    assert len(calls) == 1
    for name in NAMES[1:]:
        assert drawn_as(late, name, name) > 0.98
        error = points.draw(late, name).mean(0) - CENTRES[NAMES.index(name)]
        assert error.norm() < 0.1
    for name in NAMES:
        assert spread(late, name) == pytest.approx(0.12, abs=0.05)


def test_a_smaller_weight_forgets_later_and_none_not_at_all():
    """Leaving a cloud out of what is kept does not erase it, while the others are distilled."""
    early, late = generators(0.1, 50, 100)
    assert drawn_as(early, "a", "a") > 0.95 and drawn_as(late, "a", "a") < 0.05
    (never,) = generators(0.0, 100)
    assert drawn_as(never, "a", "a") > 0.95
    assert spread(never, "c") > 3 * spread(teacher().drawing_by(Generator(440)), "c")
