"""Networks that answer for one sample at a time, as a handful of verbs: layers, copies, hashes, files.

What classifiers and regressors share. A model folder holds ``model.safetensors`` and a JSON file that
says how to build the network. Normalisation is a layer of the network, so samples have their own
units everywhere outside.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .. import files, seeding
from ..errors import UsageError
from .weights import digest_of, sharing_copy

PREFIX = "network"
WEIGHTS = "model.safetensors"
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
Moments = tuple[Sequence[float], Sequence[float]]


class Normalize(nn.Module):
    """(x - mean) / std by channel, axis 1.

    Args:
        mean: of each channel.
        std: of each channel.
        trailing: axes after the channels: 2 for pictures, 0 for rows of a table.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], trailing: int = 2):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, *[1] * trailing))
        self.register_buffer("std", torch.tensor(std).view(1, -1, *[1] * trailing))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def timm_network(
    architecture: str, outputs: int, channels: int, family: str, known: str
) -> nn.Module:
    """An untrained network of timm.

    Raises:
        UsageError: if timm does not know the name; ``known`` says what else there is.
    """
    import timm

    if not timm.is_model(architecture):
        raise UsageError(
            f"There is no {family} {architecture!r}. Known: {known}, or a name of timm"
            " (timm.list_models())."
        )
    return timm.create_model(architecture, num_classes=outputs, in_chans=channels)


