"""What erasers by distribution train on: pictures that the original drew once, noised anew.

The texts come in pairs: c names the concept, a is the harmless text that the request pairs with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ... import seeding
from ...errors import UsageError
from ...models import maths
from ...models.diffusion import DiffusionModel
from ...models.text import TextStates
from ...request import ConceptRequest
from ..base import concept_texts
from .retain import words_of


@dataclass
class Pictures:
    """Clean latents of pictures of some texts.

    Attributes:
        z: [n, C, h, w] clean latents.
        which: [n] the text of each, a position among those that were drawn.
    """

    z: torch.Tensor
    which: torch.Tensor

    @classmethod
    def draw(
        cls,
        model: DiffusionModel,
        texts: TextStates,
        size: int,
        steps: int,
        guidance: float,
        seed: int,
        batch: int = 16,
    ) -> Pictures:
        """Draw the texts in turn; picture i depends on (model, its text, seed, i) alone.

        Args:
            model: the original.
            texts: what to draw, encoded.
            size: number of pictures.
            steps: DDIM steps.
            guidance: classifier-free guidance scale; both branches run as one batch.
            seed: seed of the starting noise.
            batch: pictures that are drawn together.
        """
        which = torch.arange(size) % len(texts)
        which, parts = which.to(model.device), []
        for rows in torch.arange(size).split(batch):
            noise = [seeding.noise(model.latent_shape, "picture", seed, i) for i in rows.tolist()]
            text = texts[which[rows.to(model.device)]]
            parts.append(model.sample(text, torch.stack(noise), steps, guidance))
        return cls(torch.cat(parts), which)

    def noised(
        self,
        n: int,
        abar: torch.Tensor,
        timesteps: tuple[int, int] | None = None,
        antithetic: bool = False,
    ) -> dict[str, torch.Tensor]:
        """N random pictures at random noise levels.

        Args:
            n: number of states.
            abar: the model's ``alphas_cumprod``.
            timesteps: lowest and highest timestep; default all.
            antithetic: take lowest + highest - t for the second half of the rows, t that of the first.

        Returns:
            ``x`` noisy latents and ``eps`` their noise [n, C, h, w], ``t`` and ``which`` [n].
        """
        return self.at(torch.randint(len(self.z), (n,)), abar, timesteps, antithetic)

    def at(
        self,
        rows: torch.Tensor,
        abar: torch.Tensor,
        timesteps: tuple[int, int] | None = None,
        antithetic: bool = False,
    ) -> dict[str, torch.Tensor]:
        """These pictures at random noise levels, as ``noised``."""
        (low, high), rows = timesteps or (0, len(abar) - 1), rows.to(self.z.device)
        t = torch.randint(low, high + 1, rows.shape)
        if antithetic:
            half = len(t) // 2
            t[half : 2 * half] = low + high - t[:half]
        t = t.to(self.z.device)
        eps = torch.randn(len(rows), *self.z.shape[1:]).to(self.z.device)
        x = maths.add_noise(self.z[rows], eps, abar[t])
        return {"x": x, "eps": eps, "t": t, "which": self.which[rows]}


@torch.no_grad()
def predicted(
    model: DiffusionModel, states: dict[str, torch.Tensor], texts: TextStates, batch: int = 32
) -> torch.Tensor:
    """The model's noise prediction [n, C, h, w] at states ``x``, ``t`` under texts [n], no graph."""
    parts = torch.arange(len(states["x"]), device=states["x"].device).split(batch)
    rows = [model.predict_noise(states["x"][i], states["t"][i], texts[i]) for i in parts]
    return torch.cat(rows)


def some(states: dict[str, torch.Tensor], n: int) -> dict[str, torch.Tensor]:
    """N random rows of states."""
    rows = torch.randint(len(states["x"]), (n,)).to(states["x"].device)
    return {name: tensor[rows] for name, tensor in states.items()}


def rewritings(
    requests: Sequence[ConceptRequest],
    texts: Literal["all", "names", "captions"] = "all",
) -> tuple[list[str], list[str]]:
    """The prompts of the concepts and, row by row, the anchors that take their place.

    Raises:
        UsageError: if an anchor is its own prompt, or names the concept that it is to replace.
    """
    for request in requests:
        words = words_of([request])
        for prompt, anchor in request.pairs(texts):
            if prompt == anchor:
                raise UsageError(
                    f"The prompt {prompt!r} is its own anchor, so nothing in it can be rewritten;"
                    f" give an anchor that does without {request.name!r}, or leave the prompt out."
                )
            found = words.search(anchor)
            if found:
                raise UsageError(
                    f"The anchor {anchor!r} is to take the place of {request.name!r}, but names it"
                    f" ({found[0]!r}); give an anchor that does without it."
                )
    prompts, anchors = zip(*concept_texts(requests, texts)[0], strict=True)
    return list(prompts), list(anchors)
