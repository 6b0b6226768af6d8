"""Find the files that users state things in: recipes, protocols, dataset cards, published tables.

They lie in the top-level folders of a checkout, and below ``mu_vision/share`` in an installed
package, so that ``mu-vision run quickstart`` works from both.
"""

from __future__ import annotations

from pathlib import Path

from .errors import UsageError, unknown

FOLDERS = {"recipe": "pipelines", "protocol": "eval", "card": "datasets_cards"}
SUFFIX = {"recipe": ".yaml", "protocol": ".yaml", "card": ".md"}
EMBEDDED = Path(__file__).parent / "models" / "embedded"


def folder(kind: str) -> Path:
    """The folder of a kind: ``recipe``, ``protocol`` or ``card``."""
    installed = Path(__file__).parent / "share" / FOLDERS[kind]
    return installed if installed.is_dir() else Path(__file__).parent.parent / FOLDERS[kind]


def names(kind: str) -> list[str]:
    """Names of all that ship with the package, without suffix."""
    return sorted(path.stem for path in folder(kind).glob(f"*{SUFFIX[kind]}"))


def find(kind: str, name: str) -> Path:
    """The file that a name or a path means.

    Raises:
        UsageError: if there is no such file; the nearest name is suggested.
    """
    if name.endswith(SUFFIX[kind]) or "/" in name:
        path = Path(name)
        if path.is_file():
            return path
        if path.name != name or path.stem not in names(kind):
            raise UsageError(f"There is no {kind} file {name}.")
        name = path.stem
    path = folder(kind) / f"{name}{SUFFIX[kind]}"
    if not path.is_file():
        raise unknown(kind, name, names(kind))
    return path


def published(name: str) -> Path:
    """A table of published numbers, ``eval/published/<name>.csv``."""
    return folder("protocol") / "published" / f"{name}.csv"
