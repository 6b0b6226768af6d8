"""Put any exception into one sentence for the person at the terminal, with an exit code."""

from __future__ import annotations

import errno

from .errors import MuVisionError

STOPPED = "Stopped. Nothing that was finished is lost: run the same command to go on."
_FULL = ("no space left on device", "disk quota exceeded")


def explain(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code (2: the request, 1: a fault while running, 130: Ctrl-C)."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED, 130
    if isinstance(error, MuVisionError):
        return str(error), error.exit_code
    if disk_is_full(error):
        where = f" while writing {error.filename}" if getattr(error, "filename", None) else ""
        return (
            f"The disk is full{where}. Nothing that was finished is lost:"
            " make room and run the same command to go on.",
            1,
        )
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return f"{error.filename} is in the way ({error.strerror}): give another output.", 2
    if isinstance(error, PermissionError):
        return f"Not allowed to open or write {error.filename}: check who owns it.", 1
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return (
            "The memory is full. Close other programs, or ask for smaller batches"
            " (mu-vision doctor shows how much there is).",
            1,
        )
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"{text}. This is a fault of the program or its surroundings; --debug shows where.", 1


def disk_is_full(error: BaseException | None) -> bool:
    """True for ENOSPC and EDQUOT, also where a library has wrapped it in words of its own."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error).lower() for words in _FULL):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False
