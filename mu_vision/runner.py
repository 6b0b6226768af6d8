"""Carry out a recipe into a run folder, stage by stage.

    runs/<name>/  recipe.yaml  model/<method>/  checkpoints/  answers/<key>/  attacks/<key>
                  scores.json  report.html  log.jsonl

Every model is evaluated as it was written: it is loaded again from its folder first, so a run
that was stopped and went on ends with the same numbers as one that was not.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files
from .earlier import check_earlier
from .environment import environment
from .inputs import check_inputs
from .jobs import what_matters
from .recipe import ForgetRecipe, GanRecipe, Recipe, TrainRecipe
from .recipes.concepts import AuditRecipe, EraseRecipe, EvaluateRecipe, TableRecipe
from .reporting import answer_places, forget_stale, write_run_report
from .runs import ORIGINAL, Announce, RunResult, model_row, silent, without_times, write_recipe
from .stages import Stages, fingerprint, open_run

if TYPE_CHECKING:
    from .evaluation.protocol import Protocol
    from .evaluation.robustness import Battery
    from .evaluation.scorecard import Scorecard
    from .models.denoiser import Denoiser
    from .request import ConceptRequest
    from .unlearn.base import Unlearner


def run(recipe: Recipe, folder: Path | str | None = None, announce: Announce = silent) -> RunResult:
    """Carry out a recipe; what is done and unchanged is not done again.

    Args:
        recipe: from ``load_recipe``.
        folder: the run folder; by default ``runs/<name>``, or the one that the recipe was saved in.
        announce: called with one line at the beginning of each stage.

    Raises:
        UsageError: if the recipe or the folder cannot be used; nothing was written then.
        RunError: if a stage failed; finished stages are kept.
    """
    recipe.check()
    place, chosen = folder or recipe.folder, folder is not None
    folder = Path(place)
    # the labs read their data once, look at it as check_inputs does, and then open the folder
    if not isinstance(recipe, ForgetRecipe | GanRecipe):
        check_inputs(recipe)
    check_earlier(recipe, folder, chosen)
    if isinstance(recipe, ForgetRecipe):
        from .lab import run_lab

        return run_lab(recipe, folder, announce)
    if isinstance(recipe, GanRecipe):
        from .gan_lab import run_gan_lab

        return run_gan_lab(recipe, folder, announce)
    open_run(folder)
    if isinstance(recipe, TableRecipe):
        from .tables import run_table

        return run_table(recipe, folder, announce)
    if isinstance(recipe, TrainRecipe):
        return _train(recipe, folder, announce)
    return Chain(recipe, folder, announce).run()


class Original:
    """The untouched model: loaded once, shared by all that is compared with it."""

    def __init__(self, source: str):
        self.source = source

    @cached_property
    def model(self) -> Denoiser:
        from .models.zoo import load_model

        return load_model(self.source)


class Chain:
    """One request: erase by every method, evaluate every model, write scores and report.

    Answer sets lie in ``answers/<key>``; their keys tell models apart, so the requests of a table
    share one such folder and the untouched model is drawn once.
    """

    def __init__(
        self,
        recipe: EraseRecipe | EvaluateRecipe,
        folder: Path,
        announce: Announce = silent,
        original: Original | None = None,
        answers: Path | None = None,
    ):
        self.recipe, self.folder = recipe, folder
        self.answers = answers or folder / "answers"
        self.attacks = self.answers.parent / "attacks"
        self.stages = Stages(folder, announce)
        self.requests: tuple[ConceptRequest, ...] = (
            recipe.request.resolve() if recipe.request else ()
        )
        asked = [request.model_dump(mode="json") for request in self.requests]
        self.asked: Any = asked[0] if len(asked) == 1 else asked or None  # as scores.json has it
        self.protocol: Protocol = recipe.protocol.resolve()
        source = recipe.model if isinstance(recipe, EraseRecipe) else recipe.original
        self.original = original or (Original(source) if source else None)

    def run(self) -> RunResult:
        from .models.zoo import load_model

        folder = self.folder
        unlearners: dict[str, Unlearner] = {}
        if isinstance(self.recipe, EraseRecipe):
            unlearners = self.recipe.unlearners()
        self.write_recipe(unlearners)
        # the untouched model first: if it fails the protocol, no time is spent on erasing
        scorecards = {}
        if self.original:
            scorecards[ORIGINAL] = self.measure(ORIGINAL, self.original.model)
        for label, source in self.sources(unlearners).items():
            scorecards[label] = self.measure(label, load_model(source))
        scores = self.scores(scorecards)
        files.write_json(folder / "scores.json", scores)
        report = self.stages.run(
            "report",
            {"scores": fingerprint(without_times(scores))},
            lambda: write_run_report(folder).name,
            [folder / "report.html"],
        )
        if self.answers.parent == folder:
            forget_stale(self.answers, answer_places(scores))
        return RunResult(
            folder, scores, scorecards, folder / report.result, stages=self.stages.records
        )

    def write_recipe(self, unlearners: Mapping[str, Unlearner]) -> None:
        """``recipe.yaml`` as resolved; it can be run again."""
        data = self.recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
        for label, chosen in unlearners.items():
            method = {"method": chosen.name} if label != chosen.name else {}
            data["methods"][label] = {**method, **chosen.model_dump(mode="json")}
        write_recipe(self.folder, data, {"state": "begun"})
        resolved = {
            "request": self.asked,
            "protocol": self.protocol.model_dump(mode="json"),
            "original": self.original.model.fingerprint() if self.original else None,
            "environment": environment(),
        }
        write_recipe(self.folder, data, resolved)

    def sources(self, unlearners: Mapping[str, Unlearner]) -> dict[str, str]:
        """{label: folder or name} of the models to compare, made by erasing where need be."""
        if isinstance(self.recipe, EvaluateRecipe):
            for source in self.recipe.models.values():
                self.check_base(source)
            return dict(self.recipe.models)
        return {label: self.erase(label, chosen) for label, chosen in unlearners.items()}

    def check_base(self, source: str) -> None:
        """Warn if a model folder says that it was made from other weights than the original's."""
        from .export.folder import read_facts

        made_from = read_facts(source).get("base", {}).get("sha256")
        if self.original and made_from not in (None, self.original.model.fingerprint()):
            warnings.warn(
                f"{source} was made from other weights than those of {self.original.source}"
                f" (SHA-256 {made_from[:12]}...), so what is set beside it is not its original;"
                " say where that is with --original.",
                stacklevel=2,
            )

    def erase(self, label: str, chosen: Unlearner) -> str:
        """One method: unlearn (resuming from its checkpoints), then write the model folder."""
        target = self.folder / "model" / label
        inputs = {
            "model": self.original.model.fingerprint(),
            "request": self.asked,
            "method": [chosen.name, what_matters(chosen)],
            "delta": self.recipe.delta,
        }
        delta = target.with_name(f"{label}.delta.safetensors")
        work = self.folder / "checkpoints" / f"{label}-{fingerprint(inputs)[:12]}"

        def erase() -> dict[str, Any]:
            from .export.delta import save_delta
            from .export.folder import export

            unlearned = resumable(chosen).unlearn(self.original.model, self.requests, folder=work)
            original = self.original.model
            export(unlearned, self.requests, chosen, target, original)
            if self.recipe.delta:
                save_delta(original, unlearned.model, delta, chosen.name, self.requests)
            return {
                "seconds": round(unlearned.seconds, 3),
                "peak_memory_gb": round(unlearned.peak_memory_gb, 4),
                "trained": list(unlearned.trained),
                "report": unlearned.report,
            }

        outputs = [target, delta] if self.recipe.delta else [target]
        self.stages.run(f"erase-{label}", inputs, erase, outputs)
        for old in (self.folder / "checkpoints").glob(f"{label}-????????????"):
            files.remove(old)
        return str(target)

    def measure(self, label: str, model: Denoiser) -> Scorecard:
        """The scorecard of one model, with what attacks find if the protocol has any."""
        if isinstance(self.recipe, AuditRecipe):
            card = self.blank(label, model)
        else:
            card = self.evaluate(label, model)
        if self.battery is None:
            return card
        from .evaluation.robustness import metrics_of

        inputs = {
            "model": model.fingerprint(),
            "original": self.original.model.fingerprint(),
            "protocol": self.protocol.model_dump(mode="json"),
            "request": self.asked,
            "targets": getattr(self.recipe, "targets", None),
        }
        found = self.stages.run(
            f"attack-{label}", inputs, lambda: self.battery.audit(model, label)
        ).result
        return card.attacked(found, metrics_of(found, self.battery.judge))

    @cached_property
    def battery(self) -> Battery | None:
        """The attacks of the protocol; None without any, or without something to bring back."""
        if not (self.protocol.robustness and self.requests and self.original):
            return None
        from .evaluation.robustness import Battery, open_judges

        targets = getattr(self.recipe, "targets", None)
        return Battery(
            self.original.model, self.requests, self.protocol,
            open_judges(self.protocol, self.original.model.device), self.attacks,
            Path(targets) if targets else None, self.stages.announce,
        )  # fmt: skip

    def blank(self, label: str, model: Denoiser) -> Scorecard:
        """A scorecard without measurements, for what attacks find."""
        from .evaluation.scorecard import Scorecard

        return Scorecard(
            model.name, None if label == ORIGINAL else label, self.asked, self.protocol.name, {},
            answers={"fingerprint": model.fingerprint()},
            settings=self.protocol.model_dump(mode="json"), environment=environment(),
        )  # fmt: skip

    def evaluate(self, label: str, model: Denoiser) -> Scorecard:
        """The scorecard of one model."""
        from .evaluation.scorecard import Scorecard

        inputs = {
            "model": model.fingerprint(),
            "original": self.original.model.fingerprint() if self.original else None,
            "protocol": self.protocol.model_dump(mode="json"),
            "request": self.asked,
            **self.protocol.contents(),
        }
        record = self.stages.run(
            f"evaluate-{label}", inputs, lambda: self.judge(label, model).to_json()
        )
        return Scorecard.from_json(record.result)

    def judge(self, label: str, model: Denoiser) -> Scorecard:
        from .evaluation.evaluate import evaluate

        erased = self.stages.records.get(f"erase-{label}")
        cost = None
        if erased:
            cost = {k: erased.result[k] for k in ("seconds", "peak_memory_gb")}
            saved = files.sizes(self.folder / "model" / label)
            weights = (size for name, size in saved.items() if name.endswith(".safetensors"))
            cost["storage_gb"] = sum(weights) / 1e9
        return evaluate(
            model,
            self.protocol,
            request=self.requests or None,
            original=self.original.model if self.original else None,
            folder=self.answers,
            method=None if label == ORIGINAL else label,
            cost=cost,
        )

    def places(self, scorecards: Mapping[str, Scorecard], key: str) -> dict[str, str]:
        """{model: folder of its answer set, from the run folder}, for those that have one."""
        return {
            label: os.path.relpath(self.answers / card.answers[key][:16], self.folder)
            for label, card in scorecards.items()
            if key in card.answers
        }

    def scores(self, scorecards: Mapping[str, Scorecard]) -> dict[str, Any]:
        """The content of ``scores.json``."""
        models = {}
        for label, card in scorecards.items():
            row = model_row(card)
            erased = self.stages.records.get(f"erase-{label}")
            if erased:
                row["trained_tensors"] = len(erased.result["trained"])
            models[label] = row
        return {
            "name": self.recipe.name,
            "request": self.asked,
            "protocol": self.protocol.name,
            "models": models,
            "answers": self.places(scorecards, "key"),
            "concept_answers": self.places(scorecards, "concept"),
            "wordings_answers": self.places(scorecards, "wordings"),
            "attacks": os.path.relpath(self.attacks, self.folder),
            "stages": {
                name: {"seconds": r.seconds, "peak_memory_gb": r.peak_memory_gb}
                for name, r in self.stages.records.items()
            },
            "environment": environment(),
        }


def resumable(chosen: Unlearner) -> Unlearner:
    """The same method with some ten checkpoints, if its settings ask for none."""
    if getattr(chosen, "checkpoint_every", None) == 0:
        every = max(1, chosen.steps // 10)
        return chosen.model_copy(update={"checkpoint_every": every})
    return chosen


def _train(recipe: TrainRecipe, folder: Path, announce: Announce) -> RunResult:
    """Trainers one after another; each resumes from its own checkpoints."""
    stages = Stages(folder, announce)
    data = recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
    jobs = recipe.jobs()
    data["trainers"] = [{"trainer": n, **job.model_dump(mode="json")} for n, job in jobs]
    write_recipe(folder, data, {"environment": environment()})
    before: list[Any] = []
    for number, (name, job) in enumerate(jobs):
        settings = [name, job.model_dump(mode="json")]
        output = folder / "model" / job.output

        def work(job: Any = job) -> dict[str, Any]:
            result = job.run(folder / "model")
            return {"steps": result.steps, "seconds": round(result.seconds, 3)}

        stages.run(f"train-{number}-{name}", {"before": before, "job": settings}, work, [output])
        before = [*before, settings]
    return RunResult(folder, stages=stages.records)
