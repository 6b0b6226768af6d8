"""Tables of prompts: a CSV file of somebody else's columns, read into rows that can be drawn."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError, nearest
from .prompts import PromptFile

Row = Mapping[str, str]


@dataclass(frozen=True)
class PromptTable:
    """Rows to be drawn, in the order of the file.

    Attributes:
        ids: [N] names of the rows.
        prompts: [N] texts.
        seeds: [N] seeds of the first latents.
        guidances: [N] guidance scales.
        sizes: [N] (height, width) in pixels; None where the table has none.
        pictures: [N] names of the real pictures; None where the table has none.
    """

    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    guidances: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...] | None = None
    pictures: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def order(self) -> list[int]:
        """Rows by size and guidance, otherwise as they come: the order in which they are drawn."""
        sizes = self.sizes or ((0, 0),) * len(self)
        return sorted(range(len(self)), key=lambda row: (sizes[row], self.guidances[row]))

    def pick(self, rows: Sequence[int]) -> PromptTable:
        """The table of these rows alone."""

        def picked(values: Any) -> Any:
            return None if values is None else tuple(values[row] for row in rows)

        return PromptTable(*(picked(getattr(self, name)) for name in self.__dataclass_fields__))


def read_table(source: PromptFile, guidance: float) -> PromptTable:
    """Read the rows that a protocol selects.

    Args:
        source: the file, its columns and the selection.
        guidance: for tables without a column of it.

    Raises:
        UsageError: if the file cannot be read, lacks a column, holds another number of rows than
            was said, or a value does not fit (with the line); or if nothing is left.
    """
    reader = _Reader(source)
    lines = reader.selected()
    columns = source.columns

    def values(name: str, read: Callable[[str], Any]) -> tuple[Any, ...] | None:
        column = reader.column(name)
        return None if column is None else tuple(reader.value(n, r, column, read) for n, r in lines)

    wide, high = values("width", _side), values("height", _side)
    seeds, guidances = values("seed", _seed), values("guidance", _guidance)
    return PromptTable(
        ids=tuple(reader.id(n, row) for n, row in lines),
        prompts=values("prompt", _text),
        seeds=tuple(reader.places[n] for n, _ in lines) if seeds is None else seeds,
        guidances=(float(guidance),) * len(lines) if guidances is None else guidances,
        sizes=None if wide is None else tuple(zip(high, wide, strict=True)),
        pictures=None if columns.picture is None else values("picture", _text),
    )


class _Reader:
    """The lines of a CSV file, by their number in it."""

    def __init__(self, source: PromptFile):
        self.source, self.path = source, source.where
        self.header, self.lines = _read(self.path)
        if not self.header:
            raise UsageError(
                f"The table {self.path} is empty; its first line should name the columns."
            )
        # row number from 0, by line
        self.places = {number: place for place, (number, _) in enumerate(self.lines)}
        if not self.lines:
            raise UsageError(
                f"The table {self.path} holds no prompt, only a header; give one prompt a row."
            )
        if source.count not in (None, len(self.lines)):
            raise UsageError(
                f"The table {self.path} has {len(self.lines):,} rows and the protocol expects"
                f" {source.count:,}; fetch the whole file again, or set `count` to what it has."
            )

    def column(self, name: str) -> str | None:
        """The header's name of a column of the protocol, None if the protocol names none.

        Raises:
            UsageError: if the table lacks it; the nearest is suggested.
        """
        wanted = getattr(self.source.columns, name)
        if wanted is None:
            return None
        found = next((column for column in wanted if column in self.header), None)
        return found or self._lacks(wanted, f"columns.{name}")

    def _lacks(self, wanted: Sequence[str], key: str) -> str:
        guess = next((g for name in wanted if (g := nearest(name, self.header))), None)
        meant = f" Did you mean {guess!r}?" if guess else ""
        raise UsageError(
            f"The table {self.path} has no column {' or '.join(map(repr, wanted))}.{meant} It has:"
            f" {', '.join(self.header)}. Say which one it is in the protocol, {key}."
        )

    def selected(self) -> list[tuple[int, Row]]:
        """(line, row) of the rows that the protocol asks for."""
        kept, rows = self.lines, self.source.rows
        for column, texts in rows.where.items():
            if column not in self.header:
                self._lacks([column], "rows.where")
            needles = [text.lower() for text in texts]
            kept = [(n, row) for n, row in kept if any(t in row[column].lower() for t in needles)]
        if rows.ids is not None:
            kept = self._with_ids(kept, rows.ids.where)
        if not kept:
            raise UsageError(
                f"The selection `rows` leaves none of the {len(self.lines):,} prompts of"
                f" {self.path}; see what its columns hold."
            )
        return kept[: self.source.limit]

    def _with_ids(self, lines: list[tuple[int, Row]], path: Path) -> list[tuple[int, Row]]:
        wanted = _ids(path)
        known = {self.id(n, row) for n, row in self.lines}
        missing = [one for one in wanted if one not in known]
        if missing:
            raise UsageError(
                f"{path} names {len(missing):,} rows that {self.path} does not have, e.g."
                f" {missing[0]!r}; columns.id says which column holds the ids"
                f" (now {self.column('id') or 'the row number from 0'})."
            )
        return [(n, row) for n, row in lines if self.id(n, row) in wanted]

    def id(self, number: int, row: Row) -> str:
        column = self.column("id")
        return str(self.places[number]) if column is None else row[column].strip()

    def value(self, number: int, row: Row, column: str, read: Callable[[str], Any]) -> Any:
        try:
            return read(row[column].strip())
        except ValueError as error:
            raise UsageError(
                f"The table {self.path}, line {number}, column {column!r}: {error}."
            ) from error


def _read(path: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            header = list(reader.fieldnames or ())
            lines = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UsageError(f"The table {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"The table {path} is not a CSV file in UTF-8 ({error}); save it as one."
        ) from error
    return header, lines


def _ids(path: Path) -> dict[str, None]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The list of row ids {path} cannot be read ({error}).") from error
    return dict.fromkeys(line for line in lines if line and not line.startswith("#"))


def _text(text: str) -> str:
    if not text:
        raise ValueError("it is empty; fill it or take the row out")
    return text


def _seed(text: str) -> int:
    # tables written by pandas hold whole numbers as 12.0
    whole = text.removesuffix(".0")
    if not whole.isdecimal() or int(whole) >= 2**63:
        raise ValueError(f"a seed is a whole number from 0, not {text!r}")
    return int(whole)


def _guidance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"a guidance scale is a number from 0, not {text!r}")
    return value


def _side(text: str) -> int:
    whole = text.removesuffix(".0")
    if not whole.isdecimal() or int(whole) == 0 or int(whole) % 8:
        raise ValueError(f"a width or height is a multiple of 8 pixels, not {text!r}")
    return int(whole)
