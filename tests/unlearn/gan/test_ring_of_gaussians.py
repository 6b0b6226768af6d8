"""Two of eight Gaussians on a ring are forgotten: the illustration of Adapt-then-Unlearn, made small.

Ring of radius 2, deviation 0.1, centres (2, 0) and (-1.41, -1.41) unlearned (Tiwary et al., TMLR
2025). A point is a picture of one pixel with two channels, at a third of its size. The published GAN
plays for thousands of steps first; here regression lays the latents round the ring before it plays.
All shares are of the same latents before and after.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from mu_vision import registry, seeding
from mu_vision.adversarial import Game, GameSettings
from mu_vision.data.feedback import GanRequest
from mu_vision.loop import LoopConfig, train
from mu_vision.metrics.gan import balance, pul
from mu_vision.models.gan import Gan, GanConfig
from mu_vision.unlearn.gan.adapt_then_unlearn import Repelled, Repulsion
from mu_vision.unlearn.gan.adaptation import weights_of
from mu_vision.unlearn.gan.extrapolation import extrapolated

SEED = 0
MODES, FORGOTTEN = 8, (0, 5)
TURN = torch.arange(MODES) * 2 * math.pi / MODES
CENTRES = torch.stack([TURN.cos(), TURN.sin()], 1) * 2 / 3
DEVIATION = 0.1 / 3
KEPT = np.isin(np.arange(MODES), FORGOTTEN, invert=True)
GAME = {"batch": 128, "r1": 1.0, "path": 0.0, "average": 0.99}
SHARED = {**GAME, "lr": 1e-3, "steps": 160, "samples": 4096, "log_every": 10}
ADAPT = {"adapt_steps": 120, "negatives": 64, "ewc": 0.01}


def perceptron(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    sizes = [inputs, width, width, width]
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


class Points(nn.Module):
    """Latents [B, 2] to points [B, 2, 1, 1]."""

    latent, size, layers = 2, 1, 1

    def __init__(self):
        super().__init__()
        self.net = perceptron(2, 2)

    def map(self, z):
        return z[:, None]

    def draw(self, w, fresh=False):
        return self.net(w[:, 0])[:, :, None, None]

    def forward(self, z, fresh=False):
        return self.draw(self.map(z))

    def anchored(self):
        return ["net.2.weight", "net.2.bias", "net.4.weight", "net.4.bias"]


class Critic(nn.Module):
    """Points to logits [B]."""

    def __init__(self):
        super().__init__()
        self.net = perceptron(2, 1)

    def forward(self, x):
        return self.net(3 * x.flatten(1)).squeeze(1)


def nearest(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to the nearest centre, and which it is."""
    return torch.cdist(points.flatten(1), CENTRES).min(1)


class Nearest:
    """Says yes where the nearest centre is to be forgotten."""

    name = fingerprint = "nearest centre"

    def shows(self, pictures):
        return torch.isin(nearest(pictures)[1], torch.tensor(FORGOTTEN))


TWO = GanRequest("two modes", Nearest())


class Ring(Game):
    """The game with points of all eight modes."""

    def __init__(self):
        self.rules = GameSettings(**GAME)

    def prepare(self, device):
        # of its description only the latent counts: the networks are given
        config = GanConfig(channels=2, latent=2, widths=(1,), critic_widths=(1,))
        with seeding.seeded("ring", SEED):
            self.student = Gan(config, Points(), Critic(), "ring").clone()
            lay_out(self.student.generator)
        self.start()

    def real(self, count):
        points = CENTRES[torch.randint(MODES, (count,))] + DEVIATION * torch.randn(count, 2)
        return points[:, :, None, None]


def lay_out(generator: Points, steps: int = 300) -> None:
    """Teach each eighth of the plane of latents one Gaussian."""
    adam = torch.optim.Adam(generator.parameters(), lr=5e-3)
    for _ in range(steps):
        z = torch.randn(256, 2)
        at = torch.atan2(z[:, 1], z[:, 0]) / (2 * math.pi) * MODES % MODES
        mode = at.long() % MODES
        uniform = torch.stack([at - at.floor(), (-z.square().sum(1) / 2).exp()], 1)
        wanted = CENTRES[mode] + DEVIATION * torch.special.ndtri(uniform.clamp(1e-3, 1 - 1e-3))
        adam.zero_grad()
        (generator(z)[:, :, 0, 0] - wanted).square().sum(1).mean().backward()
        adam.step()


