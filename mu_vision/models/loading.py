"""Read a ``diffusers`` folder: check everything that can be wrong with it, in plain sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .. import resources
from ..errors import MissingFiles, UsageError, unknown

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
TEXT_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
LABEL_PIPELINES = ("LabelPipeline",)
PIPELINES = (*TEXT_PIPELINES, *LABEL_PIPELINES)
WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of the libraries while a folder is read or written."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    shown = [(log, log.is_progress_bar_enabled(), log.get_verbosity()) for log in (ours, theirs)]
    for log, _, _ in shown:
        log.disable_progress_bar()
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, bar, verbosity in shown:
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()


def locate(name_or_path: str | Path) -> Path | str:
    """The folder that a name means; a string if it can only be the name of a model on the hub.

    Raises:
        MissingFiles: if there is no such folder, and the name is none of a model on the hub.
        UsageError: for an unknown embedded model, a file in place of a folder, or a pickle.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if path.is_dir():
        return path
    if path.is_file() or path.suffix in (*PICKLES, ".safetensors"):
        if path.suffix in PICKLES:
            raise UsageError(
                f"{name} is a pickle, which can run any code when it is opened, so it is not"
                " read. Give a diffusers folder with .safetensors files."
            )
        raise UsageError(
            f"{name} is not a folder; give a diffusers folder (with model_index.json)."
        )
    if name.startswith("minicanvas/"):
        found = resources.EMBEDDED / name.removeprefix("minicanvas/")
        if found.is_dir():
            return found
        known = [
            f"minicanvas/{p.parent.name}" for p in resources.EMBEDDED.glob("*/model_index.json")
        ]
        raise unknown("embedded model", name, known)
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise MissingFiles(
            f"There is no model folder {name}. Give a diffusers folder, or minicanvas/sd for the"
            " embedded model."
        )
    return name


def check_folder(
    folder: Path, parts: Sequence[str] = WEIGHTS, kinds: Sequence[str] = PIPELINES
) -> str:
    """Check a diffusers folder and return the name of its pipeline class.

    Args:
        folder: what ``save_pretrained`` wrote.
        parts: the parts whose weights are looked at.
        kinds: names of the pipeline classes that will do.

    Raises:
        UsageError: if it is not one, holds only pickles, or a weights file is cut off or damaged.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise UsageError(
            f"{folder} is not a diffusers folder: it has no model_index.json."
            " Give the folder that save_pretrained wrote."
        )
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        kind = content["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{index} is damaged: it does not name a pipeline.") from error
    if kind not in kinds:
        raise UsageError(f"{folder} holds a {kind}; the pipelines read here are {_listed(kinds)}.")
    for part in parts:
        if content.get(part, [None, None])[0] is not None:
            check_weights(folder / part)
    return kind


def check_weights(folder: Path) -> None:
    """Check the weights of one part of a pipeline.

    Raises:
        UsageError: if there are none, only pickles, or a file is cut off or damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [p.name for p in sorted(folder.glob("*")) if p.suffix in PICKLES]
        if pickles:
            raise UsageError(
                f"{folder} holds only a pickle ({pickles[0]}), which can run any code when it is"
                " opened, so it is not read. Save the model with safe_serialization=True."
            )
        raise UsageError(f"{folder} has no .safetensors file: the model folder is not complete.")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{file} is cut off or damaged ({error}). Fetch or copy it again."
            ) from error


def read_pipeline(source: Path | str, kinds: Sequence[str] = PIPELINES) -> Any:
    """A pipeline of one of these classes with float32 weights, nothing of it requiring grad.

    Raises:
        UsageError: if the folder or the model on the hub cannot be read as a pipeline.
    """
    from diffusers import DiffusionPipeline

    options: dict[str, Any] = {"use_safetensors": True}
    reader: Any = DiffusionPipeline
    if isinstance(source, Path):
        if check_folder(source, kinds=kinds) in LABEL_PIPELINES:
            from .labels import LabelPipeline as reader  # no class of diffusers: it is ours
        options["local_files_only"] = True
        if all(".fp16." in file.name for file in (source / "unet").glob("*.safetensors")):
            options["variant"] = "fp16"
    try:
        with quiet():
            pipeline = reader.from_pretrained(str(source), **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if isinstance(source, Path):
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UsageError(f"{source} cannot be read as a pipeline: {first}") from error
        raise UsageError(
            f"There is no folder {source}, and a model of this name could be neither found in the"
            " local cache nor fetched. Fetch it where there is a network and give its folder."
        ) from error
    if type(pipeline).__name__ not in kinds:
        kind = type(pipeline).__name__
        raise UsageError(f"{source} is a {kind}; the pipelines read here are {_listed(kinds)}.")
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.float().requires_grad_(False).eval()
    return pipeline


def _listed(kinds: Sequence[str]) -> str:
    *others, last = kinds
    return f"{', '.join(others)} and {last}" if others else last
