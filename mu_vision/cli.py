"""The command line: parses, calls the API, prints. Everything heavy is imported inside a command."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .errors import UsageError
from .faults import explain
from .shell import (
    Changes,
    Concept,
    Dataset,
    Debug,
    Guarded,
    Out,
    Style,
    Thing,
    examples,
    print_version,
)

app = typer.Typer(
    name="mu-vision",
    cls=Guarded,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(
    epilog=examples(
        "mu-vision run quickstart        erase one style in two ways, evaluate, report",
        "mu-vision list                  methods, recipes, protocols, data sets, models",
        "mu-vision doctor                what this machine can run",
    )
)
def root(
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Take a concept out of a vision model, measure what was forgotten and kept, report it."""


@app.command(
    epilog=examples(
        "mu-vision run quickstart",
        "mu-vision run quickstart request.name=mosaic methods.esd.steps=50 -o runs/mosaic",
        "mu-vision run minicanvas_baselines --dry-run",
        "mu-vision run my_recipe.yaml protocol.seeds=[188,288]",
        "mu-vision run runs/mosaic/recipe.yaml",
    )
)
def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or path of its YAML file.")
    ],
    changes: Changes = None,
    output: Out = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done and what it costs.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Carry out a recipe into runs/NAME; the same command again goes on where it stopped.

    So does the recipe.yaml that a run saved, in the folder of that run.
    """
    from . import console
    from .recipe import load_recipe
    from .runner import run as carry_out

    job = load_recipe(recipe, changes or ())
    if dry_run:
        from .plan import plan

        console.show_plan(plan(job, output))
        return
    console.show_result(carry_out(job, output, announce=console.say))


@app.command(
    epilog=examples(
        "mu-vision erase minicanvas/sd --style neon --method esd -o erased/",
        "mu-vision erase minicanvas/sd --object cat --object boat --method uce -o erased/ --delta",
        'mu-vision erase minicanvas/sd --concept "a cat" --anchor "a dog" -o erased/ steps=200',
        "mu-vision erase minicanvas/sd --style neon -m uce -o neon.safetensors",
    )
)
def erase(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="minicanvas/sd, a diffusers folder, or a hub id.")
    ],
    settings: Changes = None,
    style: Style = None,
    object: Thing = None,
    concept: Concept = None,
    anchor: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Harmless text that takes its place.", show_default=False),
    ] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="See mu-vision list.")] = "esd",
    output: Out = None,
    dataset: Dataset = "minicanvas",
    delta: Annotated[
        bool, typer.Option("--delta", help="Also write the changed weights as one small file.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Take a concept out of a model and write a diffusers folder.

    An output that ends in .safetensors gets the changed weights alone.
    """
    from . import commands, console

    if output is None:
        raise UsageError("Where should the model go? Give a folder with -o, e.g. -o erased/.")
    requests = commands.request_from_flags(style, object, concept, anchor, dataset)
    written = commands.erase_to(model, requests, method, settings or [], output, delta, console.say)
    console.show_written(written)


@app.command(
    epilog=examples(
        "mu-vision evaluate erased/ --protocol minicanvas --style neon",
        "mu-vision evaluate minicanvas/sd",
        "mu-vision evaluate erased/ --original minicanvas/sd --object cat protocol.steps=12",
    )
)
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="minicanvas/sd, a diffusers folder, or a hub id.")
    ],
    changes: Changes = None,
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="See mu-vision list.")] = (
        "minicanvas"
    ),
    style: Style = None,
    object: Thing = None,
    concept: Concept = None,
    original: Annotated[
        str, typer.Option(help="The untouched model; the one named in the folder by default.")
    ] = "",
    output: Out = None,
    dataset: Dataset = "minicanvas",
    debug: Debug = False,
) -> None:
    """Measure a model by a protocol; what was forgotten is read from the folder if not given."""
    from . import commands, console

    flags = (style, object, concept, dataset)
    recipe = commands.evaluation_recipe(model, protocol, flags, original, changes or [])
    from .runner import run as carry_out

    console.show_result(carry_out(recipe, output, announce=console.say))


@app.command(
    epilog=examples(
        "mu-vision audit erased/",
        "mu-vision audit erased/ --style neon --original minicanvas/sd -o runs/audit",
        "mu-vision audit erased/ protocol.robustness.attacks.relearning=false",
        "mu-vision audit erased/ protocol.robustness.attacks.unlearndiffatk.timesteps=20",
    )
)
def audit(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A diffusers folder that was edited.")
    ],
    changes: Changes = None,
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="One that names attacks.")] = (
        "minicanvas_robust"
    ),
    style: Style = None,
    object: Thing = None,
    concept: Concept = None,
    original: Annotated[
        str, typer.Option(help="The untouched model; the one named in the folder by default.")
    ] = "",
    targets: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of pictures of the concept for attacks to use."),
    ] = None,
    output: Out = None,
    dataset: Dataset = "minicanvas",
    debug: Debug = False,
) -> None:
    """Attack an edited model in every way there is; the worst case counts."""
    from . import commands, console

    flags = (style, object, concept, dataset)
    recipe = commands.evaluation_recipe(
        model, protocol, flags, original, changes or [], "audit", targets
    )
    from .runner import run as carry_out

    console.show_result(carry_out(recipe, output, announce=console.say))


