"""Progress bars with the time left, silent where nobody watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def watched() -> bool:
    """True if a person sees the terminal: bars are off in CI and when the output is a file."""
    return (
        sys.stderr.isatty() and not os.environ.get("CI") and not os.environ.get("MU_VISION_QUIET")
    )


def track(
    items: Iterable[Item], label: str, done: int = 0, total: int | None = None
) -> Iterator[Item]:
    """Yield the items under a progress bar.

    Args:
        items: what to iterate over.
        label: text before the bar.
        done: how many were finished before (a resumed run).
        total: how many there are in all; the length of ``items`` by default.
    """
    if not watched():
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, completed=done, total=total if total is not None else len(items))
        for item in items:
            yield item
            bar.advance(task)
