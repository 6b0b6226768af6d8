"""How every command behaves: faults become one sentence, help shows examples, options are shared."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from . import __version__
from .faults import explain


class Guarded(TyperGroup):
    """Every fault of a command becomes one sentence on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if hasattr(error, "format_message"):  # typer's own words about flags
                raise
            sentence, code = explain(error)
            if (ctx.obj or {}).get("debug"):
                traceback.print_exception(error, file=sys.stderr)
        typer.echo(f"mu-vision: {sentence}", err=True)
        raise typer.Exit(code)


def set_debug(ctx: typer.Context, value: bool) -> bool:
    root = ctx.find_root()
    root.obj = root.obj or {}
    root.obj["debug"] = bool(value or root.obj.get("debug") or os.environ.get("MU_VISION_DEBUG"))
    return value


def print_version(value: bool) -> None:
    if value:
        typer.echo(f"mu-vision {__version__}")
        raise typer.Exit()


def examples(*lines: str) -> str:
    """Examples below a command's help; the leading backspace keeps their lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


Debug = Annotated[
    bool, typer.Option("--debug", callback=set_debug, help="Show the traceback of a fault.")
]
Changes = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(metavar="KEY=VALUE", help="Values to change.", show_default=False),
]
Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--output", "-o", help="Where to write.", show_default=False),
]
Names = Optional[list[str]]  # noqa: UP045
Style = Annotated[Names, typer.Option("--style", help="A style of the data set; repeatable.")]
Thing = Annotated[Names, typer.Option("--object", help="An object of it; repeatable.")]
Concept = Annotated[Names, typer.Option("--concept", help="Any text; repeatable.")]
Dataset = Annotated[str, typer.Option("--dataset", help="Card that has the style or object.")]
