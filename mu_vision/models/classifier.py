"""Classifiers as a handful of verbs: logits, features, layers, copies, hashes, files.

A classifier folder holds ``model.safetensors`` and ``classifier.json``, which says how to build the
network. Normalisation is a layer of the network, so pictures are in [0, 1] everywhere outside.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .. import files, seeding
from ..errors import UsageError
from .weights import digest_of, sharing_copy

PREFIX = "network"
FILE, WEIGHTS = "classifier.json", "model.safetensors"
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class Normalize(nn.Module):
    """(x - mean) / std by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def small_cnn(classes: int, channels: int = 1, width: int = 32) -> nn.Module:
    """Two convolutions with batch norm and a linear head, for 8x8 digits and 32x32 pictures."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, classes),
    )  # fmt: skip


def resnet18_cifar(classes: int, channels: int = 3) -> nn.Module:
    """ResNet-18 with the CIFAR stem: a 3x3 convolution of stride 1, and no max pooling."""
    from torchvision.models import resnet18

    network = resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


OWN = {"small_cnn": small_cnn, "resnet18_cifar": resnet18_cifar}


def build_network(architecture: str, classes: int, channels: int) -> nn.Module:
    """An untrained network: one of ``OWN``, ``torchvision/NAME``, or a name of timm.

    Raises:
        UsageError: if nobody knows the name.
    """
    if architecture in OWN:
        return OWN[architecture](classes, channels)
    if architecture.startswith("torchvision/"):
        import torchvision

        name = architecture.partition("/")[2]
        if name not in torchvision.models.list_models(torchvision.models):
            raise UsageError(
                f"torchvision has no classifier {name!r}; see"
                " torchvision.models.list_models(torchvision.models)."
            )
        if channels != 3:
            raise UsageError(
                f"{architecture} takes pictures of 3 channels, and these have {channels}; take"
                f" {', '.join(OWN)} or a name of timm."
            )
        return torchvision.models.get_model(name, weights=None, num_classes=classes)
    import timm

    if not timm.is_model(architecture):
        raise UsageError(
            f"There is no classifier {architecture!r}. Known: {', '.join(OWN)}, torchvision/NAME, or a"
            " name of timm (timm.list_models())."
        )
    return timm.create_model(architecture, num_classes=classes, in_chans=channels)


class Classifier:
    """A network that gives logits [B, K] for pictures [B, C, H, W] in [0, 1].

    Args:
        network: the network.
        classes: names of the K classes.
        architecture: how to build the network again; empty for a network of the user's own, which
            cannot be saved.
        mask: {parameter: bool tensor}, True where a weight is alive; pruned weights stay 0 whatever
            trains them.
    """

    family = "classifier"

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        architecture: str = "",
        name: str = "model",
        source: str = "",
        mask: dict[str, torch.Tensor] | None = None,
    ):
        self.network, self.classes, self.architecture = network, tuple(classes), architecture
        self.name, self.source, self.mask = name, source, dict(mask or {})
        self.freeze()

    @classmethod
    def build(
        cls,
        architecture: str,
        classes: Sequence[str],
        channels: int = 3,
        seed: int = 0,
        normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> Classifier:
        """An untrained classifier; its weights are a function of the seed."""
        with seeding.seeded("classifier", architecture, seed):
            network = build_network(architecture, len(classes), channels)
        if normalize:
            network = nn.Sequential(Normalize(*normalize), network)
        return cls(network, classes, architecture, architecture)

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, {len(self.classes)} classes)"

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Classifier:
        """Move to a device, in place."""
        self.network.to(device)
        self.mask = {name: mask.to(device) for name, mask in self.mask.items()}
        return self

    @torch.no_grad()
    def logits(self, x: torch.Tensor, batch: int = 1024) -> torch.Tensor:
        """[N, K] float32 on the CPU, in eval mode, without augmentation."""
        return self._in_eval(x, batch)

    @torch.no_grad()
    def features(self, x: torch.Tensor, batch: int = 1024) -> torch.Tensor:
        """[N, D] float32 on the CPU: what goes into the head."""
        caught: list[torch.Tensor] = []
        head = self.network.get_submodule(self.layers()[-1])
        hook = head.register_forward_pre_hook(lambda _, given: caught.append(given[0].cpu()))
        try:
            self._in_eval(x, batch)
        finally:
            hook.remove()
        return torch.cat(caught).float()

    def _in_eval(self, x: torch.Tensor, batch: int) -> torch.Tensor:
        network, training = self.network, self.network.training
        network.eval()
        try:
            return torch.cat(
                [network(part.to(self.device)).float().cpu() for part in x.split(batch)]
            )
        finally:
            network.train(training)

    def check_classes(self, name: str, classes: Sequence[str]) -> None:
        """See that the model tells as many classes as some data has.

        Raises:
            UsageError: if it has another number of outputs.
        """
        if len(self.classes) != len(classes):
            raise UsageError(
                f"{self.name} tells {len(self.classes)} classes, but {name} has {len(classes)}."
            )

    def layers(self) -> list[str]:
        """Names of the convolutions and linear layers in the order of the network; the head last."""
        return [name for name, m in self.network.named_modules() if isinstance(m, LAYERS)]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters, named ``network.…``."""
        return {f"{PREFIX}.{name}": p for name, p in self.network.named_parameters()}

    def clone(self, trained: Iterable[str] | None = None) -> Classifier:
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

    def reset(self, layers: Iterable[str] | None = None, seed: int = 0) -> Classifier:
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
        with seeding.seeded("classifier-reset", seed):
            if self.architecture:
                fresh = build_network(self.architecture, len(self.classes), self._channels())
                norm = self._normalize()
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

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Set pruned weights to 0."""
        parameters = self.named_parameters() if self.mask else {}
        for name, mask in self.mask.items():
            parameters[name].mul_(mask)

    def freeze(self) -> Classifier:
        """Eval mode, and no parameter requires grad."""
        self.network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        return self

    def fingerprint(self) -> str:
        """SHA-256 of all parameters and buffers."""
        return digest_of(self.network).hex()

    def save(self, folder: Path | str, extra: dict[str, Any] | None = None) -> Path:
        """Write a classifier folder, whole or not at all.

        Raises:
            UsageError: if nobody could build the network again.
        """
        if not self.architecture:
            raise UsageError(
                f"{self.name} was made from a network without a name; only models that"
                " Classifier.build made can be saved as a folder."
            )
        tensors = {n: t.contiguous().cpu() for n, t in self.network.state_dict().items()}
        masks = {f"mask.{name}": mask.cpu() for name, mask in self.mask.items()}
        norm = self._normalize()
        facts = {
            "architecture": self.architecture,
            "classes": list(self.classes),
            "channels": self._channels(),
            "normalize": norm and [norm.mean.flatten().tolist(), norm.std.flatten().tolist()],
            **(extra or {}),
        }  # fmt: skip
        with files.replacing(folder) as partial:
            partial.mkdir(parents=True)
            save_file({**tensors, **masks}, partial / WEIGHTS)
            files.write_json(partial / FILE, facts)
        return Path(folder)

    def _channels(self) -> int:
        first = self.network.get_submodule(self.layers()[0])
        return getattr(first, "in_channels", None) or getattr(first, "in_features", 1)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Classifier:
        """Read a classifier folder.

        Raises:
            UsageError: if it is none, or its weights do not fit its description.
        """
        folder = Path(folder)
        if not (folder / FILE).is_file() or not (folder / WEIGHTS).is_file():
            raise UsageError(
                f"{folder} is no classifier folder: {FILE} and {WEIGHTS} must be in it."
            )
        try:
            facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
            model = cls.build(
                facts["architecture"], facts["classes"], facts["channels"],
                normalize=facts.get("normalize"),
            )  # fmt: skip
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
                    f"{folder / WEIGHTS} does not fit {facts['architecture']} with"
                    f" {len(facts['classes'])} classes: {name} is {here} there and {there} in the"
                    " network."
                )
        model.network.load_state_dict(tensors)
        model.name, model.source = folder.name, str(folder)
        return model.to(device).freeze()
