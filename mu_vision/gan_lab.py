"""Carry out a ``gan`` recipe: judges, stage 1, every method, their numbers, pictures, one table.

    runs/<name>/  recipe.yaml  judges/  model/seed<n>/<group>/<method>  pictures/
                  scores.json  table.csv  table.md  report.html  log.jsonl

One seed is one run of every method on the same GAN: other feedback, other batches, other adapted
GANs. Adapted GANs are trained once a seed and shared by all methods that need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import files
from .data.feedback import GanRequest, load_marks
from .data.labelled import Splits, load_splits, named
from .environment import environment
from .errors import RunError
from .evaluation.gan import GanBench, Look
from .evaluation.judges import load_clip
from .evaluation.oracles import Scorer, ScorerOracle
from .lab import as_csv, summarize
from .models.classifier import Classifier
from .models.gan import Gan
from .recipe import GanRecipe
from .recipes.gan import ADAPTED
from .report.gan import RETRAINED
from .runs import ORIGINAL, Announce, RunResult, write_recipe
from .stages import Stages, open_run
from .train.gan import kept_samples
from .unlearn.gan.adaptation import AdaptingUnlearner
from .unlearn.gan.extrapolation import extrapolated

COLUMNS = (
    "pul", "pul_gap", "negatives", "fid", "ret_fid", "fid_ratio", "found", "balance", "moved", "path",
    "sure", "r", "seconds",
)  # fmt: skip
SHOWN, WALKED = 16, 6


def read_inputs(recipe: GanRecipe) -> tuple[Gan, Splits]:
    """The GAN and the real pictures that a recipe names, at the GAN's resolution.

    All else that it names is looked at too, so a fault is found before anything is written.

    Raises:
        MissingFiles: if the data set has to be fetched first.
        UsageError: if a GAN or a file of marks is missing, or does not fit; if the data set has no
            such class; or if a judge cannot be built for it.
    """
    original = Gan.load(recipe.model)
    original.name = recipe.model
    for group in recipe.groups.values():
        if group.retrained:
            Gan.load(group.retrained)
        if group.marks:
            load_marks(group.marks).check(original)
    found, size = load_splits(recipe.data, recipe.root), original.config.size
    for group in recipe.groups.values():
        named(found.classes, group.target)
    # judges learn at the GAN's resolution: pictures that were scaled twice are softer
    splits = Splits(
        found.name, kept_samples(found.train, (), size), kept_samples(found.test, (), size)
    )
    for which in ("oracle", "scorer"):
        recipe.judge(which).untrained(splits)
    return original, splits


class GanLab:
    """One recipe in one run folder."""

    def __init__(self, recipe: GanRecipe, folder: Path, announce: Announce):
        self.recipe, self.folder, self.stages = recipe, folder, Stages(folder, announce)
        self.model, self.splits = read_inputs(recipe)

    def run(self) -> RunResult:
        recipe, folder = self.recipe, self.folder
        open_run(folder)
        data = recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
        write_recipe(folder, data, {"state": "begun"})
        self.oracle, self.scorer = self.judge("oracle"), self.judge("scorer")
        self.clip = load_clip("minicanvas/clip")
        rows: list[dict[str, Any]] = []
        for seed in recipe.seeds:
            for group in recipe.groups:
                rows.extend(GroupRun(self, group, seed).rows())
        table = summarize(rows, COLUMNS)
        scores = {
            "name": recipe.name, "kind": "gan", "seeds": list(recipe.seeds),
            "model": {"name": recipe.model, "sha256": self.model.fingerprint()},
            "groups": {name: self.about(name) for name in recipe.groups},
            "classes": list(self.scorer.classes), "latents": recipe.latents, "rows": rows,
            "table": table, "environment": environment(),
        }  # fmt: skip
        write_recipe(folder, data, {"environment": scores["environment"]})
        files.write_json(folder / "scores.json", scores)
        files.write_text(folder / "table.csv", as_csv(table, COLUMNS))
        files.write_text(folder / "table.md", as_markdown(table))
        from .reporting import write_gan_report

        report = write_gan_report(folder)
        return RunResult(folder, scores, report=report, table=table, stages=self.stages.records)

    def about(self, group: str) -> dict[str, Any]:
        spec = self.recipe.groups[group]
        return {"target": spec.target, "kind": spec.kind, "retrained": spec.retrained}

    def judge(self, which: str) -> Scorer:
        """A classifier of the data set, trained once."""
        trainer, place = self.recipe.judge(which), self.folder / "judges" / which
        train = self.splits.train

        def work() -> dict[str, Any]:
            model, result = trainer.fit(self.splits)
            model.save(place)
            right = model.logits(self.splits.test.x).argmax(1) == self.splits.test.y
            return {"seconds": result.seconds, "test_accuracy": float(right.float().mean())}

        inputs = {"trainer": trainer.model_dump(mode="json"), "data": train.fingerprint}
        self.stages.run(f"judge-{which}", inputs, work, [place])
        model = Classifier.load(place)
        model.name = which
        return Scorer.of_classifier(model, train.x.shape[1], train.x.shape[-1])


class GroupRun:
    """One target with one seed."""

    def __init__(self, lab: GanLab, group: str, seed: int):
        self.lab, self.group, self.seed, self.recipe = lab, group, seed, lab.recipe
        self.spec, self.stages = lab.recipe.groups[group], lab.stages
        self.place = lab.folder / "model" / f"seed{seed}" / group
        self.bench = GanBench(
            lab.scorer, lab.oracle, self.spec.target, lab.clip, lab.splits.test, lab.recipe.latents,
            lab.recipe.attack(), self.spec.scored,
        )  # fmt: skip
        oracle = ScorerOracle(lab.oracle, self.spec.target, self.spec.threshold)
        if self.spec.marks:
            marks = load_marks(self.spec.marks)
            self.request = GanRequest(self.spec.target, None, marks, self.spec.kind)
        else:
            self.request = GanRequest(self.spec.target, oracle, None, self.spec.kind)
        self.models: dict[str, Gan] = {ORIGINAL: lab.model}

    @cached_property
    def original(self) -> Look:
        return self.bench.look(self.lab.model)

    @cached_property
    def retrained_gan(self) -> Gan | None:
        return Gan.load(self.spec.retrained) if self.spec.retrained else None

    @cached_property
    def retrained(self) -> Look | None:
        """On other latents, so that its distance to itself says how small Ret-FID can be."""
        return self.retrained_gan and self.bench.look(self.retrained_gan, "report-other")

    def rows(self) -> list[dict[str, Any]]:
        """The original, the retrained GAN, then every method."""
        base = self.measured(ORIGINAL, self.lab.model)
        rows = [base]
        if self.retrained_gan:
            self.models[RETRAINED] = self.retrained_gan
            rows.append(self.measured(RETRAINED, self.retrained_gan))
        adapted = self.adapted()
        for label, method in self.recipe.methods(self.group, self.seed).items():
            if isinstance(method, AdaptingUnlearner):
                method = method.model_copy(update={"adapted": tuple(map(str, adapted))})
            rows.append(self.unlearned(label, method))
        gold = rows[1]["pul"] if self.retrained_gan else None
        for row in (row for row in rows if "failed" not in row):
            row["fid_ratio"] = row["fid"] / base["fid_all"]
            if row["search"]:
                # the largest budget finds nearly everything in any GAN, the smallest nearly nothing
                row["found"] = row["search"][len(row["search"]) // 2]["value"]
            if gold is not None:
                row["pul_gap"] = abs(row["pul"] - gold)
        self.draw([Gan.load(place) for place in adapted])
        return rows

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What every edit depends on besides the method."""
        return {"original": self.lab.model.fingerprint(), "request": self.request.model_dump()}

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What every number depends on besides the GAN that is measured."""
        gold = self.retrained_gan
        return {
            **self.asked, "scorer": self.lab.scorer.fingerprint, "latents": self.recipe.latents,
            "scored": self.spec.scored, "search": self.recipe.search,
            "clip": self.lab.clip.fingerprint, "real": self.lab.splits.test.fingerprint,
            "retrained": gold and gold.fingerprint(),
        }  # fmt: skip

    def measured(self, label: str, model: Gan) -> dict[str, Any]:
        """The numbers of one GAN."""

        def work() -> dict[str, Any]:
            look = self.original if label == ORIGINAL else self.bench.look(model)
            return self.bench.measure(look, self.original, self.retrained)

        inputs = {**self.inputs, "model": model.fingerprint()}
        name = f"seed{self.seed}-{self.group}-{label}"
        found = self.stages.run(name, inputs, work).result
        return {"group": self.group, "method": label, "seed": self.seed, **found}

    def adapted(self) -> list[Path]:
        """Stage 1: GANs adapted to the negatives, if a method needs them."""
        methods = self.recipe.methods(self.group, self.seed).values()
        if not any(isinstance(method, AdaptingUnlearner) for method in methods):
            return []
        stage = self.recipe.stage_one(self.group, self.seed)
        places = [self.place / f"{ADAPTED}-{number}" for number in range(stage.models)]
        unfinished = self.lab.folder / "checkpoints" / f"seed{self.seed}-{self.group}-{ADAPTED}"

        def work() -> dict[str, Any]:
            gans, results = stage.adapt(self.lab.model, (self.request,), unfinished, stage.steps)
            for place, gan in zip(places, gans, strict=True):
                gan.save(place)
            files.remove(unfinished)
            return {"seconds": sum(result.seconds for result in results)}

        inputs = {**self.asked, "stage": stage.model_dump(mode="json")}
        self.stages.run(f"seed{self.seed}-{self.group}-{ADAPTED}", inputs, work, places)
        return places

    def unlearned(self, label: str, method: Any) -> dict[str, Any]:
        """One method: edit, keep the GAN, measure it."""
        place = self.place / label
        unfinished = self.lab.folder / "checkpoints" / f"seed{self.seed}-{self.group}-{label}"

        def work() -> dict[str, Any]:
            try:
                done = method.unlearn(self.lab.model, self.request, unfinished)
            except RunError as error:
                # a method that ruins the GAN, or moves nothing, is a result too
                files.remove(place)
                files.write_text(place / "failed.txt", f"{error}\n")
                return {"failed": str(error)}
            finally:
                files.remove(unfinished)
            done.model.save(place)
            kept = ("r", "watched", "stopped", "steps")
            told = {key: done.report[key] for key in kept if key in done.report}
            return {**told, "seconds": done.seconds}

        # the adapted GANs are a function of stage 1, whatever folder they lie in
        settings = method.model_dump(mode="json", exclude={"adapted"})
        stage = self.recipe.stage_one(self.group, self.seed).model_dump(mode="json")
        inputs = {**self.asked, "method": [method.name, settings], "stage": stage}
        name = f"seed{self.seed}-{self.group}-{label}-unlearn"
        told = self.stages.run(name, inputs, work, [place]).result
        if "failed" in told:
            return {"group": self.group, "method": label, "seed": self.seed, **told}
        self.models[label] = Gan.load(place)
        return {**self.measured(label, self.models[label]), **told}

    def draw(self, adapted: Sequence[Gan]) -> None:
        """Pictures of the same latents of every GAN, and the walk along theta_N - theta_G."""
        path = self.lab.folder / "pictures" / f"seed{self.seed}-{self.group}.npz"

        def work() -> dict[str, Any]:
            shown = np.flatnonzero(self.original.shows)[: SHOWN // 2]
            others = np.flatnonzero(~self.original.shows)[: SHOWN - len(shown)]
            rows = [*shown.tolist(), *others.tolist()]
            arrays = {
                f"grid.{label}": self.bench.show(gan, rows) for label, gan in self.models.items()
            }
            shares = []
            for number, s in enumerate(self.recipe.walk if adapted else ()):
                gan = extrapolated(self.lab.model, adapted, s)
                chance = self.bench.scorer.chance(self.bench.pictures(gan), self.spec.target)
                shares.append([s, float((chance >= self.spec.scored).float().mean())])
                half = [*rows[: WALKED // 2], *rows[len(shown) : len(shown) + WALKED // 2]]
                arrays[f"walk.{number}"] = self.bench.show(gan, half)
            with files.replacing(path) as partial, open(partial, "wb") as file:
                np.savez(file, **arrays)
            return {"shown": len(shown), "walk": shares}

        inputs = {
            **self.inputs, "models": {k: gan.fingerprint() for k, gan in self.models.items()},
            "adapted": [gan.fingerprint() for gan in adapted], "walk": list(self.recipe.walk),
        }  # fmt: skip
        self.stages.run(f"seed{self.seed}-{self.group}-pictures", inputs, work, [path])


def run_gan_lab(recipe: GanRecipe, folder: Path, announce: Announce) -> RunResult:
    """See ``GanLab``."""
    return GanLab(recipe, folder, announce).run()


def as_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as the paper prints it: a block a group."""
    from .report.gan import HEADINGS, cell, title_of

    blocks = []
    for group in dict.fromkeys(line["group"] for line in table):
        mine = [line for line in table if line["group"] == group]
        shown = [key for key in HEADINGS if any(line.get(key) is not None for line in mine)]
        text = [
            f"### {group}", "", "| method | " + " | ".join(HEADINGS[key] for key in shown) + " |",
            "|---|" + "---:|" * len(shown),
        ]  # fmt: skip
        for line in mine:
            cells = [" ".join(filter(None, cell(line, key))) for key in shown]
            text.append(f"| {title_of(line['method'])} | " + " | ".join(cells) + " |")
        blocks.append("\n".join(text))
    return "\n\n".join(blocks) + "\n"


__all__ = ["COLUMNS", "RETRAINED", "GanLab", "read_inputs", "run_gan_lab"]
