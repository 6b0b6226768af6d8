"""Read a diffusion model by its name or folder, whatever it is asked with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .loading import LABEL_PIPELINES, check_folder, locate

if TYPE_CHECKING:
    import torch

    from .denoiser import Denoiser


def load_model(name_or_path: str | Path, device: torch.device | str | None = None) -> Denoiser:
    """Read a model with float32 weights: a ``DiffusionModel``, or a ``LabelModel``.

    Args:
        name_or_path: an embedded model (``minicanvas/sd``, ``minicanvas/objects``), a diffusers
            folder, or a name on the hub.
        device: default a GPU if there is one, else the CPU.

    Raises:
        UsageError: for a missing, damaged or truncated folder, a pickle, another pipeline.
    """
    source = locate(name_or_path)
    if isinstance(source, Path) and check_folder(source) in LABEL_PIPELINES:
        from .labels import LabelModel

        return LabelModel.load(name_or_path, device)
    from .diffusion import DiffusionModel

    return DiffusionModel.load(name_or_path, device)
