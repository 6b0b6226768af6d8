"""DoCo on clouds of points, where all that it claims can be counted; see ``compass.py``."""

from __future__ import annotations

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


def test_surgery_keeps_the_anchor_and_costs_no_erasure(monkeypatch):
    """Measured with seeds 0 and 1 of the model: the drift of west is 4.1 and 4.3 times smaller.

    It only protects what its loss is read on: south drifts nearly as far as without.
    """
    monkeypatch.setattr(doco, "PatchGAN", Critic)
    monkeypatch.setattr(doco, "blocks_for", lambda height, width: 1)
    settings = {"steps": 200, "head_start": 50, "lr": 1e-3, "batch": 128, "pool": 1024, **PICTURES}
    plain, kept = (
        doco.DoCo(**settings, surgery=surgery).unlearn(original(), EAST)
        for surgery in ("none", "project")
    )
    for done in (plain, kept):
        assert shares(done.model)[1] > 0.95 and distance(done.model) < 1
    assert drift(plain.model, "west") > 3 * drift(kept.model, "west")
    assert drift(kept.model, "south") > 0.5 * drift(plain.model, "south")
    conflicts = [row["conflict_share"] for row in kept.history[50:]]
    assert 0.1 < sum(conflicts) / len(conflicts) < 0.9
    game = [row["discriminator_loss"] for row in kept.history]
    before, end = sum(game[40:50]) / 10, sum(game[-20:]) / 20
    assert before < game[0] - 0.5, "the discriminator learns in its head start"
    assert before + 0.3 < end < 1.6, "and is undecided at the end: 2 ln 2 is 1.39"
