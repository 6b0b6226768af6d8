"""What an edit did to everything else: pictures of everyday captions, by CLIP score and FID.

Captions are drawn in lots, and of each lot only the features are kept in memory, so that tens of
thousands of pictures of 512 pixels need no more than one lot.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import files
from ..data.folders import read_picture
from ..errors import CountMismatch, RunError, UsageError
from ..metrics.clip import clip_scores
from ..metrics.frechet import frechet_from_features
from ..progress import track
from .answers import batches, generate
from .features import ClipExtractor, Extractor, inception_extractors
from .judges import ClipModel, load_clip
from .plan import table_plan
from .prompt_table import PromptTable, read_table
from .prompts import CaptionFid, PromptProtocol
from .protocol import LocalFile, digest
from .scorecard import Metric

if TYPE_CHECKING:
    from ..models.diffusion import DiffusionModel

LOT = 1024
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass
class Drawn:
    """What is known of the captions' pictures of one model.

    Attributes:
        clip: [N, D] CLIP image features, None without CLIP.
        features: name of a distance -> [N, D].
        prompts: [N], in the same order.
        keys: names of the answer sets, one a lot.
        seconds: of drawing.
    """

    clip: np.ndarray | None
    features: dict[str, np.ndarray]
    prompts: tuple[str, ...]
    keys: list[str] = field(default_factory=list)
    seconds: float = 0.0


class CaptionBench:
    """The networks that look at the captions' pictures, loaded once.

    Raises:
        UsageError: if a file is missing or does not hold what it should.
    """

    def __init__(self, protocol: PromptProtocol, device: torch.device | str = "cpu"):
        self.protocol, self.spec = protocol, protocol.captions
        clip, fid = self.spec.clip, self.spec.fid
        plain = isinstance(clip, LocalFile) and not hasattr(clip, "architecture")
        self.clip: ClipModel | None = None
        if clip is not None:
            self.clip = load_clip(clip.where if plain else clip, device)
        self.extractors: list[Extractor] = []
        if fid is not None:
            self.extractors = inception_extractors(fid.inception, fid.torchvision, device)
            if fid.clip:
                self.extractors.insert(0, ClipExtractor(self.clip))
        looked = [("clip", self.clip.fingerprint)] if self.clip else []
        self.key = digest("captions 1", looked, [(e.name, e.fingerprint) for e in self.extractors])

    def measure(
        self, model: DiffusionModel, folder: Path | str | None = None, batch: int | None = None
    ) -> tuple[list[Metric], Drawn]:
        """Draw the captions and measure them.

        Args:
            model: draws.
            folder: pictures and features are kept below ``<folder>/captions``, so that a stopped
                evaluation goes on.
            batch: pictures at once, the protocol's by default.

        Raises:
            UsageError: if the captions or real pictures cannot be used.
            CountMismatch: if a caption's real picture is missing.
        """
        spec, protocol = self.spec, self.protocol
        table = read_table(spec, protocol.guidance if spec.guidance is None else spec.guidance)
        if spec.fid is not None and len(table) < 2:
            raise UsageError("A Frechet distance needs at least 2 captions; give more of them.")
        place = None if folder is None else Path(folder) / "captions"
        drawn = self._draw(model, table, place, batch)
        found = []
        if self.clip is not None:
            scores = clip_scores(drawn.clip, self._texts(drawn.prompts))
            found.append(
                Metric("clip_score", float(scores.mean()), len(table), len(scores), None,
                       self.clip.name)
            )  # fmt: skip
        if spec.fid is not None:
            found += self._distances(spec.fid, table, drawn, place)
        return found, drawn

    def _draw(self, model, table: PromptTable, place: Path | None, batch: int | None) -> Drawn:
        lots, drawn = [], Drawn(None, {}, ())
        for start in range(0, len(table), LOT):
            plan = table_plan(self.protocol, table.pick(range(start, min(start + LOT, len(table)))))
            answers = generate(model, self.protocol, place, batch, plan)
            kept = None
            if place is not None:
                kept = place / answers.key[:16] / f"features-{self.key[:16]}.npz"
            lots.append(_kept(kept, lambda pictures=answers.pictures: self._look(pictures)))
            drawn.keys.append(answers.key)
            drawn.prompts += plan.prompts
            drawn.seconds += answers.seconds
        together = {name: np.concatenate([lot[name] for lot in lots]) for name in lots[0]}
        drawn.clip = together.pop("clip", None)
        drawn.features = together
        return drawn

    def _look(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Features [N, D] by name, CLIP's as ``clip``."""
        found: dict[str, list[np.ndarray]] = {}
        for block in batches(pictures):
            if self.clip is not None:
                found.setdefault("clip", []).append(self.clip.image_features(block))
            for extractor in self.extractors:
                same = isinstance(extractor, ClipExtractor)
                seen = found["clip"][-1] if same else extractor.features(block)
                found.setdefault(extractor.name, []).append(seen)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _texts(self, prompts: Sequence[str]) -> np.ndarray:
        texts = list(dict.fromkeys(prompts))
        row_of = {text: row for row, text in enumerate(texts)}
        return self.clip.text_features(texts)[[row_of[prompt] for prompt in prompts]]

    def _distances(
        self, fid: CaptionFid, table: PromptTable, drawn: Drawn, place: Path | None
    ) -> list[Metric]:
        paths = real_pictures(fid, table)
        about = [(str(path), path.stat().st_size) for path in paths]
        kept = None
        if place is not None:
            kept = place / f"reference-{digest('reference 1', about, self.key)[:16]}.npz"
        real, found = _kept(kept, lambda: self._look_at_files(paths)), []
        for extractor in self.extractors:
            started, name = time.perf_counter(), extractor.name
            value = frechet_from_features(drawn.features[name], real[name])
            details = {"reference_pictures": len(paths), "dimensions": real[name].shape[1]}
            found.append(
                Metric(name, value, len(table), len(drawn.features[name]), None, extractor.judge,
                       time.perf_counter() - started, "distance", details)
            )  # fmt: skip
        return found

    def _look_at_files(self, paths: Sequence[Path]) -> dict[str, np.ndarray]:
        """Features of picture files; each is stretched by its network, as drawn ones are."""
        found: dict[str, list[np.ndarray]] = {}
        blocks = list(_alike(paths))
        for block in track(blocks, "looking at the real pictures", 0, len(blocks)):
            for extractor in self.extractors:
                pictures = np.stack([read_picture(path) for path in block])
                found.setdefault(extractor.name, []).append(extractor.features(pictures))
        return {name: np.concatenate(parts) for name, parts in found.items()}


