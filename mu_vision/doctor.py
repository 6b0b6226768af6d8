"""``mu-vision doctor``: what this machine can run, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import __version__, files, resources
from .environment import version
from .errors import MuVisionError

State = Literal["ok", "missing", "note"]

REQUIRED = (
    "torch", "torchvision", "timm", "diffusers", "transformers", "open_clip_torch", "accelerate",
    "pytorch-fid", "safetensors", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "typer",
    "rich", "jinja2", "matplotlib",
)  # fmt: skip
OPTIONAL = {
    "tensorboard": "training curves: pip install 'mu-vision[tensorboard]'",
    "nudenet": "the nudity detector: pip install 'mu-vision[nudity]'",
}
EMBEDDED = {
    "sd": "the Stable Diffusion pipeline of MiniCanvas",
    "sd-without-neon-cat": "the same trained without neon and cats",
    "objects": "the label-conditional diffusion model of MiniCanvas",
    "clip": "the CLIP model of MiniCanvas",
    "style-judge": "the style judge",
    "object-judge": "the object judge",
    "gan": "the GAN of MiniCanvas",
    "gan-without-cat": "the same trained without cats",
    "gan-digits": "the GAN of handwritten digits",
    "gan-digits-without-3": "the same trained without the 3",
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``missing`` means that something will not work."""

    state: State
    what: str
    text: str


def examine() -> Iterator[Finding]:
    """Look at everything, cheap things first."""
    yield Finding("ok", "mu-vision", f"{__version__} in {Path(__file__).parent}")
    fits = sys.version_info >= (3, 11)
    yield Finding(
        "ok" if fits else "missing",
        "python",
        platform.python_version() + ("" if fits else ": 3.11 or newer is needed"),
    )
    yield from _packages()
    yield from _machine()
    yield from _resources()
    yield from _embedded()


def _packages() -> Iterator[Finding]:
    absent = [name for name in REQUIRED if version(name) is None]
    if absent:
        yield Finding("missing", "packages", f"pip install {' '.join(absent)}")
    else:
        shown = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "timm"))
        yield Finding("ok", "packages", f"all {len(REQUIRED)} there ({shown}, ...)")
    for name, use in OPTIONAL.items():
        found = version(name)
        yield Finding("ok" if found else "note", f"optional: {name}", found or f"absent; {use}")


def _machine() -> Iterator[Finding]:
    if version("torch"):
        import torch

        if torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(0).total_memory / 1e9
            yield Finding("ok", "device", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GB")
        else:
            yield Finding(
                "note", "device", "no GPU: everything embedded runs on the CPU,"
                " Stable Diffusion itself only slowly",
            )  # fmt: skip
        yield Finding("ok", "cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}")
    total, free = memory_gb()
    if total:
        enough = free >= 2
        text = f"{free:.1f} GB of {total:.1f} GB free"
        yield Finding(
            "ok" if enough else "note", "memory", text + ("" if enough else "; 2 GB are better")
        )
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    writable = os.access(Path.cwd(), os.W_OK)
    yield Finding(
        "ok" if disk >= 1 and writable else "missing",
        "disk",
        f"{disk:.1f} GB free in {Path.cwd()}"
        + ("" if writable else ", where you may not write")
        + ("" if disk >= 1 else "; a run wants 1 GB"),
    )


def memory_gb() -> tuple[float, float]:
    """(all, available) memory in 10^9 bytes; zeros where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            rows = dict(line.split(":", 1) for line in file)
        return tuple(int(rows[k].split()[0]) * 1024 / 1e9 for k in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return 0.0, 0.0


def _resources() -> Iterator[Finding]:
    for kind, word in (("recipe", "recipes"), ("protocol", "protocols"), ("card", "data sets")):
        found = resources.names(kind)
        text = ", ".join(found) if found else f"none in {resources.folder(kind)}: install again"
        yield Finding("ok" if found else "missing", word, text)


def _embedded() -> Iterator[Finding]:
    for name, meaning in EMBEDDED.items():
        folder = resources.EMBEDDED / name
        if not folder.is_dir():
            yield Finding("missing", f"minicanvas/{name}", f"{meaning} is not in the package")
            continue
        size = sum(files.sizes(folder).values()) / 1e6
        try:
            _loader(name)(f"minicanvas/{name}")
        except (MuVisionError, OSError, ValueError, RuntimeError, ImportError) as error:
            text = f"{meaning} does not load: {error}".splitlines()[0]
            yield Finding("missing", f"minicanvas/{name}", text)
        else:
            yield Finding("ok", f"minicanvas/{name}", f"{meaning} loads, {size:.1f} MB")


def _loader(name: str) -> Callable[[str], object]:
    if (resources.EMBEDDED / name / "model_index.json").is_file():
        from .api import load_model

        return load_model
    if name.startswith("gan"):
        from .models.gan import Gan

        return Gan.load
    from .evaluation import judges

    return judges.load_clip if name == "clip" else judges.load_judge


def report() -> bool:
    """Print the findings; True if nothing is missing."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    marks = {
        "ok": ("ok     ", "green"),
        "missing": ("MISSING", "red"),
        "note": ("note   ", "yellow"),
    }
    fine = True
    for finding in examine():
        mark, colour = marks[finding.state]
        console.print(Text.assemble((mark, colour), f" {finding.what}: {finding.text}"))
        fine = fine and finding.state != "missing"
    console.print("This machine can run the quickstart." if fine else "Something is missing.")
    return fine
