"""Scorecards: the numbers that a protocol gives for one model, with all that is needed to check.

A metric says how many samples it was to use and how many it used; if the two differ it cannot be
made at all. Rates are shares in [0, 1] here, and percent where people read them.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import files
from ..errors import CountMismatch, UsageError
from ..metrics.rates import Rate

if TYPE_CHECKING:
    import pandas as pd

Unit = Literal["rate", "score", "distance", "share", "s", "GB"]


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        value: a share in [0, 1] for the units ``rate`` (a count of pictures) and ``share``.
        expected: samples it had to use.
        used: samples it used.
        interval: 95 % interval in the units of ``value``, None if there is none.
        judge: who decided.
        seconds: time it took, that of its judge included.
        details: further facts, plain JSON.

    Raises:
        CountMismatch: if ``expected`` and ``used`` differ.
        ValueError: if the value is not finite.
    """

    name: str
    value: float
    expected: int
    used: int
    interval: tuple[float, float] | None = None
    judge: str = ""
    seconds: float = 0.0
    unit: Unit = "score"
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.expected != self.used:
            raise CountMismatch(
                f"The metric {self.name} needs exactly {self.expected} samples and got {self.used}."
            )
        if not math.isfinite(self.value):
            raise ValueError(f"the metric {self.name} is {self.value}")

    @classmethod
    def of_rate(cls, name: str, rate: Rate, expected: int, judge: str, seconds: float) -> Metric:
        """A share of pictures with its count and Wilson interval."""
        return cls(
            name, rate.value, expected, rate.total, rate.interval, judge, seconds, "rate",
            {"hits": rate.hits},
        )  # fmt: skip

    @property
    def text(self) -> str:
        """The value as people read it."""
        if self.unit in ("rate", "share"):
            return f"{100 * self.value:.1f} %"
        if self.unit in ("s", "GB"):
            return f"{self.value:.3g} {self.unit}"
        return f"{self.value:.4g}"


@dataclass(frozen=True)
class Scorecard:
    """What a protocol says of one model.

    Attributes:
        model: name of the model.
        method: the method that edited it, None for an original.
        request: what was to be forgotten (one or several, as JSON), None for nothing.
        protocol: name of the protocol.
        metrics: name -> metric.
        warnings: sentences that a reader must see.
        flags: ``no_op``: neither weights nor pictures moved. ``unchanged_pictures``: the weights
            moved and not one picture did. ``collapsed``: UA comes with ruined pictures.
        confusion: judge -> {rows, columns, counts}: what was asked for against what was seen.
        cells: judge -> {styles, objects, hits, total}: right answers in every cell.
        became: label -> count: what the pictures of the target were taken for.
        answers: key, model fingerprint, SHA-256 of the pictures, number of pictures; and the key
            of the request's own pictures, if it is in free words.
        settings: the protocol, in full.
        environment: versions and machine.
        robustness: what the attack battery found (``robustness.Battery.audit``), {} if the model
            was not attacked.
    """

    model: str
    method: str | None
    request: dict[str, Any] | list[dict[str, Any]] | None
    protocol: str
    metrics: dict[str, Metric]
    warnings: list[str] = field(default_factory=list)
    flags: dict[str, bool] = field(default_factory=dict)
    confusion: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Any] = field(default_factory=dict)
    became: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    robustness: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Metric:
        """The metric of this name.

        Raises:
            KeyError: if this scorecard does not have it.
        """
        return self.metrics[name]

    def value(self, name: str) -> float | None:
        """The value of a metric, None if it is not on this scorecard."""
        return self.metrics[name].value if name in self.metrics else None

    @property
    def title(self) -> str:
        """``style neon``, several joined by commas, or an empty text."""
        wanted = self.request if isinstance(self.request, list) else [self.request or {}]
        return ", ".join(f"{r['kind']} {r['name']}" for r in wanted if r)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without NaN; ``from_json`` inverts it."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Scorecard:
        """Read what ``to_json`` gave, as a mapping or as text.

        Raises:
            UsageError: if it is not a scorecard.
        """
        try:
            data = json.loads(data) if isinstance(data, str) else dict(data)
            metrics = {}
            for name, metric in data["metrics"].items():
                interval = metric.get("interval")
                pair = None if interval is None else (interval[0], interval[1])
                metrics[name] = Metric(**{**metric, "interval": pair})
            return cls(**{**data, "metrics": metrics})
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"This is not a scorecard of mu-vision ({error}).") from error

    def save(self, path: Path | str) -> None:
        """Write JSON."""
        files.write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Scorecard:
        """Read what ``save`` wrote.

        Raises:
            UsageError: if the file is missing or not a scorecard.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"The scorecard {path} cannot be read: {error.strerror}.") from error
        return cls.from_json(text)

    def to_row(self) -> pd.Series:
        """One row of a pandas table: the values, and the ends of the intervals.

        ``pd.DataFrame([a.to_row(), b.to_row()])`` sets scorecards side by side. Rates are in
        [0, 1].
        """
        import pandas as pd

        row: dict[str, Any] = {
            "model": self.model,
            "method": self.method,
            "request": self.title or None,
            "protocol": self.protocol,
        }
        for name, metric in self.metrics.items():
            row[name] = metric.value
            if metric.interval is not None:
                row[f"{name}_low"], row[f"{name}_high"] = metric.interval
        return pd.Series({**row, **self.flags}, name=self.method or self.model)

    def attacked(self, found: dict[str, Any], metrics: Mapping[str, Metric]) -> Scorecard:
        """The same scorecard with what the attack battery found."""
        said = [*self.warnings, *found["warnings"]]
        return replace(
            self, metrics={**self.metrics, **metrics}, warnings=said, robustness=dict(found)
        )

    def named(self, method: str | None) -> Scorecard:
        """The same scorecard under another method's name."""
        return replace(self, method=method)

    def __str__(self) -> str:
        return side_by_side({self.method or self.model: self}, intervals=True)


def side_by_side(scorecards: Mapping[str, Scorecard], intervals: bool = False) -> str:
    """A table of several scorecards, a column each, with their warnings below."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first = next(iter(scorecards.values()))
    title = f"{first.protocol}: {first.title or 'nothing forgotten'}"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("metric")
    for label in scorecards:
        table.add_column(Text(label), justify="right")
        if intervals:
            table.add_column("95 % interval", justify="right")
    if intervals:
        table.add_column("samples", justify="right")
    for name in dict.fromkeys(n for card in scorecards.values() for n in card.metrics):
        row: list[str] = [name.replace("_", " ")]
        for card in scorecards.values():
            metric = card.metrics.get(name)
            row.append(metric.text if metric else "-")
            if intervals:
                row += [_interval(metric), str(metric.used)]
        table.add_row(*row)
    memory = io.StringIO()
    console = Console(file=memory, width=110, color_system=None)
    console.print(table)
    for label, card in scorecards.items():
        for warning in card.warnings:
            console.print(f"warning ({label}): {warning}", markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in memory.getvalue().splitlines())


def _interval(metric: Metric) -> str:
    if metric.interval is None:
        return ""
    low, high = metric.interval
    if metric.unit in ("rate", "share"):
        return f"{100 * low:.1f} to {100 * high:.1f}"
    return f"{low:.4g} to {high:.4g}"
