"""Earlier runs in the same folder: is this the same job going on, or would it write over another's?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import validation
from .errors import UsageError
from .jobs import what_matters
from .recipe import (
    SAVED,
    EraseRecipe,
    EvaluateRecipe,
    ForgetRecipe,
    GanRecipe,
    Recipe,
    TableRecipe,
    TrainRecipe,
    make_recipe,
)

# (path in the run folder, what of it) -> all that a recipe says of how it is made
Made = dict[tuple[str, str], Any]


def check_earlier(recipe: Recipe, folder: Path, chosen: bool) -> None:
    """See that a run writes over nothing that another one made.

    In a folder that the user chose, a changed recipe may replace what it was changed in; where it
    lands by its name alone, what was made there stays. Methods, groups and seeds may come and go.

    Args:
        recipe: what is to be run.
        folder: where; there may be nothing yet.
        chosen: whether the user named the folder.

    Raises:
        UsageError: if the folder is that of another recipe, or something in it would be replaced.
    """
    path = folder / SAVED
    if not path.is_file():
        return
    data = validation.read_yaml_file(path, str(path))
    name, kind = data.get("name"), data.get("kind", "erase")
    if (name, kind) != (recipe.name, recipe.kind):
        raise UsageError(
            f"{folder} holds the run of another recipe ({name}, of kind {kind}), so nothing was"
            " written into it; give another folder with -o."
        )
    if chosen:
        return
    try:
        before = made_from(make_recipe(data, where=str(path)))
    except UsageError:
        before = {}  # of another version: nobody can say that anything is the same
    for (place, what), of in made_from(recipe).items():
        if _there(folder / place) and before.get((place, what), of if before else None) != of:
            raise UsageError(
                f"{folder} holds a run of {name} with other settings, and {place} in it would be"
                f" written over; give this run a folder of its own with -o, e.g. -o {folder}-2, or"
                f" say -o {folder} to let it take that one's place."
            )


def _there(path: Path) -> bool:
    """A file, or a folder with weights: that of a method that failed says only why."""
    return path.is_file() or any(path.rglob("*.safetensors"))


def made_from(recipe: Recipe) -> Made:
    """What a run leaves behind that took time to make, and from what; measuring is left out."""
    if isinstance(recipe, TableRecipe):
        return {
            (f"{job.name}/{place}", what): of
            for _, job in recipe.jobs()
            for (place, what), of in made_from(job).items()
        }
    if isinstance(recipe, EraseRecipe):
        asked = [request.model_dump(mode="json") for request in recipe.request.resolve()]
        return {
            (f"model/{label}", ""): [recipe.model, asked, chosen.name, what_matters(chosen)]
            for label, chosen in recipe.unlearners().items()
        }
    if isinstance(recipe, EvaluateRecipe):
        beside = recipe.model_dump(mode="json", include={"original", "request"})
        models = {"": None, **recipe.models}
        return {("scores.json", label): [source, beside] for label, source in models.items()}
    if isinstance(recipe, ForgetRecipe):
        return _made_by_lab(recipe)
    if isinstance(recipe, GanRecipe):
        return _made_by_gan_lab(recipe)
    return _made_by_training(recipe) if isinstance(recipe, TrainRecipe) else {}


def _made_by_lab(recipe: ForgetRecipe) -> Made:
    made: Made = {}
    poison = recipe.backdoor()
    for seed in recipe.seeds:
        base = [what_matters(recipe.trainer(seed)), poison and poison.model_dump(mode="json")]
        made[f"model/seed{seed}/original", ""] = base
        for group in recipe.groups:
            sets = [recipe.forget_set(group, seed), *recipe.later_sets(group)]
            pruning = recipe.pruning(group)
            asked = [s.model_dump(mode="json") for s in [*sets, *([pruning] if pruning else [])]]
            for label, method in recipe.methods(group, seed).items():
                own = [method.name, what_matters(method)]
                made[f"model/seed{seed}/{group}/{label}", ""] = [base, asked, own]
    return made


def _made_by_gan_lab(recipe: GanRecipe) -> Made:
    made: Made = {}
    base = recipe.model_dump(mode="json", include={"model", "data", "root"})
    oracle = what_matters(recipe.judge("oracle"))
    for seed in recipe.seeds:
        for group, spec in recipe.groups.items():
            asked = spec.model_dump(mode="json", include={"target", "kind", "threshold", "marks"})
            stage = what_matters(recipe.stage_one(group, seed))
            for label, method in recipe.methods(group, seed).items():
                own = [method.name, what_matters(method)]
                place = f"model/seed{seed}/{group}/{label}"
                made[place, ""] = [base, oracle, asked, stage, own]
    return made


def _made_by_training(recipe: TrainRecipe) -> Made:
    made: Made = {}
    before: list[Any] = []
    for name, job in recipe.jobs():
        # a trainer may begin with what the ones before it made
        before = [*before, [name, what_matters(job)]]
        made[f"model/{job.output}", ""] = before
    return made
