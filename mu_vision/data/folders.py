"""Load pictures from a local folder in UnlearnCanvas's layout, and read its captions and file names.

    <root>/<Theme>/<Object>/<index>.jpg        a painting; index is a whole number
    <root>/Seed_Images/<Object>/<index>.jpg    the photo that it was painted from

Any names will do; with a dataset card the names are checked against it. Nothing is skipped in
silence: what does not fit the layout is an error that names the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import CountMismatch, UsageError, unknown
from .cards import DatasetCard

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Picture:
    """One picture with its labels.

    Attributes:
        pixels: [H, W, 3] uint8 RGB.
        index: the number in its file name; the same index in another theme is the same scene.
    """

    pixels: np.ndarray
    theme: str
    object: str
    index: int


@dataclass(frozen=True)
class Entry:
    """Where a picture lies, before it is read."""

    path: Path
    theme: str
    object: str
    index: int


class PictureFolder(Sequence[Picture]):
    """The pictures of a folder, read when they are asked for.

    Pictures come in the order theme, object, index; themes and objects in the card's order, or
    sorted by name without a card.

    Args:
        root: the folder.
        card: names that are not in the card are an error.
        indices: keep only these indices, e.g. ``card.split("fid")``.
        themes: keep only these themes.
        objects: keep only these objects.
        size: crop the centre square of each picture and resize it to this many pixels; by
            default pictures are left as they are.

    Attributes:
        entries: one ``Entry`` a picture.
        themes: names of the themes found, in order.
        objects: names of the objects found, in order.

    Raises:
        UsageError: if the folder is missing, holds a theme or object that the card does not
            know, a file that is not ``<index>.jpg``, or no picture for this choice.
    """

    def __init__(
        self,
        root: str | Path,
        card: DatasetCard | None = None,
        indices: Iterable[int] | None = None,
        themes: Iterable[str] | None = None,
        objects: Iterable[str] | None = None,
        size: int | None = None,
    ) -> None:
        self.root, self.card, self.size = Path(root), card, size
        found = list(_scan(self.root, card))
        known_themes = _order({e.theme for e in found}, _themes(card))
        known_objects = _order({e.object for e in found}, card.object_names if card else [])
        self.themes = _choose("theme", themes, known_themes, self.root)
        self.objects = _choose("object", objects, known_objects, self.root)
        wanted = None if indices is None else set(indices)
        rank = {name: k for k, name in enumerate([*known_themes, *known_objects])}
        self.entries = sorted(
            (
                e
                for e in found
                if e.theme in self.themes
                and e.object in self.objects
                and (wanted is None or e.index in wanted)
            ),
            key=lambda e: (rank[e.theme], rank[e.object], e.index),
        )
        if not self.entries:
            chosen = " for this choice of themes, objects and indices" if found else ""
            raise UsageError(
                f"The data set {self.root} has no picture{chosen}; pictures must lie at "
                f"{self.root}/<Theme>/<Object>/<index>.jpg."
            )

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, k: int) -> Picture:
        entry = self.entries[k]
        pixels = read_picture(entry.path, self.size)
        return Picture(pixels, entry.theme, entry.object, entry.index)

    def __iter__(self) -> Iterator[Picture]:
        return (self[k] for k in range(len(self)))

    def counts(self) -> Counter[tuple[str, str]]:
        """Pictures of each (theme, object)."""
        return Counter((e.theme, e.object) for e in self.entries)

    def require(self, per_cell: int) -> None:
        """Check that every theme has this many pictures of every object.

        Raises:
            CountMismatch: names the first cell that has not.
        """
        counts = self.counts()
        for theme in self.themes:
            for thing in self.objects:
                if counts[theme, thing] != per_cell:
                    raise CountMismatch(
                        f"The data set {self.root} should have {per_cell} pictures of "
                        f"{theme}/{thing} and has {counts[theme, thing]}."
                    )


def read_picture(path: str | Path, size: int | None = None) -> np.ndarray:
    """Read a picture as RGB.

    Returns:
        [H, W, 3] uint8; with ``size`` the centre square, resized to [size, size, 3].

    Raises:
        UsageError: if the file is not a picture, or is cut short.
    """
    try:
        with Image.open(path) as image:
            image = image.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "it is not a picture" if isinstance(error, UnidentifiedImageError) else error
        raise UsageError(f"The picture {path} cannot be read: {reason}.") from error
    if size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        image = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image)


def answer_name(theme: str, object: str, seed: int) -> str:
    """File name of a picture of an answer set: ``Van_Gogh_Dogs_seed188.jpg``."""
    return f"{theme}_{object}_seed{seed}.jpg"


def parse_answer_name(name: str, card: DatasetCard) -> tuple[str, str, int]:
    """Invert ``answer_name``: theme, object and seed.

    Themes contain ``_`` themselves, so the name is read with the card's lists, never by splitting.

    Raises:
        UsageError: if the name does not fit, or two readings of it are possible.
    """
    found = re.fullmatch(r"(.+)_seed(\d+)\.(?:jpe?g|png|webp)", name)
    pairs = [
        (theme, thing)
        for theme in _themes(card)
        for thing in card.object_names
        if found and f"{theme}_{thing}" == found[1]
    ]
    if len(pairs) != 1:
        fault = "can be read in two ways" if pairs else "is not <Theme>_<Object>_seed<seed>.jpg"
        raise UsageError(f"The file name {name!r} {fault} with the names of {card.title}.")
    return *pairs[0], int(found[2])


def parse_caption(caption: str, card: DatasetCard) -> tuple[str, str]:
    """Read theme and object from a caption of the hub's ``text`` column.

    ``"An Architectures image in Red Blue Ink style"`` -> ``("Red_Blue_Ink", "Architectures")``;
    the style ``photo`` is the card's ``photo_style``.

    Raises:
        UsageError: if the caption does not have exactly this form with names of the card.
    """
    # the template comes from the card: only its words are matched literally
    words = re.escape(card.hub_template or card.template).replace(r"\ ", " ")
    words = re.sub(r"^An? ", "An? ", words)
    pattern = words.replace(r"\{object\}", "(?P<object>.+)").replace(r"\{style\}", "(?P<style>.+)")
    found = re.fullmatch(pattern, caption)
    if found:
        texts = {name.replace("_", " "): name for name in _themes(card)}
        if card.photo_style:
            texts["photo"] = card.photo_style
        things = {name.replace("_", " "): name for name in card.object_names}
        theme, thing = texts.get(found["style"]), things.get(found["object"])
        if theme and thing and caption.startswith("An ") == (thing[0] in "AEIOU"):
            return theme, thing
    raise UsageError(
        f"The caption {caption!r} does not say a style and an object of {card.title}; "
        f"it should read like {(card.hub_template or card.template)!r}."
    )


def number_captions(
    captions: Iterable[str], card: DatasetCard, per_cell: int | None = None
) -> list[tuple[str, str, int]]:
    """Theme, object and index of every row of the hub's table.

    The hub has lost the index, so the rows of a cell are numbered 1, 2, ... in row order; that
    index n of a painting and of a photo show the same scene is then an assumption.

    Args:
        captions: the ``text`` column, in row order.
        card: the names.
        per_cell: how many rows each cell must have (the card's ``per_cell`` by default).

    Raises:
        UsageError: if a caption cannot be read.
        CountMismatch: if a cell that occurs has more or fewer rows.
    """
    seen: Counter[tuple[str, str]] = Counter()
    rows = []
    for caption in captions:
        cell = parse_caption(caption, card)
        seen[cell] += 1
        rows.append((*cell, seen[cell]))
    expected = per_cell or card.per_cell
    for (theme, thing), count in seen.items():
        if expected is not None and count != expected:
            raise CountMismatch(
                f"{card.title} should have {expected} rows of {theme}/{thing}, there are {count}."
            )
    return rows


def _themes(card: DatasetCard | None) -> list[str]:
    return [*card.styles, *card.extra_styles] if card else []


def _order(names: set[str], order: list[str]) -> list[str]:
    return [n for n in order if n in names] if order else sorted(names)


def _choose(kind: str, wanted: Iterable[str] | None, known: list[str], root: Path) -> list[str]:
    if wanted is None:
        return known
    wanted = list(wanted)
    for name in wanted:
        if name not in known:
            raise unknown(f"{kind} folder in {root} named", name, known)
    return [name for name in known if name in wanted]


def _folders(path: Path) -> list[Path]:
    """Sub-folders by name, without hidden ones."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _scan(root: Path, card: DatasetCard | None) -> Iterator[Entry]:
    if not root.is_dir():
        advice = f" {card.fetch}" if card and card.fetch else ""
        raise UsageError(f"There is no folder {root}.{advice}")
    for theme in _folders(root):
        if card and theme.name not in _themes(card):
            raise unknown(f"theme of {card.title}", theme.name, _themes(card))
        for thing in _folders(theme):
            if card and thing.name not in card.objects:
                raise unknown(f"object of {card.title}", thing.name, card.objects)
            for path in sorted(thing.iterdir()):
                if path.name.startswith("."):
                    continue
                if path.suffix.lower() not in SUFFIXES or not re.fullmatch(r"[0-9]+", path.stem):
                    raise UsageError(
                        f"{path} does not fit the layout: pictures are named <index>.jpg, "
                        f"with a whole number."
                    )
                yield Entry(path, theme.name, thing.name, int(path.stem))
