"""What the commands do that is more than one call of the API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import api, files, recipe
from .errors import UsageError
from .stages import fingerprint
from .validation import validated

if TYPE_CHECKING:
    from .request import ConceptRequest


Names = Sequence[str] | None


def request_spec(style: Names, object: Names, concept: Names) -> dict[str, Any] | None:
    """``--style``, ``--object`` or ``--concept`` as a recipe would write it; None for none.

    Raises:
        UsageError: if flags of several kinds are given.
    """
    given = {"style": style, "object": object, "concept": concept}
    given = {kind: list(names) for kind, names in given.items() if names}
    if len(given) > 1:
        flags = " and ".join(f"--{kind}" for kind in given)
        raise UsageError(
            f"{flags} were given together; ask for one kind at a time. A flag may be repeated, to"
            " forget several of a kind together."
        )
    for kind, (name, *also) in given.items():
        return {"kind": kind, "name": name, "also": also}
    return None


def request_from_flags(
    style: Names, object: Names, concept: Names, anchor: str | None, dataset: str
) -> tuple[ConceptRequest, ...]:
    """The requests that the flags of ``erase`` mean.

    Raises:
        UsageError: if none or several kinds are given, or the card has no such name.
    """
    spec = request_spec(style, object, concept)
    if spec is None:
        raise UsageError(
            "What should be erased? Give --style NAME, --object NAME or --concept TEXT."
        )
    spec |= {"anchor": anchor, "dataset": dataset}
    return validated(recipe.RequestSpec, spec, f"--{spec['kind']}").resolve()


def erase_to(
    model: str,
    requests: Sequence[ConceptRequest],
    method: str,
    settings: Sequence[str],
    output: Path,
    delta: bool,
    announce: Callable[[str], None],
) -> list[Path]:
    """Erase and write a model folder (or a delta file); returns what was written.

    A stopped erasure goes on from its checkpoints, which lie beside the output until it is done.

    Raises:
        UsageError: if the output is taken by something else, before any work is done.
    """
    from . import registry
    from .export.delta import save_delta

    given = recipe.parse_settings(settings, registry.get("method", method, "diffusion"))
    chosen = api.unlearner(method, given, "diffusion")
    only_delta = output.suffix == ".safetensors"
    check_output(output)
    loaded = api.load_model(model)
    asked = [request.model_dump() for request in requests]
    key = fingerprint(loaded.fingerprint(), asked, method, chosen.model_dump())
    work = output.with_name(f".{output.name}.{key[:12]}.checkpoints")
    announce(f"{method}: erasing {', '.join(r.name for r in requests)} from {model}")
    erased = api.erase(loaded, requests, method, folder=work, **chosen.model_dump())
    written = []
    if not only_delta:
        written.append(api.save(erased, output))
    if delta or only_delta:
        path = output if only_delta else output / "delta.safetensors"
        save_delta(erased.original, erased.model, path, method, requests)
        written.append(path)
    files.remove(work)
    return written


def check_output(output: Path) -> None:
    """See that nothing is in the way of a model folder or a delta file.

    Raises:
        UsageError: what is there is left alone, also if it was written by mu-vision.
    """
    what = "file" if output.suffix == ".safetensors" else "folder"
    if output.is_dir() and (what == "file" or any(output.iterdir()) or not output.name):
        raise UsageError(f"The folder {output} exists; give another {what} with -o, or delete it.")
    if output.is_file():
        raise UsageError(f"The file {output} exists; give another {what} with -o, or delete it.")
    above = next((p for p in output.parents if p.exists()), None)
    if above is not None and not above.is_dir():
        raise UsageError(f"{above} is a file, so {output} cannot be made; give another -o.")


def apply_to(encoder: Path, to: str, output: Path) -> Path:
    """Put a folder's text encoder, or a delta, into a model and write it with what made it.

    Args:
        encoder: a folder (see ``export.encoder.apply_encoder``), or a delta file.
        to: the model that gets it.
        output: the new folder.

    Raises:
        UsageError: if the output exists, or what is to be put in does not fit.
    """
    from .export import delta
    from .export import encoder as plug_in
    from .models.denoiser import MARK

    check_output(output)
    if not encoder.exists():
        raise UsageError(f"There is no delta file or folder {encoder}.")
    base = api.load_model(to)
    if encoder.is_dir():
        edited = api.apply_encoder(encoder, base)
        facts = plug_in.describe(encoder, base, edited)
    else:
        edited = api.apply_delta(encoder, base)
        facts = delta.describe(encoder, base, edited)
    return edited.save(output, {MARK: json.dumps(facts, indent=2) + "\n"})


def evaluation_recipe(
    model: str,
    protocol: str,
    flags: tuple[Names, Names, Names, str],
    original: str,
    changes: Sequence[str],
    kind: str = "evaluate",
    targets: Path | None = None,
) -> recipe.Recipe:
    """What ``mu-vision evaluate`` or ``audit`` carries out; the folder fills what flags leave out.

    Raises:
        UsageError: if an audit does not know what was forgotten.
    """
    style, object, concept, dataset = flags
    from .export.folder import read_facts

    known = read_facts(model)
    spec = request_spec(style, object, concept)
    if spec is not None and spec["kind"] != "concept":
        spec["dataset"] = dataset
    saved = known.get("requests") or []
    if spec is None and saved:
        spec = {key: saved[0][key] for key in ("kind", "name", "dataset") if saved[0].get(key)}
        spec["also"] = [request["name"] for request in saved[1:]]
        if spec["kind"] == "concept":
            spec["anchor"] = saved[0].get("anchor")
    if not original and (source := known.get("base", {}).get("source")):
        original = _still_there(source, model)
    label = known.get("method") or "model"
    title = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip("-.") or "model"
    if spec:
        asked = "-".join([spec["kind"], spec["name"], *spec.get("also", ())])
        title += "-" + re.sub(r"[^a-z0-9]+", "-", asked.lower())
    if kind == "audit" and spec is None:
        raise UsageError(
            f"What was {model} to forget? Its folder does not say; give --style NAME, --object NAME"
            " or --concept TEXT."
        )
    data: dict[str, Any] = {"kind": kind, "name": f"{kind}-{title}"[:80].rstrip("-")}
    data |= {"protocol": protocol, "request": spec}
    if known or original:
        data |= {"models": {label: model}, "original": original or None}
    else:
        data |= {"original": model}
    if targets is not None:
        data["targets"] = str(targets)
    if kind == "audit" and "original" not in data:
        data["original"] = None
    if kind == "audit" and data["original"] is None:
        raise UsageError(
            f"{model} does not say what it was made from; an audit needs the untouched model beside"
            " it: give it with --original."
        )
    return recipe.make_recipe(data, changes, where=kind)


def _still_there(source: str, model: str) -> str:
    """The original that a model folder names, if it can still be found."""
    from .models.loading import locate

    try:
        locate(source)
    except UsageError as error:
        raise UsageError(
            f"{model} was made from {source}, which is not here; say where the untouched model is"
            " with --original."
        ) from error
    return source


def mark(model: str, output: Path | None, count: int, seed: int, read: Path | None) -> str:
    """Write a page of a GAN's pictures to tick, or check the marks that it saved.

    Returns:
        A line to print.

    Raises:
        UsageError: if the marks are of another GAN, or there is nowhere to write the page.
    """
    from .data.feedback import load_marks
    from .models.gan import Gan

    gan = Gan.load(model)
    if read is not None:
        marks = load_marks(read)
        marks.check(gan)
        return f"{read}: {len(marks.marked)} of {marks.count} pictures of {model} are marked"
    if output is None:
        raise UsageError("Where should the page go? Give a file with -o, e.g. -o sheet.html.")
    from .report.mark import write_sheet

    return f"written: {write_sheet(gan, output, count, seed)}"