@dataclass
class Shown:
    """What a GAN draws: the mode of each latent, and the share within four deviations of one."""

    modes: np.ndarray
    sharp: float

    @classmethod
    def of(cls, gan: Gan) -> Shown:
        far, modes = nearest(gan.pictures(gan.latents(4000, "test")))
        return cls(modes.numpy(), float((far < 4 * DEVIATION).float().mean()))

    @property
    def negative(self) -> np.ndarray:
        return np.isin(self.modes, FORGOTTEN)

    @property
    def balance(self) -> float:
        return balance(self.modes, KEPT)

    def pul(self, original: Shown) -> float:
        return pul(original.negative, self.negative)


def build(name: str, **changes):
    return registry.get("method", name, "gan").from_settings({**SHARED, "seed": SEED, **changes})


@pytest.fixture(scope="module")
def ring() -> Gan:
    game = Ring()
    train(game, LoopConfig(steps=150, lr=1e-3, seed=SEED))
    return game.finished_model()


@pytest.fixture(scope="module")
def original(ring) -> Shown:
    return Shown.of(ring)


@pytest.fixture(scope="module")
def adapted(ring) -> Gan:
    """theta_N: one whole step along the direction that means the two modes."""
    steps = ADAPT["adapt_steps"]
    return build("extrapolation", s=1.0, steps=steps, negatives=64).unlearn(ring, TWO).model


@pytest.fixture(scope="module")
def positives(ring) -> Gan:
    return build("positives").unlearn(ring, TWO).model


@pytest.fixture(scope="module")
def repelled(ring):
    return build("adapt_then_unlearn", repulsion="el2", gamma=0.3, **ADAPT).unlearn(ring, TWO)


def test_the_ring_has_eight_modes(original):
    assert np.bincount(original.modes, minlength=MODES).min() > 4000 / MODES * 0.8
    assert original.sharp > 0.7 and original.negative.mean() == pytest.approx(0.25, abs=0.03)


def test_stage_one_draws_little_but_the_two_modes(adapted):
    assert Shown.of(adapted).negative.mean() > 0.6


def test_adapt_then_unlearn_forgets_the_two_modes_and_keeps_the_others(original, repelled):
    after = Shown.of(repelled.model)
    assert after.pul(original) > 50
    before, now = (np.bincount(shown.modes, minlength=MODES)[KEPT] for shown in (original, after))
    assert (now > 0.8 * before).all() and after.balance > 0.95 * original.balance


def test_extrapolation_forgets_less_and_ruins_more(ring, original, adapted, repelled):
    after = Shown.of(repelled.model)
    half, whole = (Shown.of(extrapolated(ring, [adapted], s)) for s in (-0.5, -1.0))
    assert 0 < half.pul(original) < whole.pul(original) < after.pul(original)
    assert half.sharp < 0.6 * original.sharp and whole.sharp < after.sharp / 1.5


def test_repulsion_goes_further_and_forgets_no_less(ring, original, adapted, positives, repelled):
    """Not that it forgets more: on this ring positives alone do most of it.

    The difference was -8 to +9 points on single seeds.
    """
    scale = Repulsion(weights_of(ring), [weights_of(adapted)], "el2", 1.0)
    assert repelled.report["r"] > 1.5 * float(scale.measure(weights_of(positives)))
    plain = Shown.of(positives)
    assert Shown.of(repelled.model).pul(original) > plain.pul(original) - 10


def test_el2_slows_down_by_itself(repelled):
    r = [row["r"] for row in repelled.history]
    middle = r[len(r) // 2]
    assert r[0] < middle < r[-1] and r[-1] - middle < (middle - r[0]) / 2


def test_nl2_without_its_cap_runs_away_and_ruins_the_points(ring, original, adapted):
    def run(**changes) -> tuple[list[float], Shown]:
        method = build("adapt_then_unlearn", repulsion="nl2", gamma=0.1, steps=60, **changes)
        objective = Repelled(method, ring, (TWO,), [adapted])
        history = train(objective, method.loop_config()).history
        return [row["r"] for row in history], Shown.of(objective.finished_model())

    r, after = run(r_max=1e9, r_stop=1e9)
    capped, held = run()
    assert r == sorted(r) and r[-1] > 10 * capped[-1] and max(capped) < 1.5 * 4.0
    assert after.sharp < original.sharp / 2 and after.sharp < held.sharp / 1.5


def test_redaction_forgets_faster_than_positives_alone(ring, original, positives):
    done = build("redaction", kept=0.8).unlearn(ring, TWO).model
    assert Shown.of(done).pul(original) > Shown.of(positives).pul(original) + 3
