"""Stages of a run: each is done once, remembered with what it was made from, and accounted for.

A stage's record lies in ``checkpoints/stages/<name>.json``: the fingerprint of its inputs, what
it returned, its time and memory, and the sizes of the files it wrote. If all of that still fits,
the stage is not run again. The record is written last, so a killed stage is simply run again
(and what it calls goes on from its own checkpoints).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import __version__, files
from .errors import UsageError


def fingerprint(*parts: Any) -> str:
    """SHA-256 over the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Record:
    """What is known of a finished stage.

    Attributes:
        result: what the stage's work returned, plain JSON.
        seconds: wall time; summed over the parts of a stage that was stopped and went on.
        peak_memory_gb: largest memory use while it ran, in 10^9 bytes.
        outputs: relative path -> {file: bytes}.
        reused: True if the stage was not run this time.
    """

    name: str
    fingerprint: str
    result: Any
    seconds: float
    peak_memory_gb: float
    outputs: dict[str, dict[str, int]] = field(default_factory=dict)
    reused: bool = False


class Stages:
    """The stages of one run folder."""

    def __init__(self, folder: Path, announce: Callable[[str], None] = lambda text: None):
        self.folder = folder
        self.announce = announce
        self.records: dict[str, Record] = {}

    def run(
        self,
        name: str,
        inputs: Any,
        work: Callable[[], Any],
        outputs: Sequence[Path] = (),
    ) -> Record:
        """Run ``work`` unless its record, made from the same inputs, and its outputs are there.

        Args:
            name: file-name safe, unique in the run.
            inputs: JSON-like; everything that the result depends on.
            work: does the work, writes ``outputs`` whole, returns plain JSON.
            outputs: files or folders below the run folder.
        """
        key = fingerprint(__version__, name, inputs)
        record = self._finished(name, key)
        if record is not None:
            self.records[name] = record
            self.announce(f"{name}: unchanged, not run again")
            self.log(stage=name, event="reused")
            return record
        self.announce(name)
        self.log(stage=name, event="start")
        _reset_peak_memory()
        started, before = time.perf_counter(), self._spent(name, key)
        try:
            result = work()
        except BaseException as error:
            seconds = before + time.perf_counter() - started
            self._spend(name, key, seconds)
            self.log(stage=name, event="stopped", error=type(error).__name__, seconds=seconds)
            raise
        record = Record(
            name=name,
            fingerprint=key,
            result=result,
            seconds=round(before + time.perf_counter() - started, 3),
            peak_memory_gb=round(peak_memory_gb(), 4),
            outputs={p.relative_to(self.folder).as_posix(): files.sizes(p) for p in outputs},
        )
        files.write_json(self._path(name), asdict(record))
        files.remove(self._path(name).with_suffix(".spent"))
        self.records[name] = record
        self.log(
            stage=name, event="done", seconds=record.seconds, peak_memory_gb=record.peak_memory_gb
        )
        return record

    def log(self, **row: Any) -> None:
        """Append one line to ``log.jsonl``."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": now, **row}) + "\n")

    def _path(self, name: str) -> Path:
        return self.folder / "checkpoints" / "stages" / f"{name}.json"

    def _finished(self, name: str, key: str) -> Record | None:
        try:
            data = json.loads(self._path(name).read_text(encoding="utf-8"))
            record = Record(**data)
        except (OSError, ValueError, TypeError):
            return None  # no record, or not one of ours: the stage is run
        if record.fingerprint != key:
            return None
        for relative, expected in record.outputs.items():
            path = self.folder / relative
            if not path.exists() or files.sizes(path) != expected:
                return None
        record.reused = True
        return record

    def _spent(self, name: str, key: str) -> float:
        """Seconds that earlier, stopped parts of this very stage took."""
        try:
            known, seconds = self._path(name).with_suffix(".spent").read_text().split()
        except (OSError, ValueError):
            return 0.0
        return float(seconds) if known == key else 0.0

    def _spend(self, name: str, key: str, seconds: float) -> None:
        try:
            files.write_text(self._path(name).with_suffix(".spent"), f"{key} {seconds:.3f}")
        except OSError:
            return  # a full disk is reported by the fault that brought us here


def open_run(folder: Path | str) -> Path:
    """Make a run folder, or take one up again.

    Raises:
        UsageError: if the folder holds something else, or cannot be made.
    """
    folder = Path(folder)
    check_run_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"The folder {folder} cannot be written to; give another one with -o.")
    return folder


def check_run_folder(folder: Path) -> None:
    """See that a run could be written here.

    Raises:
        UsageError: if a file or a folder with something else is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give another folder with -o.")
    if folder.is_dir() and any(folder.iterdir()) and not is_run(folder):
        raise UsageError(
            f"The folder {folder} exists and is not a run of mu-vision, so nothing was written"
            " into it; give another folder with -o."
        )


def is_run(folder: Path | str) -> bool:
    """True if the folder was begun by a run."""
    return (Path(folder) / "recipe.yaml").is_file()


def _reset_peak_memory() -> None:
    """Start a new peak: Linux lets a process reset its own high-water mark, CUDA too."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return  # elsewhere the peak is that of the whole process


def peak_memory_gb() -> float:
    """Largest memory use since the stage began, in 10^9 bytes (the GPU's if there is one)."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
