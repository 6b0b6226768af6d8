"""Answer sets: the pictures that a model draws for a protocol's prompts and seeds.

Picture i depends on (model, prompt, seed i) alone. Its first latent is made on the CPU from the
seed and the cell, so batches, order, a resume or several processes cannot change it, and the
original and the edited model start from the same one. Batches are written as they are finished;
a killed job goes on with the batches that are missing.
"""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .. import files
from ..data.folders import answer_name, parse_answer_name, read_picture
from ..errors import CountMismatch, RunError, UsageError
from ..loop import peak_memory_gb
from ..models.text import TextStates
from ..progress import track
from .plan import Plan, grid_plan
from .protocol import Protocol

if TYPE_CHECKING:
    from ..models.denoiser import Denoiser

# A picture drawn in a batch of 1 and in a batch of 8 differs by at most this many of 255 levels
# (matrix products of other shapes round differently); the same batches give the same bytes.
TOLERANCE = 1


@dataclass(frozen=True)
class AnswerSet:
    """Pictures with their cells.

    Attributes:
        pictures: [N, H, W, 3] uint8, in the order style, object, seed.
        styles: [N] positions in ``style_names``, -1 outside the grid.
        objects: [N] positions in ``object_names``.
        seeds: [N].
        prompts: [N] texts.
        fingerprint: of the model that drew them.
        key: name of this answer set, other for other pictures.
        seconds: time of sampling and decoding.
        peak_memory_gb: largest memory use meanwhile, in 10^9 bytes.
    """

    pictures: np.ndarray
    styles: np.ndarray
    objects: np.ndarray
    seeds: np.ndarray
    style_names: tuple[str, ...]
    object_names: tuple[str, ...]
    prompts: tuple[str, ...]
    fingerprint: str
    key: str
    seconds: float = 0.0
    peak_memory_gb: float = 0.0

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def grid(self) -> np.ndarray:
        """[S, O, R, H, W, 3]: the pictures by style, object and seed."""
        cells = (len(self.style_names), len(self.object_names), -1)
        return self.pictures.reshape(*cells, *self.pictures.shape[1:])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pictures."""
        return sha256(np.ascontiguousarray(self.pictures).data).hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``pictures.npy`` and ``answers.json``, the latter last."""
        with files.replacing(folder / "pictures.npy") as partial, open(partial, "wb") as file:
            np.save(file, self.pictures)
        about = {
            "key": self.key,
            "fingerprint": self.fingerprint,
            "pictures": len(self),
            "sha256": self.digest,
            "style_names": list(self.style_names),
            "object_names": list(self.object_names),
            "styles": self.styles.tolist(),
            "objects": self.objects.tolist(),
            "seeds": self.seeds.tolist(),
            "prompts": list(self.prompts),
            "seconds": self.seconds,
            "peak_memory_gb": self.peak_memory_gb,
        }
        files.write_json(folder / "answers.json", about)

    @classmethod
    def load(cls, folder: Path | str) -> AnswerSet:
        """Read what ``save`` wrote; the pictures stay on disk until they are looked at.

        Raises:
            UsageError: if the folder holds no whole answer set.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
            pictures = np.load(folder / "pictures.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{folder} holds no whole answer set ({error}); delete it to draw it again."
            ) from error
        if len(pictures) != about["pictures"]:
            raise CountMismatch(
                f"{folder} should hold {about['pictures']} pictures and holds {len(pictures)}."
            )
        arrays = {name: np.array(about[name]) for name in ("styles", "objects", "seeds")}
        names = {name: tuple(about[name]) for name in ("style_names", "object_names", "prompts")}
        return cls(
            pictures, **arrays, **names, fingerprint=about["fingerprint"], key=about["key"],
            seconds=about["seconds"], peak_memory_gb=about["peak_memory_gb"],
        )  # fmt: skip

    def export(self, folder: Path | str, suffix: str = ".png") -> None:
        """Write one file a picture, named as UnlearnCanvas names them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for picture, s, o, seed in zip(
            self.pictures, self.styles, self.objects, self.seeds, strict=True
        ):
            name = answer_name(self.style_names[s], self.object_names[o], int(seed))
            Image.fromarray(picture).save(folder / Path(name).with_suffix(suffix))

    @classmethod
    def from_files(cls, folder: Path | str, protocol: Protocol) -> AnswerSet:
        """Read the pictures of a model that drew them elsewhere, ``<Theme>_<Object>_seed<n>.jpg``.

        Raises:
            UsageError: for a file that is not of this protocol, or cannot be read.
            CountMismatch: if a cell and seed has no picture; names the first.
        """
        plan, folder = grid_plan(protocol), Path(folder)
        found: dict[tuple[str, str, int], Path] = {}
        for path in sorted(p for p in folder.glob("*") if not p.name.startswith(".")):
            found[parse_answer_name(path.name, protocol.card)] = path
        cells = [
            (plan.style_names[s], plan.object_names[o], int(seed))
            for s, o, seed in zip(plan.styles, plan.objects, plan.seeds, strict=True)
        ]
        missing = [cell for cell in cells if cell not in found]
        if missing:
            raise CountMismatch(
                f"{folder} should hold {len(cells)} pictures of {protocol.name};"
                f" {len(missing)} are missing, e.g. {answer_name(*missing[0])}."
            )
        pictures = np.stack([read_picture(found[cell], protocol.size) for cell in cells])
        fingerprint = sha256(pictures.data).hexdigest()
        return _answer_set(plan, pictures, fingerprint, plan.key(fingerprint), 0.0, 0.0)


