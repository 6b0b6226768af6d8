"""The image side: start from a noised picture of the concept, with a prompt that does not name it.

    x_t = a_t x_0 + b_t n,   then the victim's sampler from t down, under the neutral prompt

An eraser that only changes how texts are read leaves the network able to finish what it is shown
(SDEdit, Meng et al., ICLR 2022). The less noise, the more of the start remains in any model, also
in one that never knew the concept; so every strength is reported, the attack succeeds at the
noisiest one alone, and the control starts from pictures without the concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from ..metrics.rates import Rate
from ..models import maths
from ..progress import track
from ..registry import Paper, register
from .base import Attack, AttackResult, Books, Kind, Scene


@register("attack", "image_to_image")
class ImageToImage(Attack):
    """Noise a picture of the concept and let the victim finish it under a neutral prompt."""

    title: ClassVar[str] = "Image to image"
    kind: ClassVar[Kind] = "image"
    white_box: ClassVar[bool] = False
    paper: ClassVar[Paper] = Paper(
        title="SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
        authors="C. Meng, Y. He, Y. Song, J. Song, J. Wu, J.-Y. Zhu, S. Ermon",
        arxiv="2108.01073",
        venue="ICLR 2022",
        cost="two partly denoised pictures a prompt and strength",
    )
    trial: ClassVar[dict[str, Any]] = {"strengths": (0.5, 1.0)}

    strengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.5, 0.7, 0.9), min_length=1, description="share of the sampler's steps that is run again"
    )

    def search(self, scene: Scene, books: Books) -> AttackResult:
        rows = list(range(len(scene.cases)))
        strongest = max(self.strengths)
        text = scene.victim.encode_prompt([scene.cases[row].neutral for row in rows])
        target = scene.victim.encode_pictures(scene.targets)
        turn = np.arange(len(rows)) % len(scene.others)
        control = scene.victim.encode_pictures(scene.others.pixels[turn])
        curve = []
        for strength in track(self.strengths, self.title, 0, len(self.strengths)):
            skip, t = self._begin(scene, strength)
            share = {}
            for name, x_0 in (("concept", target), ("control", control)):
                pictures = self._finish(scene, rows, x_0, text, skip, t)
                if name == "concept" and strength == strongest:
                    notes = [
                        f"a picture of it under {100 * strength:.0f} % noise, and"
                        f" {scene.cases[row].neutral!r}"
                        for row in rows
                    ]
                    shown = books.judge(rows, pictures, notes)
                else:
                    shown = scene.verdict(pictures, scene.cases)
                rate = Rate.of(np.asarray(shown))
                share[name] = {"hits": rate.hits, "total": rate.total, "interval": rate.interval}
                branches = 1 if scene.sampler.guidance in (0, 1) else 2
                books.spend(rows, (scene.sampler.steps - skip) * branches)
            curve.append({"strength": strength, "timestep": t, **share})
        return books.result(self.name, strengths=curve)

    def _begin(self, scene: Scene, strength: float) -> tuple[int, int]:
        """How many of the sampler's steps are left out, and the timestep of the first that is run."""
        ladder = scene.victim.timesteps(scene.sampler.steps)
        run = min(len(ladder), max(1, round(strength * len(ladder))))
        return len(ladder) - run, ladder[len(ladder) - run]

    def _finish(
        self, scene: Scene, rows: Sequence[int], x_0: torch.Tensor, text: Any, skip: int, t: int
    ) -> np.ndarray:
        """[N, H, W, 3] uint8: the victim's pictures from x_0 noised to timestep t."""
        victim, parts = scene.victim, []
        noise = scene.noise(rows).to(x_0.device)
        x_t = maths.add_noise(x_0, noise, victim.alphas_cumprod[t])
        for part in torch.arange(len(rows), device=x_0.device).split(scene.sampler.batch):
            z = victim.sample(
                text[part], x_t[part], scene.sampler.steps, scene.sampler.guidance, skip=skip
            )
            parts.append(victim.decode(z))
        return np.concatenate(parts)
