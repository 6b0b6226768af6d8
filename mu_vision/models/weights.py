"""Copies of a network that share what does not train, and hashes of its weights."""

from __future__ import annotations

import copy
import hashlib
import weakref
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
