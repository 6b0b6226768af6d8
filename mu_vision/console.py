"""What the commands print: plain text and tables that also read well in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files, resources, validation
from .columns import COLUMNS, filled
from .errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from .plan import Plan
    from .runs import RunResult


def console() -> Console:
    """Standard output; not squeezed to 80 columns where nobody watches."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


LAB_COLUMNS = ("UA %", "RA %", "TA %", "MIA %", "avg. gap", "seconds")


def say(text: str) -> None:
    """One line about what is going on, on stderr."""
    print(f"- {text}", file=sys.stderr, flush=True)


def number(value: Any, decimals: int) -> str:
    """A number with fixed decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.{decimals}f}"


def show_result(result: RunResult) -> None:
    """The scorecards side by side, warnings, and the path of the report."""
    out = console()
    if result.table:
        show_tables(result.scores, result.table)
    elif result.scores.get("models"):
        show_scores(result.scores)
        show_attacks(result.scores)
    if result.report:
        out.print(f"report: {result.report}", soft_wrap=True, markup=False)
    elif result.folder:
        out.print(f"written: {result.folder}", soft_wrap=True, markup=False)


def show_tables(scores: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> None:
    """The table of a run, with the columns of its kind."""
    if scores.get("family") == "regressor":
        show_regression_lab(table)
    elif scores.get("kind") == "forget":
        show_lab(table)
    elif scores.get("kind") == "gan":
        show_gan(table)
    else:
        show_table(table)


def show_scores(scores: Mapping[str, Any]) -> None:
    """The models of one ``scores.json`` as rows."""
    from rich.markup import escape
    from rich.table import Table

    out, models = console(), scores["models"]
    asked = scores.get("request") or []
    asked = asked if isinstance(asked, list) else [asked]
    title = ", ".join(f"{r['kind']} {r['name']}" for r in asked) or "nothing forgotten"
    out.print(f"{scores['name']}: {title}", markup=False, style="bold")
    table = Table("model")
    shown = filled(models.values(), each_attack=False)
    for key in shown:
        table.add_column(COLUMNS[key][0], justify="right")
    for label, model in models.items():
        cells = (number(model.get(key), COLUMNS[key][1]) for key in shown)
        table.add_row(escape(label), *cells)
    out.print(table)
    for label, model in models.items():
        for warning in model.get("warnings", ()):
            out.print(f"warning ({label}): {warning}", style="yellow", markup=False)


def show_attacks(scores: Mapping[str, Any]) -> None:
    """One table an attacked model: a row an attack, and the worst case as the headline."""
    from rich.markup import escape
    from rich.table import Table

    out = console()
    for label, model in scores["models"].items():
        found = model["scorecard"].get("robustness")
        if not found or label == "original":
            continue
        table = Table("attack", title=escape(f"attacks on {label}"), title_justify="left")
        for heading in (
            "ASR %",
            "95 % interval",
            "prompts",
            "floor %",
            "control %",
            "queries",
            "s",
        ):
            table.add_column(heading, justify="right")
        table.add_row("none (pre-ASR)", *_rate_cells(found["pre_asr"]), "", "", "", "")
        for record in found["attacks"].values():
            beside = [_share(record[key]) for key in ("floor", "control")]
            title = record["title"] + ("" if record["headline"] else " (not counted)")
            spent = (f"{record['queries']:,}", f"{record['seconds']:.0f}")
            table.add_row(title, *_rate_cells(record["asr"]), *beside, *spent)
        out.print(table)
        if found["worst"]:
            worst, title = found["worst"], found["attacks"][found["worst"]["attack"]]["title"]
            low, high = (100 * end for end in worst["interval"])
            out.print(
                f"worst case: {100 * worst['value']:.1f} % ({worst['hits']} of {worst['total']},"
                f" {low:.1f} to {high:.1f}), by {title}; by any attack"
                f" {100 * found['any']['value']:.1f} %",
                style="bold", markup=False,
            )  # fmt: skip


def _rate_cells(rate: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = rate["interval"]
    return _share(rate), f"{100 * low:.1f} to {100 * high:.1f}", f"{rate['hits']}/{rate['total']}"


def _share(rate: Mapping[str, Any] | None) -> str:
    return "-" if rate is None else f"{100 * rate['value']:.1f}"


def show_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """The rows of a table recipe."""
    from rich.markup import escape
    from rich.table import Table

    from .tables import TEXTS

    rows = list(rows)
    table, shown, last = Table(*TEXTS), filled(rows, each_attack=False), None
    for key in shown:
        table.add_column(COLUMNS[key][0], justify="right")
    for row in rows:
        if last is not None and (row["group"], row["request"]) != last:
            table.add_section()
        last = (row["group"], row["request"])
        table.add_row(
            *(escape(str(row[key])) for key in TEXTS),
            *(number(row.get(key), COLUMNS[key][1]) for key in shown),
        )
    console().print(table)


def show_lab(table: Iterable[Mapping[str, Any]]) -> None:
    """The table of a ``forget`` recipe: values, and in brackets their distance to Retrain's."""
    from rich.table import Column, Table

    from .lab import YARDSTICK, beside, percent
    from .report.views import title_of

    lines = list(table)
    shown = Table("forget", "method", *(Column(k, justify="right") for k in LAB_COLUMNS))
    for group in dict.fromkeys(line["group"] for line in lines):
        mine = [line for line in lines if line["group"] == group]
        gold = next(line for line in mine if line["method"] == YARDSTICK)
        for line in mine:
            cells = [beside(line, gold, key) for key in ("ua", "ra", "ta", "mia")]
            cells += [percent(line, "gap"), number(line.get("seconds"), 2)]
            shown.add_row(group, title_of(line["method"]), *cells)
        shown.add_section()
    console().print(shown)