@app.command(
    epilog=examples(
        "mu-vision report runs/quickstart",
    )
)
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run folder.")],
    debug: Debug = False,
) -> None:
    """Build report.html again from what is in a run folder."""
    from .reporting import rebuild_report

    typer.echo(f"report: {rebuild_report(folder)}")


@app.command(
    epilog=examples(
        "mu-vision merge runs/styles runs/objects -o runs/both",
        "mu-vision merge runs/monday runs/tuesday -o runs/all       more seeds of the same table",
    )
)
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of tables.")],
    output: Out = None,
    debug: Debug = False,
) -> None:
    """Put the finished requests of several runs of a table into one table and report.

    The runs may have other concepts, methods or seeds; the original, the protocol and the settings
    of a method must agree.
    """
    from . import console
    from .merging import merge as put_together

    if output is None:
        raise UsageError("Where should the table go? Give a folder with -o, e.g. -o runs/merged.")
    console.show_result(put_together(folders, output, console.say))


@app.command(
    epilog=examples(
        "mu-vision apply neon.safetensors --to minicanvas/sd -o erased/",
        "mu-vision apply robust/ --to path/to/another-sd -o plugged/    its text encoder",
    )
)
def apply(
    encoder: Annotated[
        Path,
        typer.Argument(
            metavar="ENCODER",
            help="A file of changed weights, or a folder whose text encoder is taken: a diffusers"
            " folder, or one with a CLIPTextModel.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="The model to change.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    debug: Debug = False,
) -> None:
    """Put the changed weights of an erasure, or its text encoder, into another model.

    The architectures must agree: of everything for a file, of the text encoder for a folder.
    """
    from . import commands, console

    console.show_written([commands.apply_to(encoder, to, output)])


@app.command(
    epilog=examples(
        "mu-vision mark minicanvas/gan -o sheet.html       a page to tick pictures on",
        "mu-vision mark minicanvas/gan --read marks.json   what was ticked",
        "mu-vision run gan_unlearn_minicanvas groups.cat.marks=marks.json",
    )
)
def mark(
    model: Annotated[
        str, typer.Argument(metavar="GAN", help="minicanvas/gan, minicanvas/gan-digits, a folder.")
    ],
    output: Out = None,
    count: Annotated[int, typer.Option(help="Pictures on the page.", min=2)] = 192,
    seed: Annotated[int, typer.Option(help="Seed of the page.", min=0)] = 0,
    read: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Marks that a page saved: check them and count.", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a page on which a person ticks what a GAN has to forget, or read the ticks back."""
    from . import commands

    typer.echo(commands.mark(model, output, count, seed, read))


@app.command(
    epilog=examples(
        "mu-vision show minicanvas -o sheet.png      a labelled contact sheet",
        "mu-vision show unlearncanvas                the card",
        "mu-vision show runs/quickstart              the scorecards",
    )
)
def show(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="minicanvas, a data set's card, or a run folder.")
    ],
    output: Out = None,
    index: Annotated[int, typer.Option(help="Which picture of each cell.", min=0)] = 1200,
    debug: Debug = False,
) -> None:
    """Show a data set or the numbers of a run."""
    from . import console

    console.show(what, output, index)


@app.command(
    name="list",
    epilog=examples(
        "mu-vision list",
    ),
)
def list_(debug: Debug = False) -> None:
    """List methods, recipes, protocols, data sets and models, one line each."""
    from . import console

    console.show_list()


@app.command(
    epilog=examples(
        "mu-vision doctor",
    )
)
def doctor(debug: Debug = False) -> None:
    """Say what this machine can run and what is missing."""
    from . import doctor as clinic

    if not clinic.report():
        raise typer.Exit(1)


def _one_line(message: Warning | str, *_: Any) -> None:
    """A warning without the line of code that gave it."""
    typer.echo(f"warning: {message}", err=True)


def main() -> None:
    """The entry point of the ``mu-vision`` command."""
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.showwarning = _one_line
    try:
        app()
    except KeyboardInterrupt:
        sentence, code = explain(KeyboardInterrupt())
        typer.echo(f"mu-vision: {sentence}", err=True)
        sys.exit(code)
    finally:
        _leave_processes()


def _leave_processes() -> None:
    """End a process group in order: one that is left open can abort a process at its exit."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
