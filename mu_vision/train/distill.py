"""Distil a diffusion model into a one-step generator that keeps everything (SiD).

What ``unlearn/diffusion/sfd.py`` does with nothing to forget: every class, or every prompt of a
list, is drawn as the teacher draws it. Its result is a generator by itself, and a start for SFD.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ..distillation import Conditions, Distillation, ScoreSettings
from ..errors import UsageError
from ..loop import LoopConfig
from ..models.zoo import load_model
from ..registry import register
from .base import Trainer


@register("trainer", "distill")
class DistillTrainer(ScoreSettings, Trainer):
    """A generator of the classes of ``model``, or of ``prompts`` if it reads text.

    Attributes:
        model: name or folder of the teacher.
        prompts: what a model that reads text is to draw.
    """

    output: ClassVar[str] = "generator"
    model: str
    prompts: tuple[str, ...] = ()
    steps: int = Field(50_000, ge=1)
    lr: float = Field(1e-5, ge=0)
    precision: Literal["no", "bf16", "fp16"] = "no"

    def objective(self) -> DistillObjective:
        teacher = load_model(self.model)
        asked = self.prompts or teacher.classes
        if not asked:
            raise UsageError(
                f"{teacher.name} reads any text: say which ones the generator is to draw"
                " (prompts: [...])."
            )
        names = [name for name in teacher.named_parameters() if name.startswith("unet.")]
        return DistillObjective(
            self, teacher, names, lambda phi: Conditions(phi.encode_prompt(asked))
        )

    def loop_config(self) -> LoopConfig:
        return LoopConfig(
            self.steps, self.lr, precision=self.precision, seed=self.seed,
            checkpoint_every=self.checkpoint_every,
        )  # fmt: skip


class DistillObjective(Distillation):
    """Writes the generator as it is so far at every checkpoint."""

    folder: Path

    def save(self, folder: Path) -> None:
        self.result().save(folder)
