"""Stage 1 of Adapt-then-Unlearn: GANs adapted to the negatives, kept in memory once.

    theta_N = argmin_theta max_phi  E_{x in S_n} log D(x) + E_z log(1 - D(G(z))) + gamma L_EWC(theta)

theta_N - theta_G is a direction in the space of parameters that means the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from ... import seeding
from ...data.feedback import Feedback, GanRequest
from ...errors import Diverged, UsageError
from ...loop import LoopResult, train
from ...models.gan import Gan, check_same
from .base import GanErasure, GanUnlearner
from .consolidation import Consolidation, ConsolidationSettings


class AdaptingUnlearner(GanUnlearner, ConsolidationSettings):
    """A method that needs adapted GANs: trains them, or takes GAN folders."""

    trial: ClassVar[dict[str, Any]] = {
        **GanUnlearner.trial, "fisher_samples": 4, "negatives": 8,
    }  # fmt: skip

    models: int = Field(
        1, ge=1, description="M, adapted GANs, each with a seed and negatives of its own"
    )
    negatives: int = Field(
        300,
        ge=1,
        description="negatives that each adapted GAN learns from; all, if fewer are marked",
    )
    adapted: tuple[str, ...] = Field((), description="folders of GANs adapted before, for stage 1")

    def adapt(
        self, model: Gan, requests: Sequence[GanRequest], folder: Path | None, steps: int
    ) -> tuple[list[Gan], list[LoopResult]]:
        """The adapted GANs, and what training them cost.

        Raises:
            UsageError: if a folder holds a GAN of another architecture.
            Diverged: if stage 1 did.
        """
        if self.adapted:
            return [load_adapted(place, model) for place in self.adapted], []
        made, results = [], []
        for number in range(self.models):
            objective = Adaptation(self, model, requests, number)
            seed = seeding.seed_of("adapt", self.seed, number) % 2**31
            changes = {"steps": steps, "seed": seed, "check_every": 0}
            config = self.model_copy(update=changes).loop_config()
            place = folder and folder / f"adapted-{number}"
            results.append(train(objective, config, place, "adapting to the negatives"))
            if objective.stopped:
                raise Diverged(f"Stage 1 of {self.name} {objective.stopped}")
            made.append(objective.finished_model())
        return made, results


class Adaptation(GanErasure):
    """The game with negatives as real pictures, held by elastic weight consolidation."""

    def __init__(
        self, settings: AdaptingUnlearner, model: Gan, requests: Sequence[GanRequest], number: int
    ):
        super().__init__(settings.model_copy(update={"check_every": 0}), model, requests)
        self.number = number
        self.names = list(model.named_parameters())  # whatever the method itself may move

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        s = self.settings
        self.held = Consolidation(self.teacher, s, s.seed) if s.ewc else None

    def chosen(self, feedback: Feedback) -> torch.Tensor:
        """A random part of the negatives, another one for each adapted GAN."""
        draw = seeding.generator("negatives", self.settings.seed, self.number)
        order = torch.randperm(len(feedback.negatives), generator=draw)
        return feedback.negatives[order[: self.settings.negatives]]

    def extra_losses(self, step: int) -> dict[str, torch.Tensor]:
        return {"ewc_loss": self.held.loss(self.student.generator)} if self.held else {}


def load_adapted(place: Path | str, original: Gan) -> Gan:
    """A GAN that was adapted from the original before.

    Raises:
        UsageError: if it is no GAN folder, or of another architecture.
    """
    found = Gan.load(place, original.device)
    if found.config != original.config:
        raise UsageError(
            f"The adapted GAN {place} is of another architecture ({found.config.architecture},"
            f" {found.config.size} pixels, latent {found.config.latent}) than {original.name}; adapt"
            f" {original.name} itself."
        )
    check_same(
        original.generator.state_dict(), found.generator.state_dict(), f"The adapted GAN {place}"
    )
    return found


def weights_of(gan: Gan) -> list[torch.Tensor]:
    """The generator's parameters, detached, in order."""
    return [p.detach() for p in gan.generator.parameters()]
