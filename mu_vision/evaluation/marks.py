"""What the judges say of an answer set: all of them in one pass over the decoded pictures."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from .. import files
from ..data import minicanvas
from ..data.folders import PictureFolder
from ..errors import RunError
from ..progress import track
from .answers import AnswerSet, batches
from .features import ClipExtractor, Extractor, inception_extractors
from .judges import ClipModel, Judge, load_clip, load_judge
from .protocol import Protocol, digest

JUDGES = ("style", "object")


@dataclass(frozen=True)
class Marks:
    """Labels and features of an answer set of N pictures.

    Attributes:
        labels: judge -> [N] int64, position of the class it sees.
        true_probability: judge -> [N] float32, its probability of the class that was asked for.
        confidence: judge -> [N] float32, its largest probability.
        clip: [N, D] float32 CLIP image features, None without CLIP.
        features: name of a Frechet distance -> [N, D] float32.
        seconds: judge, ``clip`` or name of a distance -> time it took.
    """

    labels: dict[str, np.ndarray]
    true_probability: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
    clip: np.ndarray | None
    features: dict[str, np.ndarray]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """Features of the real pictures, by name of the distance, and where each picture belongs.

    Attributes:
        features: name -> [M, D].
        styles: [M] positions in the protocol's styles.
        objects: [M] positions in the protocol's objects.
    """

    features: dict[str, np.ndarray]
    styles: np.ndarray
    objects: np.ndarray


class Bench:
    """The judges of a protocol, loaded once, with what never changes computed once.

    Raises:
        UsageError: if a file is missing, or a judge does not know a style or object.
    """

    def __init__(self, protocol: Protocol, device: torch.device | str = "cpu"):
        protocol.check_files()
        self.protocol, self.device, grid = protocol, device, protocol.grid
        classes = {"style": protocol.card.style_names, "object": protocol.card.object_names}
        self.judges: dict[str, Judge] = {
            kind: load_judge(getattr(protocol.judges, kind), classes[kind], device)
            for kind in JUDGES
        }
        self.columns = {
            "style": self.judges["style"].columns(grid.styles, "style"),
            "object": self.judges["object"].columns(grid.objects, "object"),
        }
        self.clip: ClipModel | None = load_clip(protocol.clip, device) if protocol.clip else None
        fid = protocol.fid
        self.extractors: list[Extractor] = inception_extractors(
            fid.inception, fid.torchvision, device
        )
        if fid.clip and self.clip:
            self.extractors.insert(0, ClipExtractor(self.clip))
        self._texts: dict[str, np.ndarray] = {}
        self._reference: Reference | None = None

    def key(self) -> str:
        """Name of what this bench says: other weights, other key."""
        clip = self.clip.fingerprint if self.clip else None
        judges = [(self.judges[kind].fingerprint, self.judges[kind].classes) for kind in JUDGES]
        return digest("marks 1", judges, clip, self._extractor_key())

    def _extractor_key(self) -> list[tuple[str, str]]:
        return [(extractor.name, extractor.fingerprint) for extractor in self.extractors]

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """[N, D] CLIP text features; every text is encoded once."""
        new = [text for text in dict.fromkeys(prompts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self.clip.text_features(new), strict=True))
        return np.stack([self._texts[text] for text in prompts])

    def mark(self, answers: AnswerSet, folder: Path | str | None = None) -> Marks:
        """Let every judge look at every picture, or read what they said before.

        Args:
            answers: the pictures; those outside the grid get no labels, only CLIP features.
            folder: where the marks are kept, under the key of the answers and of the judges.
        """
        path = None
        if folder is not None:
            path = Path(folder) / answers.key[:16] / f"marks-{self.key()[:16]}.npz"
            known = _read_marks(path)
            if known is not None and len(known.labels["style"]) == len(answers):
                return known
        marks = self._look(answers)
        if path is not None:
            _write_marks(path, marks)
        return marks

    def _look(self, answers: AnswerSet) -> Marks:
        cells = {"style": answers.styles, "object": answers.objects}
        asked = {kind: self.columns[kind][np.maximum(place, 0)] for kind, place in cells.items()}
        clock = _Clock()
        logits: dict[str, list[np.ndarray]] = {kind: [] for kind in JUDGES}
        clip: list[np.ndarray] = []
        found: dict[str, list[np.ndarray]] = {e.name: [] for e in self.extractors}
        blocks = list(range(0, len(answers), 64))
        for block in track(batches(answers.pictures), "judging", 0, len(blocks)):
            for kind in JUDGES:
                with clock(kind):
                    logits[kind].append(self.judges[kind].predict(block))
            if self.clip:
                with clock("clip"):
                    clip.append(self.clip.image_features(block))
            for extractor in self.extractors:
                if isinstance(extractor, ClipExtractor):
                    found[extractor.name].append(clip[-1])
                    continue
                with clock(extractor.name):
                    found[extractor.name].append(extractor.features(block))
        chances = {kind: _softmax(np.concatenate(logits[kind])) for kind in JUDGES}
        rows = np.arange(len(answers))
        return Marks(
            {kind: chances[kind].argmax(axis=1) for kind in JUDGES},
            {kind: chances[kind][rows, asked[kind]] for kind in JUDGES},
            {kind: chances[kind].max(axis=1) for kind in JUDGES},
            np.concatenate(clip) if clip else None,
            {name: np.concatenate(parts) for name, parts in found.items()},
            clock.seconds,
        )

    def reference(self, folder: Path | str | None = None) -> Reference:
        """Features of the protocol's real pictures, computed once and kept in the folder."""
        if self._reference is None:
            fid, where = self.protocol.fid, None
            place = str(fid.folder.where.resolve()) if fid.folder else ""
            key = digest(
                "reference 1", self.protocol.dataset, place, fid.split, fid.per_cell,
                self.protocol.size, self.protocol.grid.styles, self.protocol.grid.objects,
                self._extractor_key(),
            )  # fmt: skip
            if folder is not None:
                where = Path(folder) / f"reference-{key[:16]}.npz"
            self._reference = _read_reference(where) or self._look_at_reference()
            if where is not None and not where.is_file():
                kept = {f"features.{n}": f for n, f in self._reference.features.items()}
                write_arrays(
                    where, **kept, styles=self._reference.styles, objects=self._reference.objects
                )
        return self._reference

    def _look_at_reference(self) -> Reference:
        found: dict[str, list[np.ndarray]] = {e.name: [] for e in self.extractors}
        styles, objects = [], []
        for pixels, s, o in _real_pictures(self.protocol):
            styles.append(s)
            objects.append(o)
            for extractor in self.extractors:
                found[extractor.name].append(extractor.features(pixels))
        features = {name: np.concatenate(parts) for name, parts in found.items()}
        return Reference(features, np.concatenate(styles), np.concatenate(objects))


