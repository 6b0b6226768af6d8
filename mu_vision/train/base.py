"""What the recipes that made the embedded models have in common."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

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
        """
        folder = Path(folder)
        checkpoints = Path(checkpoints or folder.parent / "checkpoints")
        objective = self.objective()
        objective.folder = folder
        result = train(
            objective,
            self.loop_config(),
            checkpoints / self.output,
            f"training the {self.output}",
            on_checkpoint=lambda step: objective.save(folder / self.output),
        )
        return result


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
