"""Carry out a ``forget`` recipe: originals, Retrain, every method, their metrics, one table.

    runs/<name>/  recipe.yaml  model/seed<n>/original  model/seed<n>/<group>/<method>  forget_sets/
                  scores.json  table.csv  table.md  report.html  log.jsonl

One seed is one original model, one split and one run of every method, so spreads are over models,
not only over splits. The time of a method is that of ``unlearn`` alone.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from . import files
from .data.selectors import ForgetRequest, load_forget_set
from .environment import environment
from .errors import RunError
from .evaluation import forgetting
from .models.classifier import Classifier
from .models.predictor import Predictor
from .pruning import Pruning
from .recipe import ForgetRecipe
from .recipes.forgetting import YARDSTICK
from .runs import ORIGINAL, Announce, RunResult, write_recipe
from .shadows import Shadows
from .stages import Stages, fingerprint, open_run
from .unlearn.samples import forget_in_turn

RATES = (
    "ua", "ra", "ta", "mia", "asr", "gap", "mia_gap", "js", "mia_entropy", "probe", "one_shot",
    "lira", "lira_auc", "sparsity",
)  # fmt: skip
COLUMNS = (*RATES, "weight_distance", "relearn_time", "ain", "seconds")


class Lab:
    """One recipe in one run folder.

    What is of one family of models is a method or an attribute: see ``lab_regression``.

    Attributes:
        model: the class of the models.
        columns: metrics whose means over seeds the table has.
    """

    model: type[Predictor] = Classifier
    columns: tuple[str, ...] = COLUMNS

    def __init__(self, recipe: ForgetRecipe, folder: Path, announce: Announce):
        self.recipe, self.folder, self.stages = recipe, folder, Stages(folder, announce)
        self.splits = recipe.splits()
        self.shadows = Shadows(self)

    def run(self) -> RunResult:
        recipe, folder = self.recipe, self.folder
        requests = recipe.requests(self.splits)
        open_run(folder)
        data = recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
        write_recipe(folder, data, {"state": "begun"})
        rows, closer = [], {}
        for seed in recipe.seeds:
            for group in recipe.groups:
                original = self.original(seed, recipe.pruning(group))
                if (seed, group) not in requests:
                    requests[seed, group] = self.searched(seed, group, original)
                found, models = self.group(seed, group, original, requests[seed, group])
                rows.extend(found)
                if seed == recipe.seeds[0]:
                    closer[group] = self.closer(group, requests[seed, group], models)
        scores = {
            "name": recipe.name,
            "kind": "forget",
            "requests": {
                group: requests[recipe.seeds[0], group].model_dump() for group in recipe.groups
            },
            "seeds": list(recipe.seeds),
            "axis": recipe.axis(),
            **self.facts(),
            "rows": rows,
            "table": summarize(rows, self.columns),
            "closer": closer,
            "environment": environment(),
        }
        write_recipe(folder, data, {"environment": scores["environment"]})
        files.write_json(folder / "scores.json", scores)
        files.write_text(folder / "table.csv", as_csv(scores["table"], self.columns))
        files.write_text(folder / "table.md", self.markdown(scores["table"]))
        from .reporting import write_lab_report

        report = write_lab_report(folder)
        return RunResult(
            folder, scores, report=report, table=scores["table"], stages=self.stages.records
        )

    def original(self, seed: int, pruning: Pruning | None = None) -> Classifier:
        """The trained model of a seed, dense or pruned; made once for all groups."""
        trainer, name = self.recipe.trainer(seed), ORIGINAL
        settings = pruning and pruning.model_dump(mode="json")
        if pruning:
            name = f"{ORIGINAL}-{pruning.how}{100 * pruning.sparsity:g}"
            name += f"-{fingerprint(settings)[:6]}"
        place = self.folder / "model" / f"seed{seed}" / name

        inputs = {
            "trainer": trainer.model_dump(mode="json"), "data": self.splits.train.fingerprint,
            "pruning": settings,
        }  # fmt: skip
        # keyed by all of them: after a change the training begins anew instead of being refused
        unfinished = self.folder / "checkpoints" / f"seed{seed}-{name}-{fingerprint(inputs)[:12]}"

        def work() -> dict[str, Any]:
            started = time.perf_counter()
            if pruning:
                model = pruning.prune(None, self.splits, trainer)
            else:
                model, _ = trainer.fit(self.splits, unfinished)
            model.save(place)
            files.remove(unfinished)
            return {"seconds": round(time.perf_counter() - started, 3)}

        self.stages.run(f"train-seed{seed}-{name}", inputs, work, [place])
        return self.model.load(place)

    def searched(self, seed: int, group: str, original: Classifier) -> ForgetRequest:
        """The forget set that a search finds on the original; kept as a file that others can load."""
        search = self.recipe.forget_set(group, seed)
        path = self.folder / "forget_sets" / f"seed{seed}-{group}.json"

        def work() -> dict[str, Any]:
            found = search.select(original, self.splits)
            found.request.save(path)
            return {"seconds": round(found.seconds, 3), "overlaps": list(found.history)}

        inputs = {"search": search.model_dump(mode="json"), "original": original.fingerprint()}
        self.stages.run(f"select-seed{seed}-{group}", inputs, work, [path])
        return load_forget_set(path, self.splits)

    def group(
        self, seed: int, group: str, original: Classifier, request: ForgetRequest
    ) -> tuple[list[dict[str, Any]], dict[str, Classifier]]:
        """Rows and models of one forget set with one seed; Retrain comes first."""
        rows: list[dict[str, Any]] = []
        models: dict[str, Classifier] = {}

        @cache
        def gold() -> Any:
            return self.yardstick(models[YARDSTICK], request, original)

        def measured(model: Any, yardstick: Any) -> dict[str, Any]:
            return self.measured(model, request, original, yardstick, seed)

        for label, method in self.recipe.methods(group, seed).items():
            place = self.folder / "model" / f"seed{seed}" / group / label
            retrained = models.get(YARDSTICK)
            inputs = {
                "method": [method.name, method.model_dump(mode="json")],
                "original": original.fingerprint(),
                "request": request.model_dump(),
                "yardstick": retrained and retrained.fingerprint(),
                **self.asked(),
            }

            def work(label=label, method=method, place=place) -> dict[str, Any]:
                try:
                    model, seconds = forget_in_turn(method, original, request)
                except RunError as error:
                    # a method that destroys the network, or moves nothing, is a result too
                    files.remove(place)
                    files.write_text(place / "failed.txt", f"{error}\n")
                    self.stages.announce(f"{label} has no numbers: {error}")
                    return {"failed": str(error)}
                model.name = place.name
                model.save(place)
                if YARDSTICK not in models:
                    models[YARDSTICK] = model
                found = measured(model, gold())
                return {**found, "seconds": seconds}

            name = f"seed{seed}-{group}-{label}"
            result = self.stages.run(name, inputs, work, [place]).result
            row = {"group": group, "method": label, "seed": seed, **result}
            if label == YARDSTICK and "failed" in result:
                raise RunError(
                    f"Retrain, the yardstick, failed on {request.name}: {result['failed']}"
                )
            if "failed" not in result:
                models[label] = self.model.load(place)
            rows.append(row)
        inputs = {
            "original": original.fingerprint(), "request": request.model_dump(),
            "yardstick": models[YARDSTICK].fingerprint(), **self.asked(),
        }  # fmt: skip
        name = f"seed{seed}-{group}-{ORIGINAL}"
        result = self.stages.run(name, inputs, lambda: measured(original, gold())).result
        models = {ORIGINAL: original, **models}
        rows.insert(0, {"group": group, "method": ORIGINAL, "seed": seed, **result})
        return self.compared(seed, group, request, rows), models

    def compared(
        self, seed: int, group: str, request: ForgetRequest, rows: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The rows of one forget set with what takes all of them: AIN, and U-LiRA if it is asked for."""
        forgetting.compare_relearning([row for row in rows if "relearn" in row])
        if not self.recipe.lira:
            return rows
        attacked = self.shadows.attack(seed, group, request)
        return [row if "failed" in row else {**row, **attacked[row["method"]]} for row in rows]

    def facts(self) -> dict[str, Any]:
        """What the report has to know of the data."""
        return {"classes": list(self.splits.classes)}

    def asked(self) -> dict[str, Any]:
        """What the recipe says about measuring."""
        return {"probe": self.recipe.probe, "relearn": self.recipe.relearn}

    def yardstick(self, retrained: Any, request: ForgetRequest, original: Any) -> Any:
        """What every method is compared with, computed once."""
        return forgetting.Yardstick.of(retrained, request)

    def measured(
        self, model: Any, request: ForgetRequest, original: Any, yardstick: Any, seed: int
    ) -> dict[str, Any]:
        """The metrics of one model."""
        found = forgetting.measure(model, request, yardstick, self.recipe.probe)
        return {**found, **self.relearned(model, request, seed)}

    def markdown(self, table: Sequence[Mapping[str, Any]]) -> str:
        """The table as papers print it."""
        return as_markdown(table)

    def relearned(self, model: Classifier, request: ForgetRequest, seed: int) -> dict[str, Any]:
        if not self.recipe.relearn:
            return {}
        return {"relearn": forgetting.relearn_curve(model, request, self.recipe.relearn, seed=seed)}

    def closer(
        self, group: str, request: ForgetRequest, models: Mapping[str, Classifier]
    ) -> dict[str, Any]:
        """Histograms and confusions of the first seed, for the report."""
        return {
            label: {
                "confidences": forgetting.confidences(
                    forgetting.Outputs.of(model, request), request
                ),
                "confusion": forgetting.confusion(model, request),
            }
            for label, model in models.items()
        }


