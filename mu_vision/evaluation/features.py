"""Inception features for Frechet distances: pytorch-fid's, and those of UnlearnCanvas's script.

The two networks and preparations give different numbers, so they have different names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol as Interface
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import UsageError
from .judges import ClipModel, file_digest, read_weights, resized, to_unit
from .protocol import LocalFile


class Extractor(Interface):
    """Turns pictures into features for one kind of Frechet distance."""

    name: str
    judge: str
    fingerprint: str

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """[N, D] float32 of uint8 pictures [N, H, W, 3]."""
        ...


class ClipExtractor:
    """CLIP image features, not normalised (Kynkaanniemi et al. 2023, arXiv 2203.06026)."""

    name = "fid_clip"

    def __init__(self, clip: ClipModel):
        self.clip = clip
        self.judge = clip.name
        self.fingerprint = clip.fingerprint

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return self.clip.image_features(pictures)


class PytorchFid:
    """The 2048 pool features of pytorch-fid's Inception (the TensorFlow weights of FID)."""

    name = "fid"
    judge = "Inception of pytorch-fid"

    def __init__(self, weights: Path, device: torch.device | str = "cpu"):
        from pytorch_fid import inception

        state = read_weights(weights)
        # pytorch-fid 0.3.0 fetches its weights by URL and takes no path; give it ours instead
        with mock.patch.object(inception, "load_state_dict_from_url", lambda *a, **k: state):
            try:
                network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
            except RuntimeError as error:
                raise UsageError(
                    f"{weights} does not hold pytorch-fid's Inception weights."
                ) from error
        self.network = network.eval().to(device)
        self.device, self.fingerprint = device, file_digest(weights)

    @torch.no_grad()
    def features(self, pictures: np.ndarray) -> np.ndarray:
        found = self.network(to_unit(pictures, self.device))[0]
        return found.flatten(1).float().cpu().numpy()


class UnlearnCanvasInception:
    """The pipeline of UnlearnCanvas's ``quantitative/fid.py``, kept for comparison with its table.

    Torchvision's ImageNet Inception; bilinear without antialias to 512, then 299 pixels; scaled
    to [-1, 1] *and then* passed through ``transform_input``, which expects ImageNet's
    normalisation; output of Mixed_7c, averaged over places.
    """

    name = "fid_unlearncanvas"
    judge = "Inception of torchvision"

    def __init__(self, weights: Path, device: torch.device | str = "cpu"):
        from torchvision.models import inception_v3

        network = inception_v3(weights=None, init_weights=False, transform_input=True)
        try:
            network.load_state_dict(read_weights(weights))
        except RuntimeError as error:
            raise UsageError(f"{weights} does not hold torchvision's Inception weights.") from error
        self.network = network.eval().requires_grad_(False).to(device)
        self.device, self.fingerprint = device, file_digest(weights)

    @torch.no_grad()
    def features(self, pictures: np.ndarray) -> np.ndarray:
        x = to_unit(pictures, self.device)
        for side in (512, 299):
            x = resized(x, side, "bilinear", antialias=False)
        seen: list[torch.Tensor] = []
        hook = self.network.Mixed_7c.register_forward_hook(lambda *a: seen.append(a[2]))
        try:
            self.network(2 * x - 1)
        finally:
            hook.remove()
        return F.adaptive_avg_pool2d(seen[0], 1).flatten(1).float().cpu().numpy()


def inception_extractors(
    pytorch_fid: LocalFile | None, torchvision: LocalFile | None, device: torch.device | str
) -> list[Extractor]:
    """The Inception extractors whose weights are given."""
    found: list[Extractor] = []
    if pytorch_fid is not None:
        found.append(PytorchFid(pytorch_fid.where, device))
    if torchvision is not None:
        found.append(UnlearnCanvasInception(torchvision.where, device))
    return found
