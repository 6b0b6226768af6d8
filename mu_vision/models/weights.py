"""Copies of a network that share what does not train, and hashes of its weights."""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections.abc import Mapping
from typing import Any

import torch

_DIGESTS: weakref.WeakKeyDictionary[torch.nn.Module, tuple[int, bytes]] = (
    weakref.WeakKeyDictionary()
)


def sharing_copy(module: torch.nn.Module, part: str, trained: set[str]) -> torch.nn.Module:
    """A copy of the module that shares every tensor with it but the trained ones."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    for name, parameter in module.named_parameters():
        mine = f"{part}.{name}" in trained
        data = parameter.detach().clone() if mine else parameter.detach()
        memo[id(parameter)] = torch.nn.Parameter(data, requires_grad=mine)
    return copy.deepcopy(module, memo)


def digest_of(module: torch.nn.Module) -> bytes:
    """SHA-256 of all tensors of a module; remembered until one of them is changed in place."""
    tensors = module.state_dict(keep_vars=True)
    version = sum(tensor._version for tensor in tensors.values())
    known = _DIGESTS.get(module)
    if known and known[0] == version:
        return known[1]
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    _DIGESTS[module] = (version, digest.digest())
    return digest.digest()


class MovingAverage:
    """Exponential moving average of parameters, with a warm-up.

    The share that is kept rises as (n + 1) / (n + 10) to ``keep``, so that a short run does not end
    with an average that is mostly its starting point.

    Attributes:
        values: name -> averaged tensor.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], keep: float):
        self.keep = keep
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, torch.nn.Parameter], step: int) -> None:
        """Take in the parameters after update number ``step``, counted from 0."""
        keep = min(self.keep, (step + 1) / (step + 10))
        new = [parameters[name].detach() for name in self.values]
        torch._foreach_lerp_(list(self.values.values()), new, 1 - keep)

    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Take back what ``values`` held."""
        for name, value in values.items():
            self.values[name].copy_(value)
