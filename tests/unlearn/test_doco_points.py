"""DoCo on clouds of points, where all that it claims can be counted; see ``compass.py``."""

from __future__ import annotations

from functools import cache

import pytest
from compass import EAST, PICTURES, distance, drift, original, shares
from torch import nn

from mu_vision.unlearn.diffusion import doco


class Critic(nn.Sequential):
    """A discriminator of points."""

    def __init__(self, channels: int, height: int, width: int):
        super().__init__(
            nn.Flatten(), nn.Linear(channels, 64), nn.LeakyReLU(0.2),
            nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1),
        )  # fmt: skip


@pytest.fixture(scope="module")
def game():
    """``game(**changes)``: DoCo with a discriminator of points, once for the same changes."""
    settings = {"steps": 200, "head_start": 50, "lr": 1e-3, "batch": 128, "pool": 1024, **PICTURES}

    @cache
    def played(**changes):
        return doco.DoCo(**{**settings, **changes}).unlearn(original(), EAST)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doco, "PatchGAN", Critic)
        patch.setattr(doco, "blocks_for", lambda height, width: 1)
        yield played


def test_surgery_keeps_the_anchor_and_costs_no_erasure(game):
    """Measured with seeds 0 and 1 of the model: the drift of west is 4.1 and 4.3 times smaller.

    It only protects what its loss is read on: south drifts nearly as far as without.
    """
    plain, kept = game(surgery="none"), game(surgery="project")
    for done in (plain, kept):
        assert shares(done.model)[1] > 0.95 and distance(done.model) < 1
    assert drift(plain.model, "west") > 3 * drift(kept.model, "west")
    assert drift(kept.model, "south") > 0.5 * drift(plain.model, "south")
    conflicts = [row["conflict_share"] for row in kept.history[50:]]
    assert 0.1 < sum(conflicts) / len(conflicts) < 0.9
    losses = [row["discriminator_loss"] for row in kept.history]
    before, end = sum(losses[40:50]) / 10, sum(losses[-20:]) / 20
    assert before < losses[0] - 0.5, "the discriminator learns in its head start"
    assert before + 0.3 < end < 1.6, "and is undecided at the end: 2 ln 2 is 1.39"


def test_one_projection_over_all_tensors_keeps_the_anchor_too(game):
    plain, kept = game(surgery="none").model, game(surgery="project", scope="global").model
    assert shares(kept)[1] > 0.95 and drift(plain, "west") > 3 * drift(kept, "west")


def test_the_head_start_changes_how_soon_it_ends_and_not_where(game):
    """The same 150 turns of the student: measured 1.3 without one, 0.8 and 0.6 after 50 and 100."""
    short = game(surgery="project").model
    none, long = (game(surgery="project", steps=150 + n, head_start=n).model for n in (0, 100))
    assert min(shares(model)[1] for model in (none, short, long)) > 0.95
    assert abs(distance(short) - distance(long)) < 0.5
    assert max(distance(short), distance(long)) < distance(none) < 2
