"""Judges: the networks that decide what a picture shows.

A judge is a ``timm`` classifier with the names of its classes; CLIP comes from ``open_clip``. All
of them take uint8 pictures [N, H, W, 3] as they come out of the generator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from .. import resources
from ..errors import UsageError, unknown
from .protocol import ClipFile, JudgeFile


def to_unit(pictures: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """[N, H, W, 3] uint8 to [N, 3, H, W] float32 in [0, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 255


def resized(
    x: torch.Tensor, size: int | tuple[int, int], mode: str, antialias: bool
) -> torch.Tensor:
    """Pictures [N, 3, H, W] at another size, stretched; returned as they are if it fits."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(x.shape[-2:]) == size:
        return x
    x = F.interpolate(x, size=size, mode=mode, align_corners=False, antialias=antialias)
    return x.clamp(0, 1)


class Judge:
    """A classifier of pictures.

    Args:
        network: takes [N, 3, h, w] normalised pictures, returns logits [N, K].
        classes: names of the K classes.
        name: for scorecards.
        fingerprint: of its weights.
        input_size: (h, w) that pictures are stretched to, bilinear with antialias.
        mean: of the normalisation, a channel each.
        std: of the normalisation.
        test_accuracy: share of held-out real pictures that it names rightly, None if not stated.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        classes: Sequence[str],
        name: str,
        fingerprint: str,
        input_size: tuple[int, int],
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        test_accuracy: float | None = None,
    ):
        self.network = network.eval().requires_grad_(False)
        self.classes = tuple(classes)
        self.name, self.fingerprint = name, fingerprint
        self.input_size = tuple(input_size)
        self.test_accuracy = test_accuracy
        self.device = next(iter(network.parameters()), torch.zeros(1)).device
        self._mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self.device).view(1, 3, 1, 1)

    @torch.no_grad()
    def predict(self, pictures: np.ndarray) -> np.ndarray:
        """Logits [N, K] float32 of pictures [N, H, W, 3] uint8."""
        return self.logits(to_unit(pictures, self.device)).float().cpu().numpy()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[N, K] of pictures [N, 3, H, W] in [0, 1] on the device; gradients flow back to them."""
        x = resized(x, self.input_size, "bilinear", antialias=True)
        return self.network((x - self._mean) / self._std)

    def columns(self, names: Sequence[str], kind: str) -> np.ndarray:
        """Position of each name in ``classes``.

        Raises:
            UsageError: if the judge does not know one.
        """
        for name in names:
            if name not in self.classes:
                error = unknown(
                    f"{kind} that the judge {self.name} knows called", name, self.classes
                )
                raise error
        return np.array([self.classes.index(name) for name in names])


def load_judge(
    spec: str | Path | JudgeFile,
    classes: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> Judge:
    """Load a judge, in float32.

    Args:
        spec: ``minicanvas/style-judge`` (embedded), a folder with ``config.json`` and
            ``model.safetensors``, or a description of a weights file (``.pth`` files are read
            with ``weights_only``).
        classes: names by index, for a weights file that does not list them.
        device: where it runs.

    Raises:
        UsageError: if something is missing, damaged, or does not fit together.
    """
    if isinstance(spec, JudgeFile):
        return _judge_from_file(spec, spec.classes or classes, device)
    folder = embedded_or_path(spec)
    config = _json(folder / "config.json", f"The judge {spec}")
    weights = folder / "model.safetensors"
    try:
        network = _timm(
            config["architecture"], config["num_classes"], config.get("model_args") or {}
        )
        size = config["input_size"]
        names, mean, std = config["classes"], config["mean"], config["std"]
    except KeyError as error:
        raise UsageError(f"{folder / 'config.json'} lacks {error}.") from error
    if len(names) != config["num_classes"]:
        raise UsageError(
            f"The judge {spec} has {config['num_classes']} outputs and {len(names)} names."
        )
    _fill(network, read_weights(weights), weights)
    accuracy = config.get("card", {}).get("test_accuracy")
    return Judge(
        network.to(device), names, str(spec), file_digest(weights), tuple(size[-2:]), mean, std,
        accuracy,
    )  # fmt: skip


def _judge_from_file(spec: JudgeFile, classes: Sequence[str] | None, device: Any) -> Judge:
    if not classes:
        raise UsageError(f"The judge {spec.path} needs the names of its classes.")
    network = _timm(spec.architecture, len(classes), {})
    _fill(network, read_weights(spec.where, spec.state_key), spec.where)
    return Judge(
        network.to(device), classes, Path(spec.path).stem, file_digest(spec.where),
        (spec.input_size, spec.input_size), spec.mean, spec.std, spec.test_accuracy,
    )  # fmt: skip


def _timm(architecture: str, classes: int, arguments: dict[str, Any]) -> torch.nn.Module:
    import timm

    try:
        # never fetch the weights that are about to be replaced
        return timm.create_model(architecture, pretrained=False, num_classes=classes, **arguments)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"timm cannot build the judge {architecture!r}: {error}.") from error


def embedded_or_path(spec: str | Path) -> Path:
    """``minicanvas/clip`` -> the embedded folder; anything else is a path.

    Raises:
        UsageError: if there is no such folder.
    """
    path = Path(spec)
    if not path.is_dir() and str(spec).startswith("minicanvas/"):
        path = resources.EMBEDDED / str(spec).removeprefix("minicanvas/")
        if not path.is_dir():
            there = [f"minicanvas/{p.name}" for p in resources.EMBEDDED.glob("*") if p.is_dir()]
            raise unknown("embedded model", str(spec), there)
    if not path.is_dir():
        raise UsageError(f"There is no model folder {spec}.")
    return path


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{what} has no {path.name} in {path.parent}.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} does not hold a description of a model.")
    return data


def read_weights(path: Path, state_key: str | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a ``.safetensors`` file, or of a ``.pth`` file read with ``weights_only``.

    Raises:
        UsageError: if the file is missing, damaged, or holds more than weights.
    """
    if not path.is_file():
        raise UsageError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise UsageError(f"The weights file {path} is damaged ({error}).") from error
    except Exception as error:  # pickle.UnpicklingError and whatever a crafted file provokes
        raise UsageError(
            f"The weights file {path} cannot be read as plain tensors"
            f" ({type(error).__name__}); nothing in it was run."
        ) from error
    if state_key is not None:
        if not isinstance(state, dict) or state_key not in state:
            raise UsageError(f"The weights file {path} has no entry {state_key!r}.")
        state = state[state_key]
    return state


