"""What a recipe names that lies outside of it: models, data, judges. Looked at before anything is written.

A run and ``--dry-run`` look at the same, so what the one refuses the other refuses too.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MissingFiles
from .models.loading import check_folder, locate
from .recipe import ForgetRecipe, GanRecipe, Recipe, TrainRecipe
from .recipes.concepts import EvaluateRecipe, TableRecipe

if TYPE_CHECKING:
    from .evaluation.protocol import Protocol
    from .request import ConceptRequest


def check_inputs(recipe: Recipe) -> None:
    """Look at everything that can be looked at without training, drawing or fetching.

    Raises:
        MissingFiles: if something has to be fetched by hand first; all else was looked at, but for
            what depends on it.
        UsageError: for the first that does not exist, is damaged, or does not fit.
        RunError: if a judge is below the protocol's minimum.
    """
    if isinstance(recipe, ForgetRecipe):
        recipe.requests(recipe.splits())
        return
    if isinstance(recipe, GanRecipe):
        from .gan_lab import read_inputs

        read_inputs(recipe)
        return
    missing = []
    for source in sources(recipe):
        try:
            place = locate(source)
        except MissingFiles as error:
            missing.append(str(error))
        else:
            if isinstance(place, Path):
                check_folder(place)
    if not isinstance(recipe, TrainRecipe):
        protocol = recipe.protocol.resolve()
        try:
            protocol.check_files()
        except MissingFiles as error:
            missing.append(str(error))
        else:
            _open_judges(protocol, recipe)
    if missing:
        raise MissingFiles(" ".join(missing))


def _open_judges(protocol: Protocol, recipe: Recipe) -> None:
    """Where the evaluation will have them: what is opened here stays open for it."""
    import torch

    from .evaluation.evaluate import prepare

    prepare(protocol, _asked(recipe), "cuda" if torch.cuda.is_available() else "cpu")


def sources(recipe: Recipe) -> list[str]:
    """Names and folders of the diffusion models that a recipe reads."""
    if isinstance(recipe, TrainRecipe):
        named = (getattr(job, key, None) for _, job in recipe.jobs() for key in ("model", "start"))
        return [source for source in named if source]
    if isinstance(recipe, EvaluateRecipe):
        return [*([recipe.original] if recipe.original else []), *recipe.models.values()]
    return [recipe.model]


def on_the_hub(recipe: Recipe) -> list[str]:
    """Those of them that a run would fetch from the model hub."""
    found = []
    for source in sources(recipe):
        with suppress(MissingFiles):
            found += [place] if isinstance(place := locate(source), str) else []
    return found


def _asked(recipe: Recipe) -> list[tuple[ConceptRequest, ...]]:
    """The requests of each evaluation."""
    if isinstance(recipe, TableRecipe):
        return [job.request.resolve() for _, job in recipe.jobs()]
    return [recipe.request.resolve()] if recipe.request else []
