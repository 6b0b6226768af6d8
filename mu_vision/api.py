"""The verbs of the Python API: load, erase, evaluate, save, render, run, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .validation import validated

if TYPE_CHECKING:
    from PIL.Image import Image

    from .evaluation.protocol import Protocol
    from .evaluation.scorecard import Scorecard
    from .models.denoiser import Denoiser
    from .recipe import Recipe
    from .request import ConceptRequest
    from .runs import RunResult
    from .unlearn.base import Unlearned, Unlearner


@dataclass(frozen=True)
class Erased:
    """An edited model with everything that made it; what ``erase`` returns and ``save`` writes.

    Attributes:
        model: the edited model; it shares the untouched weights with ``original``.
        original: the model before.
        request: what was to be forgotten; several when several were given.
        unlearner: the method with its settings.
        unlearned: time, memory, names of the tensors that moved, the method's own report.
    """

    model: Denoiser
    original: Denoiser
    request: ConceptRequest | tuple[ConceptRequest, ...]
    unlearner: Unlearner
    unlearned: Unlearned

    def save(self, folder: Path | str) -> Path:
        return save(self, folder)


def load_model(name_or_path: str | Path, device: str | None = None) -> Denoiser:
    """Load an embedded model (``minicanvas/sd``), a ``diffusers`` folder, or a hub id.

    Raises:
        UsageError: missing, corrupt or truncated files, a pickle, or not a model folder.
    """
    from .models.zoo import load_model as read

    return read(str(name_or_path), device=device)


def methods() -> list[str]:
    """Names of all unlearning methods."""
    from . import registry

    return registry.names("method")


def unlearner(method: str, settings: Mapping[str, Any], family: str | None = None) -> Unlearner:
    """A method (for a family of models, if several share its name) with its settings checked.

    Raises:
        UsageError: a method of another family, unknown method or setting (the nearest is suggested), wrong type or range.
    """
    from . import registry

    return validated(registry.get("method", method, family), dict(settings), f"method {method}")


def erase(
    model: Denoiser | str | Path,
    request: ConceptRequest | Sequence[ConceptRequest],
    method: str = "esd",
    folder: Path | str | None = None,
    **settings: Any,
) -> Erased:
    """Take one concept (or several) out of a model; the model given is not changed.

    Args:
        model: a loaded model, or a name or path for ``load_model``.
        request: what ``concept_request`` returned.
        method: a name from ``methods()``.
        folder: where checkpoints go, so that a stopped run goes on; None for none.
        **settings: the method's settings, e.g. ``steps=200``; unknown ones are refused.

    Raises:
        UsageError: for a wrong method or setting.
        RunError: if the method diverged or moved no weight.
    """
    from .runner import resumable

    chosen = unlearner(method, settings, "diffusion")
    if not _is_model(model):
        model = load_model(model)
    worker = resumable(chosen) if folder else chosen
    result = worker.unlearn(model, request, folder=folder)
    kept = tuple(request) if isinstance(request, Sequence) else request
    return Erased(result.model, model, kept, chosen, result)


def evaluate(
    model: Erased | Denoiser | str | Path,
    protocol: Protocol | str = "minicanvas",
    request: ConceptRequest | None = None,
    original: Denoiser | str | Path | None = None,
    folder: Path | str | None = None,
) -> Scorecard:
    """Draw a protocol's answer set and judge it.

    Args:
        model: what ``erase`` returned, a loaded model, or a name or path.
        protocol: a protocol or its name.
        request: what was to be forgotten; taken from ``model`` if it is an ``Erased``.
        original: the untouched model beside it; taken from ``model`` if it is an ``Erased``.
        folder: where the pictures go, so that a stopped evaluation goes on; None for none.

    Returns:
        A frozen scorecard that prints, saves as JSON (``to_json``) and gives a pandas row.
    """
    from .evaluation.evaluate import evaluate as judge

    method, cost = None, None
    if isinstance(model, Erased):
        done, method = model.unlearned, model.unlearner.name
        cost = {"seconds": done.seconds, "peak_memory_gb": done.peak_memory_gb}
        if request is None and not isinstance(model.request, tuple):
            request = model.request
        original = original if original is not None else model.original
        model = model.model
    elif not _is_model(model):
        model = load_model(model)
    if original is not None and not _is_model(original):
        original = load_model(original)
    return judge(
        model, protocol, request=request, original=original, folder=folder, method=method, cost=cost
    )


def audit(
    model: Erased | Denoiser | str | Path,
    protocol: Protocol | str = "minicanvas_robust",
    request: ConceptRequest | None = None,
    original: Denoiser | str | Path | None = None,
    folder: Path | str | None = None,
    targets: Path | str | None = None,
) -> Scorecard:
    """Attack an edited model by every attack of a protocol; ``asr_worst`` is the headline.

    Args:
        model: what ``erase`` returned, a loaded model, or a name or path.
        protocol: one with a ``robustness`` section, or its name.
        request: what was to be forgotten; taken from ``model`` if it is an ``Erased``.
        original: the untouched model; taken from ``model`` if it is an ``Erased``.
        folder: where finished attacks are kept, so that a stopped audit goes on; None for none.
        targets: a folder of pictures of the concept, in place of the original's own.

    Raises:
        UsageError: if the request or the original is missing, or the protocol names no attack.
    """
    from .environment import environment
    from .evaluation.protocol import load_protocol
    from .evaluation.robustness import Battery, metrics_of, open_judges, required_attacks
    from .evaluation.scorecard import Scorecard

    protocol, method = load_protocol(protocol), None
    required_attacks(protocol)
    if isinstance(model, Erased):
        method = model.unlearner.name
        request = request or model.request
        original, model = original or model.original, model.model
    if request is None or original is None:
        raise UsageError("An audit needs the request, and the untouched model as `original`.")
    requests = tuple(request) if isinstance(request, Sequence) else (request,)
    model = model if _is_model(model) else load_model(model)
    original = original if _is_model(original) else load_model(original)
    battery = Battery(
        original, requests, protocol, open_judges(protocol, original.device),
        Path(folder) if folder else None, Path(targets) if targets else None,
    )  # fmt: skip
    asked = [r.model_dump(mode="json") for r in requests]
    card = Scorecard(
        model.name, method, asked[0] if len(asked) == 1 else asked, protocol.name, {},
        answers={"fingerprint": model.fingerprint()}, settings=protocol.model_dump(mode="json"),
        environment=environment(),
    )  # fmt: skip
    found = battery.audit(model)
    return card.attacked(found, metrics_of(found, battery.judge))


def save(model: Erased | Denoiser, folder: Path | str) -> Path:
    """Write a complete ``diffusers`` folder, for an ``Erased`` with its model card.

    Raises:
        UsageError: if the folder exists and was not written by mu-vision.
    """
    folder = Path(folder)
    if isinstance(model, Erased):
        from .export.folder import export

        export(model.unlearned, model.request, model.unlearner, folder, model.original)
    else:
        model.save(folder)
    return folder


def apply_delta(delta: Path | str, model: Denoiser | str | Path) -> Denoiser:
    """A new model: ``model`` with the changed weights of a delta file in it.

    Raises:
        UsageError: if the file is no delta, or the architectures differ.
    """
    from .export.delta import apply_delta as apply

    return apply(Path(delta), model if _is_model(model) else load_model(model))


def apply_encoder(encoder: Path | str, model: Denoiser | str | Path) -> Denoiser:
    """A new model: ``model`` with the text encoder of a folder in it.

    Args:
        encoder: a diffusers folder (e.g. what ``erase`` with AdvUnlearn wrote), or one with a
            transformers ``CLIPTextModel``.
        model: gets the text encoder; all else stays its own.

    Raises:
        UsageError: if the folder holds no text encoder, a pickle, or one that does not fit.
    """
    from .export.encoder import apply_encoder as apply

    return apply(Path(encoder), model if _is_model(model) else load_model(model))


def render(
    model: Erased | Denoiser | str | Path,
    prompts: str | Sequence[str],
    seed: int = 0,
    steps: int = 25,
    guidance: float = 3.0,
) -> list[Image]:
    """Draw one picture a prompt; picture i depends on (model, prompt i, seed) alone.

    All prompts start from the same noise, so pictures of two models can be compared.
    """
    from PIL import Image

    from . import seeding

    model = model.model if isinstance(model, Erased) else model
    model = model if _is_model(model) else load_model(model)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise UsageError("render needs at least one prompt.")
    latents = seeding.noise((1, *model.latent_shape), "render", seed)
    latents = latents.expand(len(prompts), -1, -1, -1).clone().to(model.device)
    text = model.encode_prompt(prompts)
    pixels = model.decode(model.sample(text, latents, steps=steps, guidance=guidance))
    return [Image.fromarray(picture) for picture in pixels]


def run(
    recipe: Recipe | str | Path, folder: Path | str | None = None, overrides: Sequence[str] = ()
) -> RunResult:
    """Carry out a recipe, as ``mu-vision run`` does; going on where a stopped run was.

    Args:
        recipe: a recipe, its name, or the path of its file.
        folder: the run folder; by default ``runs/<name>``, or the one that the recipe was saved in.
        overrides: changes of the form ``"methods.esd.steps=50"``, for a name or path.
    """
    from .recipe import Recipe, load_recipe
    from .runner import run as carry_out

    if not isinstance(recipe, Recipe):
        recipe = load_recipe(str(recipe), overrides)
    elif overrides:
        raise UsageError("overrides are for a recipe given by name or path.")
    return carry_out(recipe, folder)


def report(folder: Path | str) -> Path:
    """Rebuild ``report.html`` from what is in a run folder; returns its path.

    Raises:
        UsageError: if the folder is not a run, or the run was not finished.
    """
    from .reporting import rebuild_report

    return rebuild_report(folder)


def _is_model(value: Any) -> bool:
    return not isinstance(value, str | Path)
