"""What is measured and how: one YAML file in ``eval/`` a benchmark, read into a ``Protocol``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from .. import resources
from ..data.cards import DatasetCard, load_card
from ..errors import MissingFiles, UsageError, unknown
from ..metrics.rates import Grid
from ..validation import merged, read_yaml_file, validated

if TYPE_CHECKING:
    from .class_protocol import ClassProtocol
    from .prompts import PromptProtocol


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LocalFile(Strict):
    """A file that the user has to fetch; a relative path is below $MU_VISION_DATA or here."""

    path: str
    fetch: str = Field("", description="one phrase: what the file is and where it comes from")

    @property
    def where(self) -> Path:
        root = os.environ.get("MU_VISION_DATA", "")
        return Path(root, self.path) if root else Path(self.path)


class JudgeFile(LocalFile):
    """Weights of a ``timm`` classifier that come without a description of their own.

    Attributes:
        architecture: timm model name; its head is replaced by one of ``classes``.
        classes: class names by index; the card's styles or objects in their order by default.
        state_key: key of the weights in the checkpoint, if they are nested.
        test_accuracy: share of held-out pictures that it names rightly, if it is known.
    """

    architecture: str
    classes: tuple[str, ...] | None = None
    input_size: int = 224
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    state_key: str | None = None
    test_accuracy: float | None = Field(None, ge=0, le=1)


class ClipFile(LocalFile):
    """Weights of an ``open_clip`` architecture."""

    architecture: str


class Judges(Strict):
    """Who says what a picture shows: names of embedded judges, folders, or weight files."""

    style: str | JudgeFile
    object: str | JudgeFile


class Fid(Strict):
    """Which Frechet distances are taken, and from which real pictures.

    Each kind of features has a name of its own, so that they never share a column:
    ``fid_clip`` (CLIP image features), ``fid`` (pytorch-fid's Inception features), and
    ``fid_unlearncanvas`` (torchvision's Inception, prepared as UnlearnCanvas's script does).

    Attributes:
        clip: take ``fid_clip`` (needs the protocol's ``clip``).
        inception: pytorch-fid's weights file; ``fid`` is taken when it is given.
        torchvision: torchvision's Inception weights; ``fid_unlearncanvas`` when it is given.
        folder: folder of the real pictures, for a data set that is not rendered.
        split: the card's split that they come from.
        per_cell: how many of the split for each style and object; all by default.
        exclude_target: leave the forgotten cells out on both sides.
    """

    clip: bool = True
    inception: LocalFile | None = None
    torchvision: LocalFile | None = None
    folder: LocalFile | None = None
    split: str = "test"
    per_cell: int | None = Field(None, ge=1)
    exclude_target: bool = True


class Wordings(Strict):
    """How the target is asked for in words that no eraser was given; see ``wordings.py``.

    Attributes:
        texts: of each sort (other sentences, other names) a cell of the target.
        seeds: the protocol's first so many seeds.
    """

    texts: int = Field(3, ge=1)
    seeds: int = Field(1, ge=1)


class Minimum(Strict):
    """Below these accuracies the protocol is void: its numbers would mean nothing."""

    judge: float = Field(0.95, ge=0, le=1, description="of each judge on held-out real pictures")
    original: float = Field(0.85, ge=0, le=1, description="of the original on its own answers")


class Collapse(Strict):
    """When pictures count as ruined, so that UA says nothing; see ``quality.py``.

    Attributes:
        drop: largest loss against the original, as a share in [0, 1].
        fid_ratio: largest Frechet distance, as a multiple of the original's.
    """

    drop: float = Field(0.25, gt=0, lt=1)
    fid_ratio: float = Field(2.0, gt=1)


class Robustness(Strict):
    """How an erased model is attacked.

    Attributes:
        seeds: every prompt of the concept is asked once with each; together they are the cases.
        most: the first so many cases alone; all by default.
        examples: pictures of the concept (and without it) that attacks may learn from.
        attacks: label -> settings; the label is the attack's name, unless the settings give
            ``attack``. ``false`` leaves one out.
        never_knew: concept -> model that was trained without it, for the false-alarm floor.
        controls: also attack the original with the name left out, and the model that never knew.
        required_control: below this share of cases on the original a white-box attack is not
            trusted, and the report says so.
        seed: of the attacks' own randomness.
        blur: a report shows the pictures only when asked.
    """

    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    most: int | None = Field(None, ge=1)
    examples: int = Field(16, ge=1)
    attacks: dict[str, dict[str, Any] | Literal[False] | None] = Field(min_length=1)
    never_knew: dict[str, str] = {}
    controls: bool = True
    required_control: float = Field(0.95, ge=0, le=1)
    seed: int = Field(0, ge=0)
    blur: bool = False


class Protocol(Strict):
    """One benchmark: prompts x seeds, sampler, judges, and what counts.

    Attributes:
        dataset: name of the dataset card, which gives styles, objects and prompts.
        styles: a part of the card's styles (a lite protocol); all by default.
        objects: a part of the card's objects.
        noise: where a picture's first latent comes from. ``per_cell``: a pure function of (seed,
            style, object). ``shared``: one latent a seed for all cells, drawn from a CPU
            generator with that seed. ``stream``: drawn one cell after the other from a CPU
            generator with that seed, styles x objects in order. The last two reproduce published
            samplers. Original and edited model always get the same latents.
        size: side of the square pictures in pixels, a multiple of 8; the model's own by default.
        precision: ``no`` for float32, or ``bf16`` autocast.
        batch: pictures at once; no part of what the pictures are (see ``answers.TOLERANCE``).
        seed_theme_prompt: template for the photo style, where samplers used another than the
            card's.
        include_seed_theme: count the photo style in UA, IRA and CRA.
        cra_scope: ``all`` cells as UnlearnCanvas's script, or ``retain``, without the target's.
        jpeg_quality: pass pictures through a JPEG first, as published numbers did.
        concept_pictures: pictures drawn for a request in free words.
        wordings: ask for the target in other words too; not at all by default.
        nearest: so many retained concepts nearest to the target, by CLIP features of real pictures,
            are also measured by themselves; 0 for none.
        published: table in ``eval/published`` whose rows are set beside ours.
        robustness: how erased models are attacked; not at all by default.
    """

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    title: str = ""
    summary: str = ""
    dataset: str
    styles: tuple[str, ...] | None = Field(None, min_length=1)
    objects: tuple[str, ...] | None = Field(None, min_length=1)
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=0)
    negative: str = ""
    noise: Literal["per_cell", "shared", "stream"] = "per_cell"
    size: int | None = Field(None, ge=8, multiple_of=8)
    precision: Literal["no", "bf16"] = "no"
    batch: int = Field(16, ge=1)
    seed_theme_prompt: str | None = None
    include_seed_theme: bool = False
    cra_scope: Literal["all", "retain"] = "all"
    jpeg_quality: int | None = Field(None, ge=1, le=100)
    concept_pictures: int = Field(50, ge=1)
    wordings: Wordings | None = None
    nearest: int = Field(0, ge=0)
    judges: Judges
    clip: str | ClipFile | None = None
    fid: Fid = Fid()
    minimum: Minimum = Minimum()
    collapse: Collapse = Collapse()
    published: str | None = None
    robustness: Robustness | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        for name in ("seeds", "styles", "objects"):
            values = getattr(self, name) or ()
            if len(set(values)) != len(values):
                raise ValueError(f"{name} holds a value twice")
        return self

    @cached_property
    def card(self) -> DatasetCard:
        """The dataset card.

        Raises:
            UsageError: if there is none, or it lacks a style or object of this protocol.
        """
        card = load_card(self.dataset)
        if not card.styles or not card.objects:
            raise UsageError(
                f"{card.title} has no styles and objects, so {self.name} cannot use it."
            )
        for kind, names, known in (
            ("style", self.styles, card.style_names),
            ("object", self.objects, card.object_names),
        ):
            for name in names or ():
                if name not in known:
                    raise unknown(f"{kind} of {card.title}", name, known)
        return card

    @cached_property
    def grid(self) -> Grid:
        """The cells of an answer set, in the card's order."""
        styles = [s for s in self.card.style_names if self.styles is None or s in self.styles]
        objects = [o for o in self.card.object_names if self.objects is None or o in self.objects]
        return Grid(tuple(styles), tuple(objects), self.card.photo_style, self.include_seed_theme)

    def prompt(self, object: str, style: str) -> str:
        """The prompt of a cell."""
        if self.seed_theme_prompt is not None and style == self.card.photo_style:
            text = self.card.object_text(object)
            return self.seed_theme_prompt.format(object=text)
        return self.card.prompt(object, style)

    def pictures(self) -> int:
        """How many pictures an answer set has."""
        return len(self.grid.styles) * len(self.grid.objects) * len(self.seeds)

    def files(self) -> list[LocalFile]:
        """The files that the user has to have."""
        places = (
            self.judges.style, self.judges.object, self.clip,
            self.fid.inception, self.fid.torchvision, self.fid.folder,
        )  # fmt: skip
        return [place for place in places if isinstance(place, LocalFile)]

    def contents(self) -> dict[str, str]:
        """Hashes of the user's files that decide what is drawn; none for a grid."""
        return {}

    def check_files(self) -> None:
        """Raise if a file or folder is not there.

        Raises:
            UsageError: one sentence that says for each what to fetch and where to put it.
        """
        said = missing_files(self.name, self.files())
        if said:
            raise MissingFiles(said[0])

    def check_names(self) -> None:
        """Look up every name that the protocol uses.

        Raises:
            UsageError: see ``card``.
        """
        _ = self.grid

    def changed(self, changes: Mapping[str, Any], where: str) -> Protocol:
        """The protocol with some values changed; of nested ones only those that are given."""
        return validated(type(self), merged(self.model_dump(), changes), where)


def missing_files(name: str, files: Iterable[LocalFile]) -> list[str]:
    """One sentence that says what to fetch and where to put it; none if everything is there."""
    missing = [file for file in files if not file.where.exists()]
    if not missing:
        return []
    what = "; ".join(f"{f.fetch or 'a file'} as {f.where}" for f in missing)
    return [
        f"The protocol {name} needs files that are not here. Fetch and put: {what}."
        " (Relative paths are below $MU_VISION_DATA if it is set, else below this folder.)"
    ]


def load_protocol(
    name_or_path: str | Path | Protocol | PromptProtocol | ClassProtocol,
) -> Protocol | PromptProtocol | ClassProtocol:
    """Read a protocol by its name (``"minicanvas"``) or from a YAML file.

    ``kind: prompts`` in the file makes it a ``PromptProtocol``, ``kind: classes`` a
    ``ClassProtocol``; without a kind it is a grid.

    Raises:
        UsageError: if there is none, a key is unknown (the nearest is suggested) or a value does
            not fit.
    """
    if not isinstance(name_or_path, str | Path):
        return name_or_path
    path = resources.find("protocol", str(name_or_path))
    where = f"The protocol {path}"
    data = read_yaml_file(path, where)
    protocol = validated(_class_of(data, where), data, where)
    protocol.check_names()  # now, not after an hour of sampling
    return protocol


def _class_of(data: Mapping[str, Any], where: str) -> type[Strict]:
    if "kind" not in data:
        return Protocol
    from .class_protocol import ClassProtocol
    from .prompts import PromptProtocol

    kinds = {"prompts": PromptProtocol, "classes": ClassProtocol}
    if data["kind"] not in kinds:
        raise UsageError(
            f"{where}: there is no kind of protocol {data['kind']!r}. Write kind: prompts for a"
            " table of prompts, kind: classes for the classes of a label-conditional model, or no"
            " kind for a grid of styles and objects."
        )
    return kinds[data["kind"]]


def digest(*parts: Any) -> str:
    """SHA-256 of JSON-like parts: names of what is kept on disk."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
