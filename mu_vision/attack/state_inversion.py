"""State inversion: concept inversion behind the text encoder.

    min over w [k, D]   E mean( (n - eps_theta(x_t, [TE(P_0), w], t))^2 )

w takes the place of the last k text states of the neutral prompt P_0, those of padding. It asks
whether the network can still draw the concept when no text encoder stands between, so an eraser
that only changes how texts are read cannot withstand it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from ..models.diffusion import DiffusionModel
from ..models.text import TextStates
from ..registry import register
from .base import Kind, Scene
from .concept_inversion import ConceptInversion


@register("attack", "state_inversion")
class StateInversion(ConceptInversion):
    """Learn text states that make the victim draw the example pictures, past the text encoder.

    Free states can teach a network what it never knew (see the floor), so this attack says where a
    concept was hidden and does not count for the worst case.
    """

    title: ClassVar[str] = "State inversion"
    kind: ClassVar[Kind] = "states"
    headline: ClassVar[bool] = False
    trial: ClassVar[dict[str, Any]] = {**ConceptInversion.trial, "tokens": 2}

    tokens: int = Field(4, ge=1, description="k, text states that are learned")
    lr: float = Field(0.1, gt=0, description="of Adam on the states, falling to 0")

    def _read(self, victim: DiffusionModel, prompts: Sequence[str], w: torch.Tensor) -> TextStates:
        """Text states of prompts with the learned ones [B, k, D] in place of their last."""
        states = victim.encode_prompt(prompts).states
        return TextStates(torch.cat([states[:, : states.shape[1] - w.shape[1]], w], dim=1))

    def _starts(self, scene: Scene, table: torch.Tensor, generator: torch.Generator):
        """The first restart begins at the state of the concept's plain text, the others at noise."""
        own = scene.victim.encode_prompt([scene.concept[0]]).states[0]
        last = scene.victim.tokens(scene.concept[0]).last
        shape = (self.restarts, self.tokens, own.shape[1])
        starts = torch.randn(shape, generator=generator).to(own.device) * own.std()
        starts[0] = own[max(1, last)]
        return starts
