"""One family of errors: what we saw, what we think you meant, what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MuVisionError(Exception):
    """Base of every error that a user can mend; its text is one or a few plain sentences."""

    exit_code = 1


class UsageError(MuVisionError):
    """What was asked for cannot be done as asked (exit code 2)."""

    exit_code = 2


class MissingFiles(UsageError):
    """Files that have to be fetched by hand are not here."""


class RunError(MuVisionError):
    """Something failed while the work was running (exit code 1)."""


class Diverged(RunError):
    """A loss became NaN or infinite."""


class CountMismatch(RunError):
    """A metric did not get exactly the samples that its protocol asks for."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like ``name``, or None if nothing comes near."""
    found = difflib.get_close_matches(name.lower(), [c.lower() for c in choices], 1, 0.5)
    return next((c for c in choices if c.lower() == found[0]), None) if found else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """``unknown("method", "edd", ["esd", "uce"])`` -> an error that suggests ``esd``."""
    choices = sorted(choices)
    guess = nearest(name, choices)
    meant = f" Did you mean {guess!r}?" if guess else ""
    listed = ", ".join(choices) if choices else "none"
    return UsageError(f"There is no {kind} {name!r}.{meant} Known: {listed}.")
