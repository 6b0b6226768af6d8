"""Regressors as a handful of verbs: predictions, activations of named layers, copies, hashes, files.

A regressor folder holds ``model.safetensors`` and ``regressor.json``, which says how to build the
network. The head has one unit and answers in the unit of the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .. import seeding
from ..errors import UsageError, unknown
from .predictor import Moments, Normalize, Predictor, timm_network


class Block(nn.Sequential):
    """A part of a network whose output is compared in attention maps."""


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> Block:
    return Block(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


def allcnn(channels: int = 3, width: int = 96, stride: int = 1) -> nn.Module:
    """The paper's AllCNN for 32x32 pictures: eight convolutions of width and twice the width.

    Source: Tarun et al., ICML 2023, arXiv 2210.08196; the network is due to Springenberg et al.,
    arXiv 1412.6806.
    """
    twice = 2 * width
    return nn.Sequential(
        _conv(channels, width, stride=stride), _conv(width, width), _conv(width, twice, stride=2),
        _conv(twice, twice), _conv(twice, twice), _conv(twice, twice, stride=2),
        _conv(twice, twice), _conv(twice, twice, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(twice, 1),
    )  # fmt: skip


def small_allcnn(channels: int = 3) -> nn.Module:
    """AllCNN with a sixth of its width and a first stride of 2, for two cores."""
    return allcnn(channels, width=16, stride=2)


def small_cnn(channels: int = 1, width: int = 16) -> nn.Module:
    """Three convolutions with batch norm, for 8x8 digits."""
    return nn.Sequential(
        _conv(channels, width // 2), _conv(width // 2, width, stride=2), _conv(width, width),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 1),
    )  # fmt: skip


def mlp(channels: int, width: int = 64) -> nn.Module:
    """Two hidden layers for rows of a table [B, D]."""
    return nn.Sequential(
        nn.Flatten(),
        Block(nn.Linear(channels, width), nn.ReLU()), Block(nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, 1),
    )  # fmt: skip


class Reader(nn.Module):
    """One LSTM over both sentences [B, D, 2, T] -> [B, 2 T, width]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, width, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.lstm(x.permute(2, 0, 3, 1).flatten(0, 1))[0].chunk(2)
        return torch.cat([first, second], 1)


class PairLSTM(nn.Module):
    """The paper's network for pairs of sentences: an LSTM reads both, an MLP compares the ends.

    Takes [B, D, 2, T]: D numbers a word, two sentences of T words.
    """

    def __init__(self, channels: int = 300, width: int = 64):
        super().__init__()
        self.read = Reader(channels, width)
        sizes = ((2 * width, 64), (64, 32), (32, 16))
        self.compare = nn.Sequential(*(Block(nn.Linear(*size), nn.ReLU()) for size in sizes))
        self.head = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.read(x)
        length = states.shape[1] // 2
        ends = torch.cat([states[:, length - 1], states[:, -1]], 1)
        return self.head(self.compare(ends))


OWN: dict[str, Callable[[int], nn.Module]] = {
    "allcnn": allcnn, "small_allcnn": small_allcnn, "small_cnn": small_cnn, "mlp": mlp,
    "pair_lstm": PairLSTM,
}  # fmt: skip


def build_network(architecture: str, channels: int) -> nn.Module:
    """An untrained network with one output unit: one of ``OWN``, or a name of timm.

    Raises:
        UsageError: if nobody knows the name.
    """
    if architecture in OWN:
        return OWN[architecture](channels)
    return timm_network(architecture, 1, channels, "regressor", ", ".join(OWN))


