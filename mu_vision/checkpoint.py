"""Checkpoints of a training run: written whole or not at all, and refused by another run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .errors import UsageError

if TYPE_CHECKING:
    from .loop import LoopConfig, Objective, Run


def save(run: Run, objective: Objective, folder: Path, step: int, seconds: float) -> None:
    """Write ``checkpoint.pt``: parameters, optimisers, the objective's state, the scaler."""
    if not run.accelerator.is_main_process:
        return
    folder.mkdir(parents=True, exist_ok=True)
    payload = {
        "step": step,
        "seconds": seconds,
        "config": _fingerprint(run.config),
        "parameters": {name: p.detach().cpu() for name, p in objective.parameters().items()},
        "optimizers": {name: o.state_dict() for name, o in run.optimizers.items()},
        "state": objective.state(),
    }
    scaler = run.accelerator.scaler
    if scaler is not None:
        payload["scaler"] = scaler.state_dict()
    partial = folder / "checkpoint.pt.partial"
    torch.save(payload, partial)
    os.replace(partial, folder / "checkpoint.pt")


def restore(run: Run, objective: Objective, folder: Path | None) -> tuple[int, float]:
    """Take back the folder's checkpoint, if there is one.

    Returns:
        Steps that were done, and the seconds that they took.

    Raises:
        UsageError: if it is damaged, or was made with other settings.
    """
    path = folder / "checkpoint.pt" if folder else None
    if path is None or not path.exists():
        return 0, 0.0
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}); delete it to start again."
        ) from error
    if payload["config"] != _fingerprint(run.config):
        raise UsageError(
            f"The checkpoint in {folder} was made with other settings;"
            " delete the folder to start again, or restore the settings."
        )
    with torch.no_grad():
        for name, parameter in objective.parameters().items():
            parameter.copy_(payload["parameters"][name])
    for name, optimizer in run.optimizers.items():
        optimizer.load_state_dict(payload["optimizers"][name])
    if run.accelerator.scaler is not None and "scaler" in payload:
        run.accelerator.scaler.load_state_dict(payload["scaler"])
    objective.load_state(payload["state"])
    return payload["step"], payload["seconds"]


def _fingerprint(config: LoopConfig) -> str:
    """The settings that must agree for a resume to be exact.

    With a constant schedule no step depends on how many there will be, so a finished run can be
    prolonged.
    """
    free = {"checkpoint_every", "log_every", "tracker"}
    if config.schedule == "constant":
        free.add("steps")
    kept = {k: v for k, v in asdict(config).items() if k not in free}
    return json.dumps(kept, sort_keys=True)
