"""The text encoder alone, taken from one model and put into another: a plug-in.

Methods that train the text encoder (AdvUnlearn) change nothing else, and many models share one text
encoder, so what was forgotten in one of them can be carried into the others without training.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..errors import UsageError
from ..models.diffusion import DiffusionModel
from ..models.loading import check_folder, check_weights, quiet
from ..models.reader import ENCODERS
from ..models.weights import digest_of
from ..unlearn.base import changed
from .folder import read_facts, versions

INDEX = "model_index.json"
# what has to agree so that the weights mean the same in the model's own text encoder
SHAPE = {
    "hidden_size": "a width",
    "vocab_size": "a vocabulary size",
    "max_position_embeddings": "a length",
    "num_hidden_layers": "a number of layers",
    "num_attention_heads": "a number of attention heads",
    "intermediate_size": "an intermediate size",
    "hidden_act": "an activation",
}


def apply_encoder(folder: Path | str, model: DiffusionModel) -> DiffusionModel:
    """A new model with the folder's text encoder in place; the given model is not changed.

    Of a pipeline of two text encoders (Stable Diffusion XL) both are taken. The tokenizer stays the
    model's; where the folder has one too, the two must number the words alike. Warns when the folder
    says (in ``mu_vision.json``) that more than its text encoder was trained.

    Args:
        folder: a diffusers folder, or one with a ``CLIPTextModel`` (config.json and
            model.safetensors).
        model: gets the text encoder.

    Raises:
        UsageError: if the folder is neither, holds pickles, does not fit the model (widths,
            vocabulary sizes, lengths, the U-Net's ``cross_attention_dim``), or has the model's own
            text encoder.
    """
    folder = Path(folder)
    places = _places(folder, model)
    donors = {name: _read(place, type(model.encoders()[name])) for name, place in places.items()}
    for name, donor in donors.items():
        _check_shape(folder, donor, model, name)
        _check_words(folder, model, name)
    _check_unet(folder, donors, model)
    _warn_of_the_rest(folder)
    edited = model.clone(name for name in model.named_parameters() if _of_encoder(name))
    targets = edited.encoders()
    with torch.no_grad():
        for name, donor in donors.items():
            mine = dict(targets[name].named_parameters())
            for key, value in donor.named_parameters():
                mine[key].copy_(value)
    if not changed(model, edited):
        raise UsageError(
            f"The text encoder in {folder} is the one that {model.name} has already: there is"
            " nothing to put in. What a method changed in the U-Net can be carried on as a delta"
            " (mu-vision erase --delta)."
        )
    return edited.freeze()


def describe(folder: Path | str, base: DiffusionModel, edited: DiffusionModel) -> dict[str, Any]:
    """What ``mu_vision.json`` says of a model that an encoder was put into, as plain JSON values.

    What was forgotten and by which method is the folder's to say; the base is the model that got
    the encoder.
    """
    facts = _facts(Path(folder))
    return {
        "requests": facts.get("requests", []),
        "method": facts.get("method"),
        "encoder": {
            "source": str(folder),
            "sha256": _digest(edited.encoders()),
            "model_sha256": facts.get("sha256"),
            "base": facts.get("base"),
            "settings": facts.get("settings"),
        },
        "base": {"name": base.name, "source": base.source, "sha256": base.fingerprint()},
        "sha256": edited.fingerprint(),
        "trained": changed(base, edited),
        "versions": versions(),
    }


def _places(folder: Path, model: DiffusionModel) -> dict[str, Path]:
    """Where the text encoders of a folder lie, by their names in a pipeline."""
    wanted = list(model.encoders())
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}. Give a diffusers folder, or one with a CLIPTextModel."
        )
    if (folder / INDEX).is_file():
        check_folder(folder, ENCODERS)
        parts = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        found = {n: folder / n for n in ENCODERS if parts.get(n, [None])[0] is not None}
    elif (folder / "config.json").is_file():
        found = {wanted[0]: folder}
    else:
        check_weights(folder)  # a folder with nothing but a pickle is told so
        raise UsageError(
            f"{folder} holds neither a diffusers pipeline ({INDEX}) nor a text encoder"
            " (config.json beside model.safetensors)."
        )
    if list(found) != wanted:
        raise UsageError(
            f"{folder} gives {_count(found)} and {model.name} has {_count(wanted)}; give a folder"
            " of the same kind of pipeline."
        )
    return found


def _count(names: Any) -> str:
    return "one text encoder" if len(names) == 1 else f"{len(names)} text encoders"


def _read(folder: Path, kind: type) -> Any:
    """The text encoder of a folder, in float32 on the CPU."""
    check_weights(folder)
    config = folder / "config.json"
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{config} is missing or damaged, so what {folder} holds cannot be told."
        ) from error
    if found != "clip_text_model":
        raise UsageError(
            f"{folder} holds a model of the type {found!r}; give one with a CLIPTextModel"
            " ('clip_text_model'), the text encoder of Stable Diffusion."
        )
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    if all(".fp16." in file.name for file in folder.glob("*.safetensors")):
        options["variant"] = "fp16"
    try:
        with quiet():
            module, loading = kind.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(f"{folder} cannot be read as a text encoder: {first}") from error
    # transformers fills what a file lacks with random numbers
    if missing := sorted(loading["missing_keys"]):
        raise UsageError(
            f"{folder} lacks {len(missing)} tensors of a {kind.__name__}, e.g. {missing[0]}: it is"
            " not complete."
        )
    return module.float().requires_grad_(False).eval()


def _check_shape(folder: Path, donor: Any, model: DiffusionModel, name: str) -> None:
    own = model.encoders()[name].config
    for key, what in SHAPE.items():
        theirs, mine = getattr(donor.config, key), getattr(own, key)
        if theirs != mine:
            raise UsageError(
                f"The {name} in {folder} does not fit {model.name}: it has {what} of {theirs} and"
                f" that of {model.name} has one of {mine}."
            )


def _check_words(folder: Path, model: DiffusionModel, name: str) -> None:
    """See that both tokenizers give a word the same number; a bare encoder has none to compare."""
    key = name.replace("text_encoder", "tokenizer")
    theirs, mine = _home(folder) / key, getattr(model.pipeline, key)
    if not theirs.is_dir() or mine is None:
        return
    try:
        with quiet():
            words = type(mine).from_pretrained(theirs, local_files_only=True).get_vocab()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"The tokenizer {theirs} cannot be read: {error}") from error
    own = mine.get_vocab()
    other = sum(own.get(word) != number for word, number in words.items())
    if other or len(words) != len(own):
        raise UsageError(
            f"The tokenizers of {folder} and {model.name} differ ({other} of {len(words)} words have"
            f" other numbers, {model.name} knows {len(own)}), so the text encoder would read other"
            " words than are written."
        )


def _check_unet(folder: Path, donors: Mapping[str, Any], model: DiffusionModel) -> None:
    """See that the states of the encoders, side by side, are as wide as the U-Net reads."""
    config = model.unet.config
    reads = getattr(config, "encoder_hid_dim", None) or config.cross_attention_dim
    width = sum(donor.config.hidden_size for donor in donors.values())
    for expected in reads if isinstance(reads, list | tuple) else [reads]:
        if expected != width:
            raise UsageError(
                f"The text encoder in {folder} gives states of width {width}, and the U-Net of"
                f" {model.name} reads a width of {expected} (cross_attention_dim)."
            )


def _warn_of_the_rest(folder: Path) -> None:
    rest = [name for name in _facts(folder).get("trained") or [] if not _of_encoder(name)]
    if rest:
        warnings.warn(
            f"{folder} was also edited outside its text encoder ({len(rest)} tensors, e.g."
            f" {rest[0]}), and those changes are not taken along.",
            stacklevel=3,
        )


def _facts(folder: Path) -> dict[str, Any]:
    """What is known of the folder's making; for the text encoder of a pipeline, the pipeline's."""
    return read_facts(_home(folder))


def _home(folder: Path) -> Path:
    """The folder itself, or the pipeline's if it is the text encoder of one."""
    nested = not (folder / INDEX).is_file() and (folder.parent / INDEX).is_file()
    return folder.parent if nested else folder


def _of_encoder(name: str) -> bool:
    return name.split(".", 1)[0] in ENCODERS


def _digest(encoders: Mapping[str, torch.nn.Module]) -> str:
    """SHA-256 of the weights of the text encoders."""
    digest = hashlib.sha256()
    for name, module in encoders.items():
        digest.update(name.encode() + digest_of(module))
    return digest.hexdigest()