def show_regression_lab(table: Iterable[Mapping[str, Any]]) -> None:
    """The table of a ``forget`` recipe of regressors."""
    from rich.table import Column, Table

    from .lab_regression import HEADINGS, cell, shown
    from .report.views import title_of

    lines = list(table)
    keys = shown(lines)
    found = Table("forget", "method", *(Column(HEADINGS[k], justify="right") for k in keys))
    for line in lines:
        cells = [cell(line, key) for key in keys]
        found.add_row(line["group"], title_of(line["method"]), *cells)
    console().print(found)


def show_gan(table: Iterable[Mapping[str, Any]]) -> None:
    """The table of a ``gan`` recipe."""
    from rich.table import Column, Table

    from .report.gan import HEADINGS, cell, title_of

    lines = list(table)
    keys = [key for key in HEADINGS if any(line.get(key) is not None for line in lines)]
    shown = Table("forget", "method", *(Column(HEADINGS[k], justify="right") for k in keys))
    for group in dict.fromkeys(line["group"] for line in lines):
        for line in (line for line in lines if line["group"] == group):
            cells = [" ".join(filter(None, cell(line, key))) for key in keys]
            shown.add_row(group, title_of(line["method"]), *cells)
        shown.add_section()
    console().print(shown)


def show_plan(plan: Plan) -> None:
    """The resolved recipe, what it costs, and what would be fetched."""
    out = console()
    out.print(plan.recipe.rstrip(), markup=False, soft_wrap=True)
    out.print()
    for line in plan.lines():
        out.print(line, markup=False, soft_wrap=True)


def show_written(paths: Iterable[Path]) -> None:

    for path in paths:
        size = sum(files.sizes(path).values()) / 1e6
        console().print(f"written: {path} ({size:.1f} MB)", markup=False, soft_wrap=True)


def show(what: str, output: Path | None, index: int) -> None:
    """A contact sheet, a card, or the numbers of a run.

    Raises:
        UsageError: if it is none of them, or a run without scores.
    """
    path = Path(what)
    if path.is_dir():
        scores = path / "scores.json"
        if not scores.is_file():
            raise UsageError(f"{path} has no scores.json: it is not a run, or not yet finished.")
        found = json.loads(scores.read_text(encoding="utf-8"))
        if found.get("table"):
            show_tables(found, found["table"])
        else:
            show_scores(found)
        if (path / "report.html").is_file():
            console().print(f"report: {path / 'report.html'}", soft_wrap=True, markup=False)
        return
    if what == "minicanvas":
        from .data.sheet import contact_sheet

        written = contact_sheet(output or Path("minicanvas.png"), index)
        console().print(f"written: {written}", markup=False, soft_wrap=True)
        return
    from rich.markdown import Markdown

    from .data.cards import load_card

    card = load_card(what)
    out = console()
    out.print(f"{card.title} ({card.name}): {card.summary}", markup=False, style="bold")
    out.print(f"licence: {card.licence}\nsource: {card.source}", markup=False)
    for word, names in (("styles", card.style_names), ("objects", card.object_names)):
        if names:
            out.print(f"{word} ({len(names)}): {', '.join(names)}", markup=False)
    out.print(Markdown(card.body))


def show_list() -> None:
    """Everything that has a name, one line each."""
    out = console()
    for title, lines in listing().items():
        out.print(title, style="bold")
        width = max((len(name) for name, _ in lines), default=0)
        for name, text in lines:
            out.print(f"  {name:<{width}}  {text}", markup=False, soft_wrap=True)
        if not lines:
            out.print("  none")


def listing() -> dict[str, list[tuple[str, str]]]:
    """{heading: [(name, one line)]}."""
    from . import registry

    methods = []
    for cls in registry.classes("method"):
        paper = getattr(cls, "paper", None)
        family = getattr(cls, "family", "diffusion")
        told = f"{paper.title} (arXiv {paper.arxiv})" if paper else _first_line(cls)
        methods.append((cls.name, f"{family}: {told}"))
    attacks = registry.classes("attack")
    return {
        "methods": methods,
        "attacks": [(cls.name, f"{cls.kind}: {_first_line(cls)}") for cls in attacks],
        "recipes": [(name, _summary("recipe", name)) for name in resources.names("recipe")],
        "protocols": [(name, _summary("protocol", name)) for name in resources.names("protocol")],
        "data sets": [(name, _card_summary(name)) for name in resources.names("card")],
        "models": list(_models()),
    }


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _summary(kind: str, name: str) -> str:
    data = validation.read_yaml_file(resources.find(kind, name), f"{kind} {name}")
    return str(data.get("summary") or data.get("title") or data.get("name") or "").strip()


def _card_summary(name: str) -> str:
    from .data.cards import load_card

    return load_card(name).summary


def _models() -> Iterable[tuple[str, str]]:
    from .doctor import EMBEDDED

    for name, meaning in EMBEDDED.items():
        folder = resources.EMBEDDED / name
        if folder.is_dir():
            size = sum(files.sizes(folder).values()) / 1e6
            yield f"minicanvas/{name}", f"{meaning}, embedded, {size:.1f} MB"
        else:
            yield f"minicanvas/{name}", f"{meaning}: not in this package"
