"""What a result was made with: versions, machine, device."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from . import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "timm",
    "open_clip_torch",
    "accelerate",
    "safetensors",
    "numpy",
)


def version(package: str) -> str | None:
    """The installed version, None if the package is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions and machine, plain JSON."""
    import torch

    return {
        "mu_vision": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
    }
