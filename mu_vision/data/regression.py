"""Data sets with a value a sample: rendered, of scikit-learn, or read from a local folder.

Files are read as their sources lay them out; the card of each says what to fetch and where to put it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..errors import UsageError
from . import gauges
from .cards import missing
from .faces import AGEDB, IMDB_WIKI, faces
from .measured import Measured
from .samples import Splits, read_splits

DIABETES_TEST = 132
WORDS = 10  # of a sentence
STSB_SIDES, GLOVE = ("sts-train.csv", "sts-dev.csv"), "glove.840B.300d.txt"
ELECTRICITY = "LD2011_2014.txt"
DAY = 24
PAST = 7 * DAY
# days since 1 January 2011, the borders of the published forecasting code
FIRST_DAY, TRAIN_END, TEST_DAY, LAST_DAY = 1096, 1315, 1339, 1346


def diabetes(root: Path) -> Splits:
    """scikit-learn's diabetes table: 310 patients to train on and 132 to test, ten columns.

    Subjects are four age groups, quarters of the column ``age``.
    """
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    age = found.data[:, 0]
    quarters = torch.from_numpy(np.searchsorted(np.quantile(age, (0.25, 0.5, 0.75)), age))
    x, y = (torch.from_numpy(part).float() for part in (found.data, found.target))
    names = ("youngest", "younger", "older", "oldest")
    everything = Measured(x, y, quarters, names, "squared")
    # one fixed split: a data set that moves with a seed lets one model's test be another's training
    order = np.random.default_rng(0).permutation(len(y))
    return Splits(
        "diabetes", everything.take(order[DIABETES_TEST:]), everything.take(order[:DIABETES_TEST])
    )


def stsb(root: Path) -> Splits:
    """STS-B as the paper reads it: ten GloVe vectors a sentence, scores 0 to 5; [N, D, 2, 10].

    Lower case, without stop words (scikit-learn's list), cut to ten words or filled up with zeros on
    the left; a word without a vector is the mean of its sentence's other words. Subjects are genres.
    """
    lacks = [name for name in (*STSB_SIDES, GLOVE) if not (root / name).is_file()]
    if lacks:
        raise missing("stsb", root, f"there is no {lacks[0]}")
    sides = [_pairs(root / name) for name in STSB_SIDES]
    needed = {word for rows in sides for row in rows for text in row[2:] for word in text}
    vectors = _glove(root / GLOVE, needed)
    genres = tuple(sorted({row[0] for rows in sides for row in rows}))
    found = []
    for rows in sides:
        x = np.stack([[_sentence(text, vectors) for text in row[2:]] for row in rows])
        y = torch.tensor([row[1] for row in rows])
        who = torch.tensor([genres.index(row[0]) for row in rows])
        x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        found.append(Measured(x, y, who, genres, "squared"))
    return Splits("stsb", *found)


Pair = tuple[str, float, list[str], list[str]]


def _pairs(path: Path) -> list[Pair]:
    """Genre, score and the words of both sentences."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    rows: list[Pair] = []
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            try:
                score, texts = float(row[4]), row[5:7]
                _, _ = texts
            except (IndexError, ValueError) as error:
                raise UsageError(
                    f"Line {number} of {path} is not genre, file, year, number, score and two"
                    " sentences, separated by tabs."
                ) from error
            words = [
                [w for w in re.findall(r"[a-z0-9']+", t.lower()) if w not in ENGLISH_STOP_WORDS]
                for t in texts
            ]
            rows.append((row[0], score, *words))
    return rows


def _glove(path: Path, needed: set[str]) -> dict[str, np.ndarray]:
    """The vectors of these words; the other lines are passed over."""
    vectors = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            word, _, numbers = line.partition(" ")
            if word in needed:
                vectors[word] = np.array(numbers.split(), np.float32)
    if not vectors:
        raise UsageError(f"{path} has a vector for no word of the sentences; fetch it again.")
    return vectors


def _sentence(words: Sequence[str], vectors: Mapping[str, np.ndarray]) -> np.ndarray:
    """[10, D]."""
    size = len(next(iter(vectors.values())))
    known = [vectors[word] for word in words if word in vectors]
    mean = np.mean(known, axis=0) if known else np.zeros(size, np.float32)
    rows = [vectors.get(word, mean) for word in words[:WORDS]]
    out = np.zeros((WORDS, size), np.float32)
    if rows:
        out[-len(rows) :] = rows
    return out


def electricity(root: Path) -> Splits:
    """UCI Electricity: the mean load of a customer's next day from the 168 hours before it.

    Loads are standardised by customer over the training days. Days and their borders are those of
    the published forecasting code; it forecasts each hour with quantiles, this is one value.
    Subjects are customers.
    """
    path = root / ELECTRICITY
    if not path.is_file():
        raise missing("electricity", root, f"there is no {ELECTRICITY}")
    try:
        loads = pd.read_csv(path, sep=";", decimal=",", index_col=0, parse_dates=True)
        hours = loads.resample("1h").mean()
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is not the table of loads ({error}); fetch it again.") from error
    first = pd.Timestamp("2011-01-01") + pd.Timedelta(days=FIRST_DAY)
    hours = hours.reindex(pd.date_range(first, periods=(LAST_DAY - FIRST_DAY) * DAY, freq="1h"))
    # a load of 0 is a customer who is not there yet, or not any more
    values = hours.replace(0.0, np.nan).to_numpy(np.float32).T
    learned = values[:, : (TRAIN_END - FIRST_DAY) * DAY]
    there = np.isfinite(learned).any(1)
    if not there.any():
        raise UsageError(f"{path} has no load between the days {FIRST_DAY} and {TRAIN_END}.")
    values, learned = values[there], learned[there]
    middle, spread = np.nanmean(learned, 1), np.nanstd(learned, 1)
    values = (values - middle[:, None]) / np.maximum(spread, 1e-6)[:, None]
    names = tuple(map(str, hours.columns[there]))
    borders = ((FIRST_DAY + PAST // DAY, TRAIN_END), (TEST_DAY, LAST_DAY))
    return Splits("electricity", *(_windows(values, names, range(*days)) for days in borders))


def _windows(values: np.ndarray, names: tuple[str, ...], days: range) -> Measured:
    """A sample for every customer and day whose hours are all known."""
    x, y, who = [], [], []
    for day in days:
        start = (day - FIRST_DAY) * DAY
        past, ahead = values[:, start - PAST : start], values[:, start : start + DAY]
        whole = np.isfinite(past).all(1) & np.isfinite(ahead).all(1)
        x.append(past[whole])
        y.append(ahead[whole].mean(1))
        who.append(whole.nonzero()[0])
    parts = (torch.from_numpy(np.concatenate(part)) for part in (x, y, who))
    return Measured(*parts, names)


DATASETS: dict[str, Callable[[Path], Splits]] = {
    "gauges": lambda root: gauges.load(),
    "diabetes": diabetes,
    "agedb": faces("agedb", AGEDB),
    "imdb_wiki": faces("imdb_wiki", IMDB_WIKI),
    "stsb": stsb,
    "electricity": electricity,
}


def load_splits(name: str, root: Path | str | None = None) -> Splits:
    """A data set by name.

    Args:
        name: one of ``DATASETS``.
        root: its folder, ``data/NAME`` by default; those that need none ignore it.

    Raises:
        UsageError: unknown name (the nearest is suggested), or its files are missing: the sentence
            ends with what its card says to fetch.
    """
    return read_splits(DATASETS, name, root)
