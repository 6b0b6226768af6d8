"""Folders of faces with their ages, as AgeDB and IMDB-Wiki lay them out; 32x32 RGB in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from .. import seeding
from ..errors import UsageError
from .cards import missing
from .measured import Measured
from .samples import Splits

# INDEX_NAME_AGE_GENDER, as in 12_MariaCallas_35_f
AGEDB = re.compile(r"\d+_(?P<who>.+)_(?P<age>\d+)_[fm]")
# ID_..._BIRTH_YEAR, as in nm0000001_rm124825600_1899-5-10_1968 and 23300_1962-06-19_2011
IMDB_WIKI = re.compile(r"(?P<who>nm\d+|\d+)_(?:rm\d+_)?(?P<born>\d{4})-\d+-\d+_(?P<taken>\d{4})")
AGES = (1, 100)
HELD_OUT = 0.1  # share that is the test set where no table says so
COLUMNS = ("path", "age", "split")


def faces(name: str, pattern: re.Pattern[str]) -> Callable[[Path], Splits]:
    """A reader of pictures whose names say whom they show and at what age.

    A table ``NAME.csv`` with the columns ``path``, ``age`` and ``split`` (train, val or test), as
    the published code reads it, decides which pictures are used and how they are split; without it
    all are, and a tenth is held out. Pictures of ages outside 1 to 100 are left out, and the name of
    the data set says how many.

    Args:
        name: of the data set and its card.
        pattern: of a picture's name without suffix, with the groups ``who``, and ``age`` or ``born``
            and ``taken``.
    """

    def read(root: Path) -> Splits:
        if not root.is_dir():
            raise missing(name, root, "there is no such folder")
        table = root / f"{name}.csv"
        rows = _listed(table) if table.is_file() else _found(root, pattern)
        if not len(rows):
            raise missing(name, root, "there is no picture")
        used = rows[rows.age.between(*AGES)]
        left_out = len(rows) - len(used)
        told = [pattern.fullmatch(Path(path).stem) for path in used.path]
        used = used.assign(who=[match["who"] if match else "unknown" for match in told])
        names = tuple(sorted(set(used.who)))
        sides = [_part(root, used[used.split == part], names) for part in ("train", "test")]
        if not all(map(len, sides)):
            raise UsageError(f"{root} has no training or no test pictures of ages 1 to 100.")
        note = f" without {left_out} of no plausible age" if left_out else ""
        return Splits(f"{name}{note}", *sides, augment=True)

    return read


def _listed(table: Path) -> pd.DataFrame:
    rows = pd.read_csv(table)
    lacks = sorted(set(COLUMNS) - set(rows.columns))
    if lacks:
        raise UsageError(f"{table} lacks the column {lacks[0]}; it needs {', '.join(COLUMNS)}.")
    return rows


def _found(root: Path, pattern: re.Pattern[str]) -> pd.DataFrame:
    return pd.DataFrame(_told(root, pattern), columns=list(COLUMNS))


def _told(root: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, int, str]]:
    for path in sorted(root.rglob("*.jpg")):
        told = pattern.fullmatch(path.stem)
        if told is None:
            raise UsageError(
                f"The name of {path} does not say whom it shows and at what age; take it out of the"
                f" folder, or list the pictures to use in a table with {', '.join(COLUMNS)}."
            )
        parts = told.groupdict()
        age = parts["age"] if "age" in parts else int(parts["taken"]) - int(parts["born"])
        # a function of the name: the split does not move when pictures are added
        held_out = seeding.seed_of("faces", path.stem) < HELD_OUT * 2**63
        yield str(path.relative_to(root)), int(age), "test" if held_out else "train"


def _part(root: Path, rows: pd.DataFrame, names: tuple[str, ...]) -> Measured:
    who = torch.from_numpy(np.searchsorted(names, rows.who.to_numpy(str)))
    ages = torch.tensor(rows.age.to_numpy(np.float32))
    return Measured(_pictures([root / path for path in rows.path]), ages, who, names)


def _pictures(paths: Sequence[Path], size: int = 32) -> torch.Tensor:
    """[N, 3, size, size] in [0, 1]; stretched, as the published code does."""
    x = torch.empty(len(paths), 3, size, size)
    for n, path in enumerate(paths):
        try:
            with Image.open(path) as picture:
                small = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        except OSError as error:
            raise UsageError(f"The picture {path} cannot be read ({error}).") from error
        x[n] = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
    return x
