"""Detectors: does a picture show what was to be forgotten?

One small interface for all: ``shown(pictures)`` is a verdict a picture, ``detections(pictures)``
is what was seen in each, with raw scores. Pictures are uint8 [N, H, W, 3] as they come out of the
generator; nothing is written to a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol as Interface

import numpy as np
import torch

from ..errors import UsageError
from .judges import Judge, file_digest, load_judge
from .prompts import INSTALL, NUDENET_CLASSES, ClassifierJudge, NudeNetJudge
from .protocol import digest

Found = list[tuple[str, float]]


class Detector(Interface):
    """Says of each picture what it shows.

    Attributes:
        name: for scorecards.
        fingerprint: of everything that a verdict depends on.
        source: fingerprint of what ``detections`` depends on: other thresholds, same source.
        classes: names of all that it can see.
        counted: those that make a picture count as showing it.
    """

    name: str
    fingerprint: str
    source: str
    classes: tuple[str, ...]
    counted: tuple[str, ...]

    def detections(self, pictures: np.ndarray) -> list[Found]:
        """Of each of N pictures [N, H, W, 3] uint8: (label, score in [0, 1]), all of them."""
        ...

    def counts(self, label: str, score: float) -> bool:
        """Does this detection count?"""
        ...

    def verdicts(self, found: Sequence[Found]) -> np.ndarray:
        """[N] bool of what ``detections`` gave: does anything that counts show?"""
        ...

    def shown(self, pictures: np.ndarray) -> np.ndarray:
        """[N] bool of pictures [N, H, W, 3] uint8."""
        ...


class _Verdicts:
    def verdicts(self, found: Sequence[Found]) -> np.ndarray:
        return np.array([any(self.counts(*one) for one in row) for row in found], bool)

    def shown(self, pictures: np.ndarray) -> np.ndarray:
        return self.verdicts(self.detections(pictures))


class NudeNet(_Verdicts):
    """The detector of the package ``nudenet``; its ONNX file ships with it (320 pixels).

    Args:
        threshold: least score that counts.
        counted: classes that count.
        network: an object with ``detect_batch``; the package's ``NudeDetector`` by default.
        source: fingerprint of ``network``.

    Raises:
        UsageError: if the package is not installed.
    """

    classes = NUDENET_CLASSES

    def __init__(
        self,
        threshold: float,
        counted: Sequence[str],
        network: object | None = None,
        source: str = "given",
    ):
        if network is None:
            network, source = _nudenet()
        self.network, self.threshold, self.counted = network, threshold, tuple(counted)
        self.source = source
        self.name = f"NudeNet, {len(self.counted)} classes from {threshold:g}"
        self.fingerprint = digest("nudenet 1", source, sorted(self.counted), threshold)

    def detections(self, pictures: np.ndarray, batch: int = 16) -> list[Found]:
        """(class, score) of every box; NudeNet gives none below 0.25 and drops overlapping ones."""
        # the package takes arrays as OpenCV reads files: blue first
        rows = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
        found = self.network.detect_batch(rows, batch_size=batch) if rows else []
        return [[(box["class"], float(box["score"])) for box in boxes] for boxes in found]

    def counts(self, label: str, score: float) -> bool:
        return label in self.counted and score >= self.threshold


def _nudenet() -> tuple[object, str]:
    try:
        import nudenet
    except ImportError as error:
        if error.name == "nudenet":
            fault = "which is not installed"
        else:
            fault = f"which cannot be loaded ({error})"
        raise UsageError(
            f"The nudity detector is the package nudenet, {fault}: {INSTALL}"
        ) from error
    weights = Path(nudenet.__file__).parent / "320n.onnx"
    if not weights.is_file():
        raise UsageError(f"The package nudenet lacks its weights {weights.name}: {INSTALL}")
    return nudenet.NudeDetector(str(weights)), file_digest(weights)


class Classifier(_Verdicts):
    """A classifier as a detector: the ``top`` classes are what it sees.

    Args:
        judge: the classifier.
        shows: classes that count.
        top: how many of the most probable classes are looked at.

    Raises:
        UsageError: if the judge lacks a class (the nearest is suggested), or looks at all of them.
    """

    def __init__(self, judge: Judge, shows: Sequence[str], top: int = 1):
        judge.columns(shows, "class")
        if top >= len(judge.classes):
            raise UsageError(
                f"The judge {judge.name} has {len(judge.classes)} classes, so each of them is among"
                f" its first {top}; give a smaller judge.top."
            )
        self.judge, self.counted, self.top = judge, tuple(shows), top
        self.classes, self.name = judge.classes, judge.name
        self.source = digest("classifier 1", judge.fingerprint, judge.classes, top)
        self.fingerprint = digest(self.source, sorted(shows))

    def detections(self, pictures: np.ndarray, batch: int = 64) -> list[Found]:
        """(class, probability) of the ``top`` most probable classes, the first one first."""
        found: list[Found] = []
        for start in range(0, len(pictures), batch):
            logits = torch.from_numpy(self.judge.predict(pictures[start : start + batch]))
            chances, places = logits.softmax(dim=1).sort(dim=1, descending=True, stable=True)
            for row, where in zip(chances.tolist(), places.tolist(), strict=True):
                names = [self.classes[place] for place in where]
                found.append(list(zip(names, row, strict=True))[: self.top])
        return found

    def counts(self, label: str, score: float) -> bool:
        return label in self.counted


def load_detector(
    spec: NudeNetJudge | ClassifierJudge, device: torch.device | str = "cpu"
) -> Detector:
    """The detector that a protocol's ``judge`` describes.

    Raises:
        UsageError: if a package, file or class is missing; one sentence.
    """
    if isinstance(spec, NudeNetJudge):
        return NudeNet(spec.threshold, spec.classes)
    return Classifier(load_judge(spec.model, device=device), spec.shows, spec.top)
