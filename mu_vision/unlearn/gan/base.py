"""What GAN unlearners share: feedback on generated pictures, the game, and knowing when to stop.

Both networks train on, with pictures that the oracle did not mark in the place of real ones. While
they do, a watch counts how many pictures of latents of its own still show the target.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from ...adversarial import Game, GameSettings
from ...data.feedback import Feedback, GanRequest, ask, collect, restored
from ...errors import Diverged, UsageError
from ...loop import Run
from ...models.gan import Gan
from ..base import Erasure, GradientUnlearner, Unlearned


class GanUnlearner(GradientUnlearner, GameSettings):
    """A method that plays the game on with what an oracle said of generated pictures."""

    family: ClassVar[str] = "gan"
    trial: ClassVar[dict[str, Any]] = {
        "steps": 2, "lr": 0.01, "batch": 4, "samples": 64, "path_every": 1, "r1_every": 2,
    }  # fmt: skip
    idle: ClassVar[dict[str, Any] | None] = {"lr": 0.0}

    steps: int = Field(1000, ge=1, description="optimiser steps of each network")
    lr: float = Field(2e-3, ge=0, description="learning rate")
    samples: int = Field(5000, ge=2, description="pictures that the oracle sorts")
    check_every: int = Field(
        0, ge=0, description="steps between two looks at PUL, 0 for none; each may be the last"
    )
    check_latents: int = Field(1024, ge=1, description="latents of each look")
    patience: int = Field(3, ge=1, description="looks without progress after which it stops")
    tolerance: float = Field(
        1.0, ge=0, description="least progress of PUL between looks, in points"
    )

    def trained(self, model: Gan) -> list[str]:
        return list(model.named_parameters())

    def objective(self, model: Gan, requests: Sequence[GanRequest]) -> GanErasure:
        return GanErasure(self, model, requests)

    def _run(self, model: Gan, requests: Sequence[GanRequest], folder: Path | None) -> Unlearned:
        objective = self.objective(model, requests)
        done = self._trained(objective, self.loop_config(), model, requests, folder)
        objective.finished_model()
        done.report.update(objective.told())
        return done


class GanErasure(Game, Erasure):
    """The game with positives as real pictures, from the original on.

    Attributes:
        feedback: what the oracle said of the original's pictures.
        watched: (step, share of negatives) of each look; the first is the original's.
        stopped: why it ended before its last step; empty if it did not.
    """

    def __init__(self, settings: GanUnlearner, model: Gan, requests: Sequence[GanRequest]):
        super().__init__(settings, model, requests)
        self.rules = settings
        self.watched: list[tuple[int, float]] = []
        self.stopped = ""
        self.good: dict[str, torch.Tensor] = {}
        if settings.check_every and any(request.oracle is None for request in requests):
            raise UsageError(
                f"method {settings.name}: a look at PUL needs an oracle that answers for new pictures,"
                " and marks cannot; set check_every=0."
            )

    def prepare(self, device: torch.device) -> None:
        Erasure.prepare(self, device)
        self.start()
        self.feedback = self.sorted_pictures()
        self.pool = self.chosen(self.feedback).to(device)
        if self.settings.check_every:
            self.watch(0)

    def sorted_pictures(self) -> Feedback:
        s = self.settings
        return collect(self.teacher, self.requests, s.samples, s.seed)

    def chosen(self, feedback: Feedback) -> torch.Tensor:
        """[N, C, S, S] uint8: what counts as real."""
        return feedback.positives

    def real(self, count: int) -> torch.Tensor:
        rows = torch.randint(len(self.pool), (count,))
        return restored(self.pool[rows.to(self.pool.device)])

    def watch(self, step: int) -> None:
        """Count negatives on latents that no report uses."""
        s = self.settings
        gan = copy.copy(self.student)
        gan.generator = self.averaged
        pictures = gan.pictures(self.teacher.latents(s.check_latents, "watch", s.seed))
        shown = [ask(request.oracle, pictures) for request in self.requests]
        share = torch.stack(shown).any(0).float().mean()
        self.watched.append((step, float(share)))

    def step(self, step: int, run: Run) -> dict[str, float]:
        try:
            return super().step(step, run)
        except Diverged as error:
            self.give_up(step, str(error))
            return {}

    def give_up(self, step: int, reason: str) -> None:
        """Go back to the last good weights, and stop.

        Raises:
            Diverged: if there are none yet.
        """
        if not self.good:
            raise Diverged(f"{self.settings.name} diverged at step {step + 1}: {reason}")
        kept = int(self.good["step"])
        self.stopped = (
            f"diverged at step {step + 1}, the weights of step {kept} were kept: {reason}"
        )
        self._restore_good()

    def after_step(self, step: int) -> None:
        if self.stopped:
            return
        super().after_step(step)
        s, done = self.settings, step + 1
        every = s.check_every or max(1, s.steps // 10)
        if done % every:
            return
        if all(torch.isfinite(p).all() for p in self.averaged.parameters()):
            self._keep_good(done)
        if s.check_every:
            self.watch(done)
            if self._level():
                self.stopped = f"PUL levelled at step {done}"

    def _level(self) -> bool:
        """True if the best share of the last looks is no better than the best before them."""
        shares, patience = [share for _, share in self.watched], self.settings.patience
        if len(shares) <= patience:
            return False
        gain = min(shares[:-patience]) - min(shares[-patience:])
        return gain < self.settings.tolerance / 100 * max(shares[0], 1e-12)

    def finished(self) -> bool:
        return bool(self.stopped)

    def _keep_good(self, done: int) -> None:
        parts = {"averaged": self.averaged, "discriminator": self.student.discriminator}
        self.good = {
            f"{part}.{name}": parameter.detach().clone()
            for part, network in parts.items()
            for name, parameter in network.named_parameters()
        }
        self.good["step"] = torch.tensor(done)

    @torch.no_grad()
    def _restore_good(self) -> None:
        places = (
            ("averaged", self.averaged), ("averaged", self.student.generator),
            ("discriminator", self.student.discriminator),
        )  # fmt: skip
        for part, network in places:
            for name, parameter in network.named_parameters():
                parameter.copy_(self.good[f"{part}.{name}"])

    def told(self) -> dict[str, Any]:
        """What the report says of the edit."""
        counts = {k: len(getattr(self.feedback, k)) for k in ("negatives", "positives")}
        return {**counts, "watched": [list(look) for look in self.watched], "stopped": self.stopped}

    def state(self) -> dict[str, torch.Tensor]:
        kept = {f"good.{name}": tensor.cpu() for name, tensor in self.good.items()}
        watched = torch.tensor(self.watched, dtype=torch.float64).reshape(-1, 2)
        stopped = torch.tensor(list(self.stopped.encode()), dtype=torch.uint8)
        return {**super().state(), **kept, "watched": watched, "stopped": stopped}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        super().load_state(state)
        good = {n.removeprefix("good."): t for n, t in state.items() if n.startswith("good.")}
        self.good = {name: tensor.to(self.teacher.device) for name, tensor in good.items()}
        self.watched = [(int(step), share) for step, share in state["watched"].tolist()]
        self.stopped = bytes(state["stopped"].tolist()).decode()
