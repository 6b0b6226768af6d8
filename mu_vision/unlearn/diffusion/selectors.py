"""Which tensors a diffusion method trains, chosen by exact module structure.

A path is compared component by component ("attn2" is a component, never a part of one), and the
names that come out for the tiny pipelines of the tests are a golden list there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from ...errors import UsageError
from ...models.denoiser import Denoiser

Variant = Literal["x", "x-strict", "u", "noxattn", "full", "selfattn", "text"]

# Output layer and time embedding: the published ESD-u code leaves them alone.
_OUTER = {"conv_out", "conv_norm_out", "time_embedding", "add_embedding"}


def _cross(path: list[str]) -> bool:
    return "attn2" in path


def _key_or_value(path: list[str]) -> bool:
    return _cross(path) and ("to_k" in path or "to_v" in path)


_UNET: dict[str, Callable[[list[str]], bool]] = {
    "x": _cross,
    "x-strict": _key_or_value,
    "u": lambda path: not _cross(path),
    "noxattn": lambda path: not _cross(path) and path[0] not in _OUTER,
    "full": lambda path: True,
    "selfattn": lambda path: "attn1" in path,
}


def select(model: Denoiser, variant: Variant) -> list[str]:
    """Full names of the parameters of a variant, in the model's order.

    Args:
        model: any Stable Diffusion pipeline.
        variant: ``x`` cross-attention; ``x-strict`` its keys and values only; ``u`` everything in
            the U-Net but cross-attention; ``noxattn`` as ``u`` without the output layer and the
            time embedding (the published code); ``full`` the whole U-Net; ``selfattn``
            self-attention; ``text`` the text encoders.

    Raises:
        UsageError: if the model has no such tensors.
    """
    names = list(model.named_parameters())
    if variant == "text":
        chosen = [name for name in names if not name.startswith("unet.")]
    else:
        keep = _UNET[variant]
        unet = [name for name in names if name.startswith("unet.")]
        chosen = [name for name in unet if keep(name.split(".")[1:])]
    if not chosen:
        why = f"{model.name} has no tensors for the variant {variant!r}"
        if model.classes:
            why += ", since it reads labels and no text: methods that have a variant work with full"
        raise UsageError(f"{why}.")
    return chosen


def keys_and_values(model: Denoiser) -> list[torch.nn.Module]:
    """The projections that read the text in cross-attention; none if the model has no text."""
    return [
        module
        for part in model.parts().values()
        for name, module in part.named_modules()
        if _key_or_value(path := name.split(".")) and path[-1] in ("to_k", "to_v")
    ]


def select_embedding(model: Denoiser) -> list[str]:
    """Full name of the table of token embeddings, alone in a list.

    Raises:
        UsageError: for a model of two text encoders, which has two tables.
    """
    chosen = [name for name in select(model, "text") if name.split(".")[-2] == "token_embedding"]
    if len(chosen) != 1:
        raise UsageError(
            f"{model.name} reads a prompt through {len(chosen)} text encoders; the variant"
            " 'embedding' is for models with one (Stable Diffusion 1 and 2)."
        )
    return chosen


def select_text(model: Denoiser, layers: int = 0) -> list[str]:
    """Full names of what AdvUnlearn trains of the text encoders, in the model's order.

    All layers and the final norm, as in the published code; positions and the vocabulary never
    train, since the attack moves through the latter.

    Args:
        model: any Stable Diffusion pipeline.
        layers: the first n layers alone, without the norm; 0 for all.

    Raises:
        UsageError: if the encoder has fewer layers.
    """
    chosen, depth = [], 0
    for name in select(model, "text"):
        path = name.split(".")
        if "layers" in path:
            number = int(path[path.index("layers") + 1])
            depth = max(depth, number + 1)
            if not layers or number < layers:
                chosen.append(name)
        elif "final_layer_norm" in path and not layers:
            chosen.append(name)
    if layers > depth:
        raise UsageError(
            f"layers={layers}, but the text encoder of {model.name} has {depth} layers; give 1 to"
            f" {depth}, or 0 for all of them and the final norm."
        )
    return chosen