class Regressor(Predictor):
    """A network that gives one value [B, 1] for each of the samples [B, C, ...]."""

    family = "regressor"

    @classmethod
    def build(
        cls, architecture: str, channels: int = 3, seed: int = 0, normalize: Moments | None = None,
        trailing: int = 2,
    ) -> Regressor:  # fmt: skip
        """An untrained regressor; its weights are a function of the seed.

        Args:
            architecture: one of ``OWN``, or a name of timm.
            channels: size of axis 1 of a batch.
            seed: of the weights.
            normalize: mean and standard deviation by channel.
            trailing: axes of a batch after the channels.
        """
        with seeding.seeded("regressor", architecture, seed):
            network = build_network(architecture, channels)
        if normalize:
            network = nn.Sequential(Normalize(*normalize, trailing), network)
        return cls(network, architecture, architecture)

    def __repr__(self) -> str:
        return f"Regressor({self.name!r})"

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """[B] with gradients, in the network's mode."""
        return self.network(x)[:, 0]

    def predict(self, x: torch.Tensor, batch: int = 1024) -> torch.Tensor:
        """[N] float32 on the CPU, in eval mode, without augmentation."""
        return self.outputs(x, batch)[:, 0]

    def check_reads(self, name: str, x: torch.Tensor) -> Regressor:
        """See that the network takes samples [N, ...] of some data, and gives one value each.

        Raises:
            UsageError: if it does not.
        """
        try:
            shape = list(self.outputs(x[:1]).shape)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UsageError(
                f"{self.name} cannot read the samples of {name}, which are {list(x.shape[1:])}: {error}"
            ) from error
        if shape != [1, 1]:
            raise UsageError(f"{self.name} gives {shape} for one sample of {name}, not one value.")
        return self

    def untrained_network(self) -> nn.Module:
        return build_network(self.architecture, self.channels())

    def channels(self) -> int:
        norm = self._normalize()
        if norm is not None:
            return norm.mean.numel()
        lstm = next((m for m in self.network.modules() if isinstance(m, nn.LSTM)), None)
        return super().channels() if lstm is None else lstm.input_size

    def facts(self) -> dict[str, Any]:
        norm = self._normalize()
        return {
            "architecture": self.architecture, "channels": self.channels(),
            "normalize": self.normalization(), "trailing": 2 if norm is None else norm.mean.ndim - 2,
        }  # fmt: skip

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Regressor:
        return cls.build(
            facts["architecture"], facts["channels"],
            normalize=facts["normalize"], trailing=facts["trailing"],
        )  # fmt: skip

    @torch.no_grad()
    def centre(self, y: torch.Tensor) -> Regressor:
        """Set the bias of the head to the mean of targets [N], in place; a head without one stays.

        Targets keep their unit, and the first epochs would be spent on reaching it.
        """
        head = self.network.get_submodule(self.layers()[-1])
        if head.bias is not None:
            head.bias.fill_(float(y.mean()))
        return self

    def blocks(self) -> list[str]:
        """Layers whose activations are compared by default: blocks of our networks, stages of timm's."""
        for prefix, module in self.network.named_modules():
            stages = getattr(module, "feature_info", None)
            if isinstance(stages, list):
                names = dict(module.named_modules())
                found = [stage["module"] for stage in stages if stage["module"] in names]
                return [f"{prefix}.{name}" if prefix else name for name in found]
        return [n for n, m in self.network.named_modules() if isinstance(m, Block | Reader)]

    def check_layers(self, layers: Sequence[str]) -> tuple[str, ...]:
        """These layers, or the default ones if there are none.

        Raises:
            UsageError: for a layer that does not exist, with the nearest that does; or if there are
                no default ones.
        """
        names = [name for name, _ in self.network.named_modules() if name]
        for layer in layers:
            if layer not in names:
                raise unknown(f"layer of {self.name}", layer, names)
        found = tuple(layers or self.blocks())
        if not found:
            raise UsageError(
                f"{self.name} does not say which layers to compare; name some with layers=[...]:"
                f" {', '.join(names)}."
            )
        return found

    @contextmanager
    def listening(self, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
        """Inside the block, a forward pass leaves the output of each of the layers in the dict."""
        heard: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
            def hook(module: nn.Module, given: Any, out: torch.Tensor) -> None:
                heard[name] = out

            return hook

        hooks = [
            self.network.get_submodule(name).register_forward_hook(keep(name)) for name in layers
        ]
        try:
            yield heard
        finally:
            for hook in hooks:
                hook.remove()
