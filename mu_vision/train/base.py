"""What the recipes that made the embedded models have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from ..jobs import claim, what_matters
from ..loop import LoopConfig, LoopResult, Objective, train


class Trainer(BaseModel):
    """Settings of one training job; ``run`` trains, resumes and saves.

    Attributes:
        output: name of the folder that is written below the job's folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    output: ClassVar[str]

    seed: int = 0
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    checkpoint_every: int = 250

    def objective(self) -> Objective:
        raise NotImplementedError

    def loop_config(self) -> LoopConfig:
        raise NotImplementedError

    def run(self, folder: Path | str, checkpoints: Path | str | None = None) -> LoopResult:
        """Train and save into ``folder``; parts that other trainers wrote there are inputs.

        Args:
            folder: the model folder, e.g. that of a diffusers pipeline.
            checkpoints: where an interrupted run goes on from; beside ``folder`` by default.

        Raises:
            UsageError: if the checkpoints there are of a training with other settings.
        """
        folder = Path(folder)
        checkpoints = Path(checkpoints or folder.parent / "checkpoints") / self.output
        self.claim(checkpoints)
        objective = self.objective()
        objective.folder = folder
        result = train(
            objective,
            self.loop_config(),
            checkpoints,
            f"training the {self.output}",
            on_checkpoint=lambda step: objective.save(folder / self.output),
        )
        return result

    def claim(self, checkpoints: Path, **inputs: Any) -> None:
        """Note this job beside its checkpoints.

        Its length is left to the loop, which knows whether a finished training can be prolonged.

        Args:
            checkpoints: the folder.
            inputs: plain JSON of what the end depends on beside the settings.

        Raises:
            UsageError: if they are of another job.
        """
        settings = what_matters(self, ("steps", "epochs"))
        claim(checkpoints, {"trainer": type(self).__name__, "settings": settings, **inputs})


class NetworkObjective(Objective):
    """An objective that trains one ``network`` whole; its buffers are checkpointed too."""

    network: torch.nn.Module

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.network.named_parameters())

    def state(self) -> dict[str, torch.Tensor]:
        return dict(self.network.named_buffers())

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        for name, buffer in self.network.named_buffers():
            buffer.copy_(state[name])


def pixels_to_tensor(pixels: torch.Tensor | np.ndarray, device: torch.device | str) -> torch.Tensor:
    """[B, H, W, 3] uint8 to [B, 3, H, W] float32 in [-1, 1]."""
    pixels = torch.as_tensor(pixels).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
