"""The changed weights alone, as a small safetensors file for any model of the same architecture."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .. import files
from ..errors import UsageError
from ..models.denoiser import Denoiser, Generator
from ..models.loading import PICKLES
from ..unlearn.base import changed

FORMAT = "mu-vision-delta-1"


def save_delta(
    original: Denoiser,
    edited: Denoiser,
    path: Path | str,
    method: str = "",
    requests: Sequence[Any] = (),
) -> list[str]:
    """Write the tensors of ``edited`` that differ from ``original``.

    Args:
        original: the model that the file will be applied to.
        edited: a model of the same architecture.
        path: the file, usually ``<something>.safetensors``.
        method: name of the unlearner, kept in the file.
        requests: what was forgotten, kept in the file.

    Returns:
        Names of the tensors in the file.

    Raises:
        UsageError: if no tensor differs.
    """
    names = changed(original, edited)
    if not names:
        raise UsageError("The two models have the same weights: there is no difference to save.")
    tensors = edited.named_parameters()
    metadata = {
        "format": FORMAT,
        "base": original.source or original.name,
        "base_sha256": original.fingerprint(),
        "edited_sha256": edited.fingerprint(),
        "method": method,
        "requests": json.dumps([request.model_dump(mode="json") for request in requests]),
        "generator": json.dumps(edited.generator and asdict(edited.generator)),
    }
    with files.replacing(path) as partial:
        kept = {name: tensors[name].detach().cpu().contiguous() for name in names}
        save_file(kept, partial, metadata)
    return names


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a delta: base, base_sha256, edited_sha256, method, requests.

    Raises:
        UsageError: if the file is missing, damaged, a pickle, or not a delta of ours.
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise UsageError(f"{path} is a pickle; a delta is a .safetensors file.")
    if not path.is_file():
        raise UsageError(f"There is no delta file {path}.")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{path} is cut off or damaged ({error}). Fetch or copy it again."
        ) from error
    if metadata.get("format") != FORMAT:
        raise UsageError(f"{path} is not a delta that was written here (no format {FORMAT}).")
    return metadata


def describe(path: Path | str, base: Denoiser, edited: Denoiser) -> dict[str, Any]:
    """What ``mu_vision.json`` says of a model that a delta was put into, as plain JSON values."""
    metadata = read_metadata(path)
    return {
        "requests": json.loads(metadata["requests"]),
        "method": metadata["method"],
        "delta": Path(path).name,
        "base": {"name": base.name, "source": base.source, "sha256": base.fingerprint()},
        "sha256": edited.fingerprint(),
        "trained": changed(base, edited),
    }


def apply_delta(path: Path | str, model: Denoiser) -> Denoiser:
    """A new model with the file's tensors in place; the given model is not changed.

    Warns when the model is not the one that the delta was made from.

    Raises:
        UsageError: if the file cannot be read, or does not fit the model's architecture.
    """
    metadata = read_metadata(path)
    parameters = model.named_parameters()
    with safe_open(path, framework="pt") as opened:
        names = list(opened.keys())
        for name in names:
            shape = tuple(opened.get_slice(name).get_shape())
            if name not in parameters:
                raise UsageError(f"{path} does not fit {model.name}: it has no tensor {name}.")
            if shape != tuple(parameters[name].shape):
                raise UsageError(
                    f"{path} does not fit {model.name}: {name} is {tuple(parameters[name].shape)}"
                    f" there and {shape} in the file."
                )
        if metadata["base_sha256"] != model.fingerprint():
            warnings.warn(
                f"{path} was made from other weights ({metadata['base']}) than those of"
                f" {model.name}; the result may not forget.",
                stacklevel=2,
            )
        edited = model.clone(names)
        targets = edited.named_parameters()
        with torch.no_grad():
            for name in names:
                targets[name].copy_(opened.get_tensor(name))
    generator = json.loads(metadata.get("generator", "null"))
    if generator:
        edited = edited.drawing_by(Generator(**generator))
    return edited.freeze()