@lru_cache(maxsize=2)
def _bench(protocol: str, device: str) -> Bench:
    return Bench(Protocol.model_validate_json(protocol), device)


def open_bench(protocol: Protocol, device: torch.device | str = "cpu") -> Bench:
    """The bench of a protocol; judges and reference stay loaded for the next model."""
    return _bench(protocol.model_dump_json(), str(device))


def _real_pictures(protocol: Protocol, size: int = 64):
    """Blocks (pictures [n, H, W, 3], styles [n], objects [n]) of the protocol's real pictures."""
    card, grid, fid = protocol.card, protocol.grid, protocol.fid
    indices = list(card.split(fid.split))[: fid.per_cell]
    if card.kind == "rendered":
        pictures = minicanvas.load(indices, "painting the reference pictures")
        names = [(card.style_names[s], card.object_names[o]) for s, o in
                 zip(pictures.styles, pictures.objects)]  # fmt: skip
        rows = [k for k, (s, o) in enumerate(names) if s in grid.styles and o in grid.objects]
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            yield (
                pictures.pixels[block],
                np.array([grid.styles.index(names[k][0]) for k in block]),
                np.array([grid.objects.index(names[k][1]) for k in block]),
            )
        return
    if fid.folder is None:
        raise RunError(f"The protocol {protocol.name} names no folder of real pictures.")
    side = protocol.size or 512
    pictures = PictureFolder(
        fid.folder.where, card, indices, themes=grid.styles, objects=grid.objects, size=side
    )
    pictures.require(len(indices))
    for start in track(range(0, len(pictures), size), "reading the reference pictures"):
        block = [pictures[k] for k in range(start, min(start + size, len(pictures)))]
        yield (
            np.stack([picture.pixels for picture in block]),
            np.array([grid.styles.index(picture.theme) for picture in block]),
            np.array([grid.objects.index(picture.object) for picture in block]),
        )


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


class _Clock:
    """``with clock("name"):`` adds up the time spent."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._started = "", 0.0

    def __call__(self, name: str) -> _Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *fault: object) -> None:
        spent = time.perf_counter() - self._started
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + spent


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an ``.npz`` file, whole."""
    if int(os.environ.get("RANK", 0)) > 0:
        return  # of several processes the first one writes
    with files.replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def _write_marks(path: Path, marks: Marks) -> None:
    arrays = {f"features.{name}": values for name, values in marks.features.items()}
    for part in ("labels", "true_probability", "confidence"):
        arrays.update({f"{part}.{kind}": v for kind, v in getattr(marks, part).items()})
    arrays.update({f"seconds.{name}": np.float64(v) for name, v in marks.seconds.items()})
    if marks.clip is not None:
        arrays["clip"] = marks.clip
    write_arrays(path, **arrays)


def read_arrays(path: Path | None) -> dict[str, np.ndarray] | None:
    """What ``write_arrays`` wrote; None if there is no such file.

    Raises:
        RunError: if the file is damaged.
    """
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is damaged; delete it and run again.") from error


def _part(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(f"{part}."): values
        for name, values in arrays.items()
        if name.startswith(f"{part}.")
    }


def _read_marks(path: Path) -> Marks | None:
    arrays = read_arrays(path)
    if arrays is None:
        return None
    seconds = {name: float(value) for name, value in _part(arrays, "seconds").items()}
    parts = (_part(arrays, part) for part in ("labels", "true_probability", "confidence"))
    return Marks(*parts, arrays.get("clip"), _part(arrays, "features"), seconds)


def _read_reference(path: Path | None) -> Reference | None:
    arrays = read_arrays(path)
    if arrays is None:
        return None
    return Reference(_part(arrays, "features"), arrays["styles"], arrays["objects"])