def generate(
    model: Denoiser,
    protocol: Protocol,
    folder: Path | str | None = None,
    batch: int | None = None,
    plan: Plan | None = None,
    share: tuple[int, int] | None = None,
) -> AnswerSet:
    """Draw an answer set, or read it if it was drawn before.

    Args:
        model: draws.
        protocol: says what and how.
        folder: answer sets are kept below it, one sub-folder a key (model fingerprint, prompts,
            seeds, sampler), so that several models share one folder and the original is drawn
            once; None keeps nothing.
        batch: pictures at once, the protocol's by default.
        plan: other pictures than the protocol's grid.
        share: (k, n) draws every n-th batch only, and waits for the others' files; by default
            from the environment of a launched job (RANK and WORLD_SIZE).

    Raises:
        RunError: if a part on disk is damaged.
    """
    plan = plan or grid_plan(protocol)
    fingerprint = model.fingerprint()
    key = plan.key(fingerprint)
    place = Path(folder) / key[:16] if folder is not None else None
    if place and (place / "answers.json").is_file():
        return AnswerSet.load(place)
    number, processes = share or _launched()
    if processes > 1 and place is None:
        raise UsageError("Several processes need a folder in common for the answer set.")
    parts = _Parts(place, len(plan))
    size = batch or protocol.batch
    # by place, not by position in the list: a process that starts later finds fewer missing
    todo = [r for r in parts.missing(size) if r.start // size % processes == number]
    artist = _Artist(model, protocol, plan)
    for rows in track(todo, f"drawing {len(plan)} pictures", 0, len(todo)):
        started = time.perf_counter()
        parts.add(rows, artist.draw(rows), time.perf_counter() - started)
    if number > 0:
        return _await(place)
    if processes > 1:
        parts.wait()
    pictures, seconds = parts.joined()
    answers = _answer_set(plan, pictures, fingerprint, key, seconds, peak_memory_gb())
    if place:
        answers.save(place)
        parts.clear()
    return answers


def _answer_set(plan, pictures, fingerprint, key, seconds, memory) -> AnswerSet:
    return AnswerSet(
        pictures, plan.styles, plan.objects, plan.seeds, plan.style_names, plan.object_names,
        plan.prompts, fingerprint, key, seconds, memory,
    )  # fmt: skip


class _Artist:
    """Draws rows of a plan; every text is encoded once, or once a batch for long tables."""

    def __init__(self, model: Denoiser, protocol: Protocol, plan: Plan):
        self.model, self.protocol, self.plan = model, protocol, plan
        self.states = None
        if plan.remember:
            texts = list(dict.fromkeys(plan.prompts))
            self.row_of = {text: row for row, text in enumerate(texts)}
            self.states = model.encode_prompt(texts)
        negative = protocol.negative
        self.negative = model.encode_prompt([negative]) if negative else None
        channels, height, width = model.latent_shape
        self.scale = model.pipeline.vae_scale_factor
        if protocol.size:
            height = width = protocol.size // self.scale
        self.shape = (channels, height, width)

    def draw(self, rows: Sequence[int]) -> np.ndarray:
        """[len(rows), H, W, 3] uint8."""
        drawn: dict[int, np.ndarray] = {}
        for places, guidance, size in self.plan.alike(rows):
            picked = [rows[place] for place in places]
            drawn.update(zip(places, self._draw(picked, guidance, size), strict=True))
        pictures = np.stack([drawn[place] for place in range(len(rows))])
        if self.protocol.jpeg_quality:
            pictures = np.stack([_through_jpeg(p, self.protocol.jpeg_quality) for p in pictures])
        return pictures

    def _draw(
        self, rows: Sequence[int], guidance: float | None, size: tuple[int, int] | None
    ) -> Iterable[np.ndarray]:
        """Pictures of one size and guidance; those of their own size are fitted into the set's."""
        shape = self.shape
        if size is not None:
            shape = (shape[0], size[0] // self.scale, size[1] // self.scale)
        text = self._text(rows)
        latents = self.plan.latents(rows, shape).to(self.model.device)
        half = self.protocol.precision == "bf16"
        guidance = self.protocol.guidance if guidance is None else guidance
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=half):
            drawn = self.model.sample(
                text, latents, steps=self.protocol.steps, guidance=guidance,
                negative=self.negative,
            )  # fmt: skip
            pictures = self.model.decode(drawn)
        if size is None:
            return pictures
        return [_fitted(picture, self.scale * max(self.shape[1:])) for picture in pictures]

    def _text(self, rows: Sequence[int]) -> TextStates:
        texts = [self.plan.prompts[row] for row in rows]
        if self.states is not None:
            return self.states[[self.row_of[text] for text in texts]]
        with torch.no_grad():
            # each by itself, as encode_prompt does, but nothing is remembered
            states = {t: self.model.encode_prompt_with_grad([t]) for t in dict.fromkeys(texts)}
        return TextStates.cat([states[text] for text in texts])


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture scaled until its longer side fits, with black to the right or below."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer != side:
        size = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
        picture = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    below, right = side - picture.shape[0], side - picture.shape[1]
    return np.pad(picture, ((0, below), (0, right), (0, 0)))


def _through_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """What is left of a picture after PIL has written and read it as a JPEG file."""
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "JPEG", quality=quality)
    return np.asarray(Image.open(memory).convert("RGB"))