class Predictor:
    """A network with what is needed to copy, reset, save and load it.

    Args:
        network: the network.
        architecture: how to build the network again; empty for a network of the user's own, which
            cannot be saved.
        mask: {parameter: bool tensor}, True where a weight is alive; pruned weights stay 0 whatever
            trains them.
    """

    family: ClassVar[str]

    def __init__(
        self,
        network: nn.Module,
        architecture: str = "",
        name: str = "model",
        source: str = "",
        mask: dict[str, torch.Tensor] | None = None,
    ):
        self.network, self.architecture = network, architecture
        self.name, self.source, self.mask = name, source, dict(mask or {})
        self.freeze()

    def untrained_network(self) -> nn.Module:
        """The network of the architecture with random weights, without normalisation."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What ``from_facts`` needs beside the weights, plain JSON."""
        raise NotImplementedError

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """An untrained model of what ``facts`` gave."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place."""
        self.network.to(device)
        self.mask = {name: mask.to(device) for name, mask in self.mask.items()}
        return self

    @torch.no_grad()
    def outputs(self, x: torch.Tensor, batch: int = 1024) -> torch.Tensor:
        """[N, K] float32 on the CPU, in eval mode, without augmentation."""
        network, training = self.network, self.network.training
        network.eval()
        try:
            return torch.cat(
                [network(part.to(self.device)).float().cpu() for part in x.split(batch)]
            )
        finally:
            network.train(training)

    @torch.no_grad()
    def features(self, x: torch.Tensor, batch: int = 1024) -> torch.Tensor:
        """[N, D] float32 on the CPU: what goes into the head."""
        caught: list[torch.Tensor] = []
        head = self.network.get_submodule(self.layers()[-1])
        hook = head.register_forward_pre_hook(lambda _, given: caught.append(given[0].cpu()))
        try:
            self.outputs(x, batch)
        finally:
            hook.remove()
        return torch.cat(caught).float()

    def layers(self) -> list[str]:
        """Names of the convolutions and linear layers in the order of the network; the head last."""
        return [name for name, m in self.network.named_modules() if isinstance(m, LAYERS)]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters, named ``network.…``."""
        return {f"{PREFIX}.{name}": p for name, p in self.network.named_parameters()}

    def clone(self, trained: Iterable[str] | None = None) -> Self:
        """A model whose named parameters (default: all) are copies that require grad.

        Other parameters are shared; buffers never are, for a forward pass in train mode moves them.
        """
        names = set(self.named_parameters() if trained is None else trained)
        missing = sorted(names - set(self.named_parameters()))
        if missing:
            raise KeyError(f"no tensor {missing[0]!r} in {self.name}")
        twin = copy.copy(self)
        twin.network = sharing_copy(self.network, PREFIX, names)
        for module in twin.network.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.clone()
        twin.mask = dict(self.mask)
        return twin

    def reset(self, layers: Iterable[str] | None = None, seed: int = 0) -> Self:
        """Give layers (default: every module) the weights of an untrained network, in place.

        Raises:
            UsageError: if nobody could build the network again, nor reset all of its modules.
        """
        fresh = self._untrained(seed)
        chosen = None if layers is None else set(layers)
        with torch.no_grad():
            for name, module in self.network.named_modules():
                if chosen is None or name in chosen:
                    new = fresh.get_submodule(name)
                    for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                        if tensor is not None:
                            tensor.copy_(getattr(new, key))
        self.apply_mask()
        return self

    def _untrained(self, seed: int) -> nn.Module:
        """A network like this one with random weights, on the CPU."""
        with seeding.seeded(f"{self.family}-reset", seed):
            if self.architecture:
                fresh, norm = self.untrained_network(), self._normalize()
                return fresh if norm is None else nn.Sequential(copy.deepcopy(norm), fresh)
            fresh = copy.deepcopy(self.network).cpu()
            for name, module in fresh.named_modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
                elif any(True for _ in module.parameters(recurse=False)):
                    raise UsageError(
                        f"{self.name} cannot be given new weights: its module {name or 'network'}"
                        f" ({type(module).__name__}) has no reset_parameters(), and there is no"
                        " architecture to build it from."
                    )
            return fresh

    def _normalize(self) -> Normalize | None:
        return next((m for m in self.network.modules() if isinstance(m, Normalize)), None)

    def normalization(self) -> list[list[float]] | None:
        """Mean and standard deviation by channel; None for none."""
        norm = self._normalize()
        return norm and [norm.mean.flatten().tolist(), norm.std.flatten().tolist()]

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Set pruned weights to 0."""
        parameters = self.named_parameters() if self.mask else {}
        for name, mask in self.mask.items():
            parameters[name].mul_(mask)

    def freeze(self) -> Self:
        """Eval mode, and no parameter requires grad."""
        self.network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        return self

    def fingerprint(self) -> str:
        """SHA-256 of all parameters and buffers."""
        return digest_of(self.network).hex()

    @classmethod
    def file(cls) -> str:
        """Name of the file that says how to build the network."""
        return f"{cls.family}.json"

    def save(self, folder: Path | str, extra: dict[str, Any] | None = None) -> Path:
        """Write a model folder, whole or not at all.

        Raises:
            UsageError: if nobody could build the network again.
        """
        if not self.architecture:
            raise UsageError(
                f"{self.name} was made from a network without a name; only models that"
                f" {type(self).__name__}.build made can be saved as a folder."
            )
        tensors = {n: t.contiguous().cpu() for n, t in self.network.state_dict().items()}
        masks = {f"mask.{name}": mask.cpu() for name, mask in self.mask.items()}
        with files.replacing(folder) as partial:
            partial.mkdir(parents=True)
            save_file({**tensors, **masks}, partial / WEIGHTS)
            files.write_json(partial / self.file(), {**self.facts(), **(extra or {})})
        return Path(folder)

    def channels(self) -> int:
        """What the first layer takes."""
        first = self.network.get_submodule(self.layers()[0])
        return getattr(first, "in_channels", None) or getattr(first, "in_features", 1)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Self:
        """Read a model folder.

        Raises:
            UsageError: if it is none, or its weights do not fit its description.
        """
        folder = Path(folder)
        if not (folder / cls.file()).is_file() or not (folder / WEIGHTS).is_file():
            raise UsageError(
                f"{folder} is no {cls.family} folder: {cls.file()} and {WEIGHTS} must be in it."
            )
        try:
            facts = json.loads((folder / cls.file()).read_text(encoding="utf-8"))
            model = cls.from_facts(facts)
            tensors = load_file(folder / WEIGHTS)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UsageError(f"{folder} cannot be read ({error}); write it again.") from error
        model.mask = {n[5:]: tensors.pop(n) for n in list(tensors) if n.startswith("mask.")}
        wanted = model.network.state_dict()
        for name in sorted(set(wanted) | set(tensors)):
            here = tuple(tensors[name].shape) if name in tensors else None
            there = tuple(wanted[name].shape) if name in wanted else None
            if here != there:
                raise UsageError(
                    f"{folder / WEIGHTS} does not fit {model.described()}: {name} is {here} there and"
                    f" {there} in the network."
                )
        model.network.load_state_dict(tensors)
        model.name, model.source = folder.name, str(folder)
        return model.to(device).freeze()

    def described(self) -> str:
        """The architecture in words."""
        return self.architecture
