"""``--dry-run``: the resolved recipe, what it would cost, and what it would fetch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .earlier import check_earlier
from .errors import MissingFiles
from .inputs import check_inputs, on_the_hub, sources
from .recipe import (
    AuditRecipe,
    EraseRecipe,
    EvaluateRecipe,
    ForgetRecipe,
    GanRecipe,
    Recipe,
    TableRecipe,
    TrainRecipe,
)
from .stages import check_run_folder, is_run

if TYPE_CHECKING:
    from .evaluation.protocol import Protocol


@dataclass
class Plan:
    """What a recipe would do.

    Attributes:
        recipe: YAML with every default filled in.
        folder: where it would write.
        steps: (stage, what it costs in words), in order.
        updates: optimiser steps of all methods or trainers.
        pictures: pictures drawn for all answer sets.
        evaluations: U-Net evaluations for these pictures (two a sampler step under guidance),
            without those of attacks, which stop at success.
        needs: what would be fetched, or has to be fetched by hand; empty if nothing.
    """

    recipe: str
    folder: Path
    steps: list[tuple[str, str]] = field(default_factory=list)
    updates: int = 0
    pictures: int = 0
    evaluations: int = 0
    needs: list[str] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """The plan as text."""
        going_on = " (a run that was begun; what is unchanged is not done again)"
        yield f"folder: {self.folder}{going_on if is_run(self.folder) else ''}"
        for stage, cost in self.steps:
            yield f"  {stage}: {cost}"
        if self.updates or self.pictures or self.evaluations:
            yield (
                f"cost: {self.updates:,} updates, {self.pictures:,} pictures,"
                f" {self.evaluations:,} U-Net evaluations to draw them"
            )
        if self.needs:
            for need in self.needs:
                yield f"needs: {need}"
        else:
            yield "download: nothing"


def plan(recipe: Recipe, folder: Path | str | None = None) -> Plan:
    """Look at a recipe without doing or writing anything.

    Raises:
        UsageError: for anything wrong with it that a run would refuse too.
    """
    recipe.check()
    place = recipe.folder if folder is None else Path(folder)
    check_run_folder(place)
    check_earlier(recipe, place, folder is not None)
    made = Plan(resolved(recipe), place)
    try:
        check_inputs(recipe)
    except MissingFiles as missing:
        made.needs.append(str(missing))
    if isinstance(recipe, TrainRecipe):
        for name, job in recipe.jobs():
            _add_updates(made, f"train {name}", job)
        return made
    if isinstance(recipe, ForgetRecipe):
        for seed, group in product(recipe.seeds, recipe.groups):
            for label, chosen in recipe.methods(group, seed).items():
                epochs = getattr(chosen, "epochs", 0)
                cost = f"{epochs} epochs" if epochs else "one shot"
                made.steps.append((f"seed {seed}, {group}: {label}", cost))
        if recipe.lira:
            cost = "a training for each, then every method for each forget set"
            made.steps.append((f"U-LiRA: {recipe.lira.shadows} more originals", cost))
        return made
    if isinstance(recipe, GanRecipe):
        for seed, group in product(recipe.seeds, recipe.groups):
            stage = recipe.stage_one(group, seed)
            for number in range(stage.models):
                _add_updates(made, f"seed {seed}, {group}: adapted {number}", stage)
            for label, chosen in recipe.methods(group, seed).items():
                if chosen.name == "extrapolation":
                    made.steps.append((f"seed {seed}, {group}: {label}", "one shot"))
                else:
                    _add_updates(made, f"seed {seed}, {group}: {label}", chosen)
        return made
    made.needs += map(_from_the_hub, on_the_hub(recipe))
    protocol = recipe.protocol.resolve()
    if isinstance(recipe, EvaluateRecipe):
        for source in sources(recipe):
            if isinstance(recipe, AuditRecipe):
                _add_attacks(made, source, protocol)
            else:
                _add_pictures(made, source, protocol)
        return made
    jobs = [job for _, job in recipe.jobs()] if isinstance(recipe, TableRecipe) else [recipe]
    _add_pictures(made, "original", protocol)
    for job in jobs:
        prefix = f"{job.request.kind} {job.request.name}, " if len(jobs) > 1 else ""
        for label, chosen in job.unlearners().items():
            _add_updates(made, f"{prefix}erase by {label}", chosen)
            _add_pictures(made, f"{prefix}{label}", protocol, getattr(chosen, "generator_steps", 0))
    return made


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML, with the settings of every method and trainer filled in."""
    data = recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
    if isinstance(recipe, EraseRecipe):
        asked = [r.model_dump(mode="json", exclude_none=True) for r in recipe.request.resolve()]
        data["request"] = asked[0] if len(asked) == 1 else asked
        data["methods"] = _filled(recipe)
    elif isinstance(recipe, TableRecipe):
        for group, job in recipe.jobs():
            data["groups"][group]["methods"] = _filled(job)
    elif isinstance(recipe, TrainRecipe):
        data["trainers"] = [{"trainer": n, **j.model_dump(mode="json")} for n, j in recipe.jobs()]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _filled(recipe: EraseRecipe) -> dict[str, Any]:
    filled = {}
    for label, chosen in recipe.unlearners().items():
        method = {} if label == chosen.name else {"method": chosen.name}
        filled[label] = {**method, **chosen.model_dump(mode="json")}
    return filled


def _add_updates(made: Plan, stage: str, job: Any) -> None:
    updates = getattr(job, "steps", 0)
    made.updates += updates
    made.steps.append((stage, f"{updates:,} updates" if updates else "closed form, no updates"))


def _add_pictures(made: Plan, stage: str, protocol: Protocol, generator_steps: int = 0) -> None:
    """The answers of one model; one that a method made a few-step generator takes no guidance."""
    pictures = protocol.pictures()
    steps = generator_steps or protocol.steps
    branches = 1 if generator_steps or protocol.guidance in (0, 1) else 2
    evaluations = pictures * steps * branches
    made.pictures += pictures
    made.evaluations += evaluations
    plural = "s" if steps != 1 else ""
    cost = f"{pictures:,} pictures of {steps} step{plural}, {evaluations:,} U-Net evaluations"
    made.steps.append((f"evaluate {stage}", cost))
    if protocol.robustness:
        _add_attacks(made, stage, protocol)


def _add_attacks(made: Plan, stage: str, protocol: Protocol) -> None:
    from .evaluation.robustness import attacks_of

    names = ", ".join(attacks_of(protocol))
    most = protocol.robustness.most
    cases = f"the first {most} prompts" if most else "every prompt"
    made.steps.append((f"attack {stage}", f"{cases} of the concept, by {names}"))


def _from_the_hub(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "model_index.json"), str):
        return f"{name}, which is already in the local cache"
    return f"{name} would be fetched from the model hub"
