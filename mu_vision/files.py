"""Write files whole: to a temporary name beside the target, then renamed over it."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``path`` at the end, remove it after a fault.

    Works for a file and for a folder; a folder that was there before is replaced. Files get the
    permissions of any new file: safetensors gives its own to the owner alone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    try:
        yield partial
        _open_up(partial)
        if partial.is_dir() and path.is_dir():
            old = path.with_name(f".{path.name}.old")
            remove(old)
            os.replace(path, old)
            os.replace(partial, path)
            remove(old)
        else:
            os.replace(partial, path)
    finally:
        remove(partial)


def _open_up(path: Path) -> None:
    probe = path.with_name(f"{path.name}.mode")
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path | str, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def sizes(path: Path) -> dict[str, int]:
    """{relative name: bytes} of a file or of all files below a folder, hidden ones left out."""
    if path.is_file():
        return {".": path.stat().st_size}
    names = sorted(p for p in path.rglob("*") if p.is_file())
    kept = [p for p in names if not any(part[0] == "." for part in p.relative_to(path).parts)]
    return {p.relative_to(path).as_posix(): p.stat().st_size for p in kept}