class _Parts:
    """Finished batches, in a folder or in memory: ``part-<first>-<one past the last>.npz``."""

    def __init__(self, folder: Path | None, total: int):
        self.folder, self.total = folder, total
        self.memory: dict[tuple[int, int], tuple[np.ndarray, float]] = {}

    def spans(self) -> list[tuple[int, int]]:
        """What is there, without overlap, in order."""
        found = list(self.memory)
        if self.folder:
            names = (path.stem.split("-")[1:] for path in self.folder.glob("part-*.npz"))
            found = [(int(first), int(last)) for first, last in names]
        kept: list[tuple[int, int]] = []
        for span in sorted(found):
            if not kept or span[0] >= kept[-1][1]:
                kept.append(span)
        return kept

    def missing(self, batch: int) -> list[range]:
        """Batches yet to be drawn; the same ones for the same parts, so their bytes repeat."""
        spans = [*self.spans(), (self.total, self.total)]
        gaps = zip([0, *(last for _, last in spans)], [first for first, _ in spans])
        return [
            range(start, min(start + batch, stop))
            for first, stop in gaps
            for start in range(first, stop, batch)
        ]

    def add(self, rows: range, pictures: np.ndarray, seconds: float) -> None:
        if self.folder is None:
            self.memory[rows.start, rows.stop] = (pictures, seconds)
            return
        path = self.folder / f"part-{rows.start:08d}-{rows.stop:08d}.npz"
        with files.replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, pictures=pictures, seconds=seconds)

    def wait(self) -> None:
        """Until the other processes have written their batches."""
        while self.missing(self.total):
            time.sleep(0.2)

    def joined(self) -> tuple[np.ndarray, float]:
        read = [self._read(span) for span in self.spans()]
        pictures = np.concatenate([pictures for pictures, _ in read])
        if len(pictures) != self.total:
            raise CountMismatch(
                f"{self.total} pictures were to be drawn, {len(pictures)} are there."
            )
        return pictures, sum(seconds for _, seconds in read)

    def _read(self, span: tuple[int, int]) -> tuple[np.ndarray, float]:
        if self.folder is None:
            return self.memory[span]
        path = self.folder / f"part-{span[0]:08d}-{span[1]:08d}.npz"
        try:
            with np.load(path) as part:
                return part["pictures"], float(part["seconds"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(f"{path} is damaged; delete it and run again to redraw it.") from error

    def clear(self) -> None:
        for path in self.folder.glob("part-*.npz"):
            path.unlink()


def _launched() -> tuple[int, int]:
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _await(place: Path) -> AnswerSet:
    """The answer set, once the first process has joined it."""
    while not (place / "answers.json").is_file():
        time.sleep(0.2)
    return AnswerSet.load(place)


def batches(pictures: np.ndarray, size: int = 64) -> Iterator[np.ndarray]:
    """Blocks [<= size, H, W, 3] of pictures, in order."""
    for start in range(0, len(pictures), size):
        yield np.asarray(pictures[start : start + size])