def _fill(network: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UsageError(f"The weights in {path} do not fit the network: {first}") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered until the file changes."""
    about = path.stat()
    return _file_digest(str(path.resolve()), about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_digest(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ClipModel:
    """An ``open_clip`` model with its tokenizer.

    Args:
        network: the open_clip model.
        tokenizer: texts to tokens [N, L].
        name: for scorecards.
        fingerprint: of its weights.
    """

    def __init__(self, network: Any, tokenizer: Any, name: str, fingerprint: str):
        self.network = network.eval().requires_grad_(False)
        self.tokenizer, self.name, self.fingerprint = tokenizer, name, fingerprint
        self.device = network.logit_scale.device
        about = network.visual.preprocess_cfg
        self._size = about["size"]
        self._mode = about.get("interpolation") or "bicubic"
        self._mean = torch.tensor(about["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(about["std"], device=self.device).view(1, 3, 1, 1)

    @property
    def logit_scale(self) -> float:
        return float(self.network.logit_scale.exp())

    @torch.no_grad()
    def image_features(self, pictures: np.ndarray) -> np.ndarray:
        """[N, D] float32 projected features, not normalised, of uint8 pictures [N, H, W, 3]."""
        return self.embed(to_unit(pictures, self.device)).cpu().numpy()

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """[N, D] float32 features of pictures [N, 3, H, W] in [0, 1] on the device."""
        mode = self._mode if self._mode in ("bilinear", "bicubic") else "bicubic"
        x = resized(x, self._size, mode, antialias=True)
        return self.network.encode_image((x - self._mean) / self._std).float()

    @torch.no_grad()
    def text_features(self, texts: Sequence[str], batch: int = 256) -> np.ndarray:
        """[N, D] float32 projected features, not normalised."""
        texts, found = list(texts), []
        for start in range(0, len(texts), batch):
            tokens = self.tokenizer(texts[start : start + batch]).to(self.device)
            found.append(self.network.encode_text(tokens).float().cpu().numpy())
        return np.concatenate(found)


def load_clip(spec: str | Path | ClipFile, device: torch.device | str = "cpu") -> ClipModel:
    """Load a CLIP model, in float32; nothing is fetched from a network.

    Args:
        spec: ``minicanvas/clip`` (embedded); a folder that ``open_clip`` reads as
            ``local-dir:`` (``open_clip_config.json``, ``open_clip_model.safetensors`` and the
            files of a ``transformers`` tokenizer); or an architecture with a weights file.
        device: where it runs.

    Raises:
        UsageError: if something is missing, damaged, or does not fit together.
    """
    import open_clip

    if isinstance(spec, ClipFile):
        name, weights, pretrained = spec.architecture, spec.where, str(spec.where)
    else:
        folder = embedded_or_path(spec)
        name, weights, pretrained = (
            f"local-dir:{folder}",
            folder / "open_clip_model.safetensors",
            None,
        )
        _json(folder / "open_clip_config.json", f"The CLIP model {spec}")
    if not weights.is_file():
        raise UsageError(f"There is no weights file {weights}.")
    try:
        network = open_clip.create_model(
            name, pretrained=pretrained, precision="fp32", device=device, weights_only=True
        )
        if pretrained is None and (folder / "tokenizer_config.json").is_file():
            # the folder's own tokenizer, also where the configuration does not say so
            tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), network.context_length)
        else:
            tokenizer = open_clip.get_tokenizer(name)
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"The CLIP model {spec} cannot be loaded: {first}") from error
    label = spec.architecture if isinstance(spec, ClipFile) else str(spec)
    return ClipModel(network, tokenizer, label, file_digest(weights))
