"""Published numbers beside ours, each row saying whether it may be compared, and why not."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Any

from .. import resources
from ..errors import UsageError
from .protocol import Protocol

COLUMNS = {
    "UA": "ua", "IRA": "ira", "CRA": "cra", "FID": "fid_unlearncanvas",
    "time": "seconds", "memory": "memory_gb", "storage": "storage_gb",
}  # fmt: skip
FORGETTING = frozenset(("UA", "IRA", "CRA"))


def published_table(name: str) -> list[dict[str, str]]:
    """The rows of ``eval/published/<name>.csv`` as they are.

    Raises:
        UsageError: if there is no such table.
    """
    path = resources.published(name)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"There is no table of published numbers {path}.") from error


def published_rows(protocol: Protocol, kind: str) -> list[dict[str, Any]]:
    """A row a method for requests of a kind, set beside a scorecard of this protocol.

    Args:
        protocol: ours; its ``published`` names the table.
        kind: ``style`` or ``object``.

    Returns:
        ``method``, ``paper``, ``setting``; ``ua``, ``ira``, ``cra`` in [0, 1];
        ``fid_unlearncanvas``, ``seconds``, ``memory_gb``, ``storage_gb`` (None where nothing was
        published); ``comparable`` (bool) and ``because`` (a sentence). Means over all requests.
    """
    if protocol.published is None or kind not in ("style", "object"):
        return []
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in _about(published_table(protocol.published), kind):
        row = rows.setdefault(
            (entry["paper"], entry["method"]),
            {
                "method": entry["method"],
                "paper": entry["paper"],
                "setting": entry["setting"],
                **dict.fromkeys(COLUMNS.values()),
                **_comparable(protocol, entry),
            },
        )
        share = entry["metric"] in FORGETTING
        row[COLUMNS[entry["metric"]]] = float(entry["value"]) / (100 if share else 1)
    return [row for row in rows.values() if row["ua"] is not None]


def _about(table: Iterable[dict[str, str]], kind: str) -> Iterable[dict[str, str]]:
    """Entries of main tables for requests of a kind, or for all requests."""
    wanted = (f"{kind} unlearning", "all unlearning cases", "one unlearning request")
    for entry in table:
        other = any(word in entry["table"] for word in ("sequential", "robustness", "transfer"))
        if not other and entry["metric"] in COLUMNS and entry["target"].startswith(wanted):
            yield entry


def _comparable(protocol: Protocol, entry: dict[str, str]) -> dict[str, Any]:
    if protocol.dataset != "unlearncanvas":
        return {
            "comparable": False,
            "because": f"another data set: UnlearnCanvas, not {protocol.card.title}, and other models",
        }
    if not entry["table"].startswith("main table"):
        return {"comparable": False, "because": entry["table"]}
    if protocol.styles or protocol.objects or protocol.seeds != (188, 288, 588, 688, 888):
        return {"comparable": False, "because": "ours is a part of the published grid"}
    return {
        "comparable": True,
        "because": "same data, judges and prompts; the published rows mix samplers and are means"
        " over all requests",
    }
