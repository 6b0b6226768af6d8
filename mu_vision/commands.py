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
    return recipe.RequestSpec(**spec, anchor=anchor, dataset=dataset).resolve()


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

    chosen = api.unlearner(method, recipe.parse_settings(settings, registry.get("method", method)))
    only_delta = output.suffix == ".safetensors"
    _check_output(output, only_delta)
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


def _check_output(output: Path, is_file: bool) -> None:
    if is_file:
        if output.is_dir():
            raise UsageError(f"{output} is a folder; give the name of a file to write.")
        return
    if output.is_file():
        raise UsageError(f"{output} is a file; give another folder with -o.")
    if output.is_dir() and any(output.iterdir()) and not (output / "mu_vision.json").is_file():
        raise UsageError(
            f"The folder {output} exists and was not written by mu-vision, so it is left alone;"
            " give another folder with -o."
        )


def made_from(folder: str | Path) -> dict[str, Any]:
    """What ``mu_vision.json`` in a model folder says, {} if there is none.

    Raises:
        UsageError: if the file is damaged.
    """
    path = Path(folder) / "mu_vision.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged: it is not JSON. Write the model again.") from error


def evaluation_recipe(
    model: str,
    protocol: str,
    flags: tuple[Names, Names, Names, str],
    original: str,
    changes: Sequence[str],
) -> recipe.Recipe:
    """The recipe that ``mu-vision evaluate`` carries out; the folder fills what flags leave out."""
    style, object, concept, dataset = flags
    known = made_from(model)
    spec = request_spec(style, object, concept)
    if spec is not None and spec["kind"] != "concept":
        spec["dataset"] = dataset
    saved = known.get("requests") or []
    if spec is None and saved:
        spec = {key: saved[0][key] for key in ("kind", "name", "dataset") if saved[0].get(key)}
        spec["also"] = [request["name"] for request in saved[1:]]
    if not original and (source := known.get("base", {}).get("source")):
        original = _still_there(source, model)
    label = known.get("method", "model")
    title = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip("-.") or "model"
    if spec:
        title += "-" + re.sub(r"[^a-z0-9]+", "-", f"{spec['kind']}-{spec['name']}".lower())
    data: dict[str, Any] = {"kind": "evaluate", "name": f"evaluate-{title}"[:80].rstrip("-")}
    data |= {"protocol": protocol, "request": spec}
    if known or original:
        data |= {"models": {label: model}, "original": original or None}
    else:
        data |= {"original": model}
    return recipe.make_recipe(data, changes, where="evaluate")


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
