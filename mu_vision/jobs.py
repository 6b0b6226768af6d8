"""Whose checkpoints a folder holds: a job is all that its end depends on, noted beside them.

The loop knows its own settings alone; batch size, network, data and request are noted here, so that
another job cannot go on from a checkpoint that happens to fit.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import BaseModel

from . import files
from .errors import UsageError

# settings that do not change what comes out
NO_MATTER = ("checkpoint_every", "log_every", "tracker")


def what_matters(settings: BaseModel, free: Collection[str] = ()) -> dict[str, Any]:
    """The settings that change what comes out, but those of these names."""
    return settings.model_dump(mode="json", exclude={*NO_MATTER, *free})


def claim(folder: Path, job: dict[str, Any]) -> None:
    """Note a job beside its checkpoints, before the first is written.

    Args:
        folder: where its checkpoints go, in folders of its parts or by themselves.
        job: plain JSON.

    Raises:
        UsageError: if the folder holds a checkpoint of another job.
    """
    if not PartialState().is_main_process:
        return
    path = folder / "job.json"
    if any(folder.rglob("checkpoint.pt")) and _noted(path) != job:
        raise UsageError(
            f"{folder} holds the checkpoint of another job (method, settings, data, request or model"
            " differ); delete the folder to start again, or choose another."
        )
    files.write_json(path, job)


def _noted(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # no note, or a broken one: nobody knows whose checkpoint it is