def run_lab(recipe: ForgetRecipe, folder: Path, announce: Announce) -> RunResult:
    """See ``Lab``."""
    if recipe.family == "regressor":
        from .lab_regression import RegressionLab

        return RegressionLab(recipe, folder, announce).run()
    return Lab(recipe, folder, announce).run()


def summarize(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS
) -> list[dict[str, Any]]:
    """One row a group and method: mean and spread over seeds of every metric.

    ``<metric>_half`` is half of the 95 % interval of the mean (Student's t), None with one seed; a
    method that failed with a seed says how often.
    """
    table = []
    for group, method in dict.fromkeys((row["group"], row["method"]) for row in rows):
        mine = [r for r in rows if (r["group"], r["method"]) == (group, method)]
        good = [row for row in mine if "failed" not in row]
        line: dict[str, Any] = {
            "group": group, "method": method, "seeds": len(mine), "failed": len(mine) - len(good)
        }  # fmt: skip
        for key in columns:
            values = [row[key] for row in good if row.get(key) is not None]
            if len(values) == len(good) and values:
                line[key] = fmean(values)
                line[f"{key}_half"] = half_width(values)
        table.append(line)
    return table


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean of few values."""
    from scipy.stats import t

    freedom = len(values) - 1
    if not freedom:
        return None
    return float(t.ppf(0.975, freedom)) * stdev(values) / math.sqrt(len(values))


def as_csv(table: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    names = ["group", "method", "seeds", "failed"]
    names += [name for key in columns for name in (key, f"{key}_half")]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Tables as papers print them: value (gap to Retrain), in percent, a block a group."""
    from .report.views import title_of

    # columns of measurements that a recipe has to ask for
    more = [key for key in ("lira", "ain") if any(line.get(key) is not None for line in table)]
    heads = [
        "method",
        "UA",
        "RA",
        "TA",
        "MIA",
        "Avg. Gap",
        *({"lira": "U-LiRA", "ain": "AIN"}[k] for k in more),
        "seconds",
    ]
    blocks = []
    for group in dict.fromkeys(line["group"] for line in table):
        mine = [line for line in table if line["group"] == group]
        gold = next(line for line in mine if line["method"] == YARDSTICK)
        text = [
            f"### {group}", "", f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"
        ]  # fmt: skip
        for line in mine:
            cells = [beside(line, gold, key) for key in ("ua", "ra", "ta", "mia")]
            cells.append(percent(line, "gap"))
            cells += [percent(line, k) if k == "lira" else plain(line, k) for k in more]
            cells.append(number(line))
            text.append(f"| {title_of(line['method'])} | " + " | ".join(cells) + " |")
        blocks.append("\n".join(text))
    return "\n\n".join(blocks) + "\n"


def percent(line: Mapping[str, Any], key: str) -> str:
    """``97.3 ± 1.2``, in percent."""
    if line.get(key) is None:
        return "–"
    half = line.get(f"{key}_half")
    return f"{100 * line[key]:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def plain(line: Mapping[str, Any], key: str) -> str:
    """``1.20 ± 0.31``, as it is."""
    if line.get(key) is None:
        return "–"
    half = line.get(f"{key}_half")
    return f"{line[key]:.2f}" + ("" if half is None else f" ± {half:.2f}")


def beside(line: Mapping[str, Any], gold: Mapping[str, Any], key: str) -> str:
    """``97.3 ± 1.2 (2.7)``: the value, and its distance to Retrain's."""
    if line.get(key) is None or line["method"] == YARDSTICK:
        return percent(line, key)
    return f"{percent(line, key)} ({100 * abs(line[key] - gold[key]):.1f})"


def number(line: Mapping[str, Any]) -> str:
    """Seconds, without their spread."""
    return "–" if line.get("seconds") is None else f"{line['seconds']:.2f}"
