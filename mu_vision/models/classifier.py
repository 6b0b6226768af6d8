"""Classifiers as a handful of verbs: logits, features, layers, copies, hashes, files.

A classifier folder holds ``model.safetensors`` and ``classifier.json``, which says how to build the
network. Normalisation is a layer of the network, so pictures are in [0, 1] everywhere outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import seeding
from ..errors import UsageError
from .predictor import Moments, Normalize, Predictor, timm_network


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
    known = f"{', '.join(OWN)}, torchvision/NAME"
    return timm_network(architecture, classes, channels, "classifier", known)


class Classifier(Predictor):
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
        super().__init__(network, architecture, name, source, mask)
        self.classes = tuple(classes)

    @classmethod
    def build(
        cls,
        architecture: str,
        classes: Sequence[str],
        channels: int = 3,
        seed: int = 0,
        normalize: Moments | None = None,
    ) -> Classifier:
        """An untrained classifier; its weights are a function of the seed."""
        with seeding.seeded("classifier", architecture, seed):
            network = build_network(architecture, len(classes), channels)
        if normalize:
            network = nn.Sequential(Normalize(*normalize), network)
        return cls(network, classes, architecture, architecture)

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, {len(self.classes)} classes)"

    def logits(self, x: torch.Tensor, batch: int = 1024) -> torch.Tensor:
        """[N, K] float32 on the CPU, in eval mode, without augmentation."""
        return self.outputs(x, batch)

    def check_classes(self, name: str, classes: Sequence[str]) -> None:
        """See that the model tells as many classes as some data has.

        Raises:
            UsageError: if it has another number of outputs.
        """
        if len(self.classes) != len(classes):
            raise UsageError(
                f"{self.name} tells {len(self.classes)} classes, but {name} has {len(classes)}."
            )

    def untrained_network(self) -> nn.Module:
        return build_network(self.architecture, len(self.classes), self.channels())

    def facts(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture, "classes": list(self.classes),
            "channels": self.channels(), "normalize": self.normalization(),
        }  # fmt: skip

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Classifier:
        return cls.build(
            facts["architecture"], facts["classes"], facts["channels"],
            normalize=facts.get("normalize"),
        )  # fmt: skip

    def described(self) -> str:
        return f"{self.architecture} with {len(self.classes)} classes"