def real_pictures(fid: CaptionFid, table: PromptTable) -> list[Path]:
    """Files of the real pictures: those of the captions, or all of the folder.

    Raises:
        UsageError: if the folder holds fewer than two pictures.
        CountMismatch: if a caption's picture is missing; names the first.
    """
    folder = fid.folder.where
    if table.pictures is not None:
        names = dict.fromkeys(_file_name(fid.picture_name, value) for value in table.pictures)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CountMismatch(
                f"{folder} should hold {len(names):,} pictures of the captions; {len(missing):,}"
                f" are missing, e.g. {missing[0]}."
            )
        return [folder / name for name in names]
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if len(found) < 2:
        raise UsageError(
            f"The folder {folder} should hold the real pictures and holds {len(found)}; a Frechet"
            " distance needs at least 2."
        )
    return found


def _file_name(pattern: str, value: str) -> str:
    # numbers as numbers, for patterns that fill them with zeros
    return pattern.format(int(value) if value.isdecimal() else value)


def _alike(paths: Sequence[Path], most: int = 64) -> Iterator[list[Path]]:
    """Runs of files whose pictures have the same size, so that they can be stacked."""
    from PIL import Image

    block: list[Path] = []
    size: tuple[int, int] | None = None
    for path in paths:
        try:
            with Image.open(path) as image:
                here = image.size
        except OSError as error:
            raise UsageError(f"The picture {path} cannot be read ({error}).") from error
        if block and (here != size or len(block) == most):
            yield block
            block = []
        block.append(path)
        size = here
    if block:
        yield block


def _kept(path: Path | None, look) -> dict[str, np.ndarray]:
    """What a file keeps, or what ``look`` finds, which is kept in it."""
    if path is not None and path.is_file():
        try:
            with np.load(path) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(f"{path} is damaged; delete it and run again.") from error
    found = look()
    # of several processes the first one writes
    if path is not None and int(os.environ.get("RANK", 0)) == 0:
        with files.replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, **found)
    return found
