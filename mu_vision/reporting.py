"""From a run folder to its report: everything is read from disk, so it can be built again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import files, validation
from .errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from .evaluation.answers import AnswerSet


def rebuild_report(folder: Path | str) -> Path:
    """Write ``report.html`` of a finished run; returns its path.

    Raises:
        UsageError: if the folder is not a run, has no scores yet, or is damaged.
    """
    folder = Path(folder)
    scores = read_scores(folder)
    if scores.get("kind") == "forget":
        return write_lab_report(folder)
    if scores.get("kind") == "gan":
        return write_gan_report(folder)
    return write_table_report(folder) if "table" in scores else write_run_report(folder)


def read_scores(folder: Path) -> dict[str, Any]:
    """``scores.json`` of a run folder.

    Raises:
        UsageError: if there is no such folder or file, or it is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no run folder {folder}.")
    path = folder / "scores.json"
    if not path.is_file():
        raise UsageError(
            f"{folder} has no scores.json: it is not a run folder, or the run is not finished yet"
            " (the same mu-vision run goes on with it)."
        )
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged; run the recipe again to write it anew.") from error
    if not isinstance(scores, dict) or not ("models" in scores or "table" in scores):
        raise UsageError(f"{path} does not hold the scores of a run.")
    return scores


def write_run_report(folder: Path) -> Path:
    """The report of one request."""
    from .export.folder import read_facts
    from .report.build import ReportData, write_report

    scores, recipe = read_scores(folder), _recipe(folder)
    models = scores["models"]
    data = ReportData(
        name=scores["name"],
        request=scores["request"],
        scorecards={label: model["scorecard"] for label, model in models.items()},
        answers=_answer_sets(folder, scores, "answers", "key"),
        concepts=_answer_sets(folder, scores, "concept_answers", "concept"),
        attacked=_attacked(folder, scores),
        unattacked=_unattacked(folder, scores),
        recipe=_as_asked(recipe),
        environment=scores["environment"],
        methods={label: m for label in models if (m := read_facts(folder / "model" / label))},
        protocol=_resolved(recipe, "protocol"),
        model=str(recipe.get("model") or recipe.get("original") or ""),
        command=f"mu-vision run {shlex.quote(str(folder / 'recipe.yaml'))}",
    )
    return write_report(data, folder / "report.html")


def write_table_report(folder: Path) -> Path:
    """The report of a table of requests."""
    from .report.build import TableData, write_table

    scores, recipe = read_scores(folder), _recipe(folder)
    data = TableData(
        name=scores["name"],
        rows=scores["rows"],
        recipe=_as_asked(recipe),
        environment=scores["environment"],
        protocol=_resolved(recipe, "protocol"),
        model=str(recipe.get("model") or ""),
        command=f"mu-vision run {shlex.quote(str(folder / 'recipe.yaml'))}",
    )
    return write_table(data, folder / "report.html")


def write_lab_report(folder: Path) -> Path:
    """The report of classifiers or regressors that forgot samples."""
    from .report.lab import LabData, write_lab
    from .report.regression import write_regression

    scores, recipe = read_scores(folder), _recipe(folder)
    data = LabData(
        name=scores["name"],
        scores=scores,
        recipe=_as_asked(recipe),
        environment=scores["environment"],
        command=f"mu-vision run {shlex.quote(str(folder / 'recipe.yaml'))}",
    )
    write = write_regression if scores.get("family") == "regressor" else write_lab
    return write(data, folder / "report.html")


def write_gan_report(folder: Path) -> Path:
    """The report of GANs that forgot."""
    import numpy as np

    from .report.gan import GanData, write_gan

    scores, recipe = read_scores(folder), _recipe(folder)
    pictures: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for group in scores["groups"]:
        name = f"seed{scores['seeds'][0]}-{group}"
        kept = folder / "pictures" / f"{name}.npz"
        noted = folder / "checkpoints" / "stages" / f"{name}-pictures.json"
        if kept.is_file() and noted.is_file():
            with np.load(kept) as stored:
                pictures[group] = {key: stored[key] for key in stored.files}
            about[group] = json.loads(noted.read_text(encoding="utf-8"))["result"]
    data = GanData(
        name=scores["name"],
        scores=scores,
        pictures=pictures,
        about=about,
        recipe=_as_asked(recipe),
        environment=scores["environment"],
        command=f"mu-vision run {shlex.quote(str(folder / 'recipe.yaml'))}",
    )
    return write_gan(data, folder / "report.html")


def _recipe(folder: Path) -> dict[str, Any]:
    path = folder / "recipe.yaml"
    return validation.read_yaml_file(path, f"recipe {path}")


def _resolved(recipe: Mapping[str, Any], key: str) -> dict[str, Any]:
    return (recipe.get("resolved") or {}).get(key) or {}


def _as_asked(recipe: Mapping[str, Any]) -> str:
    """The recipe's YAML without what the run noted in it."""
    kept = {key: value for key, value in recipe.items() if key != "resolved"}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _answer_sets(
    folder: Path, scores: Mapping[str, Any], which: str, key: str
) -> dict[str, AnswerSet]:
    """{model: the answer set that its scorecard was made from}; none if it was deleted."""
    found = {}
    for label, place in scores.get(which, {}).items():
        known = scores["models"][label]["scorecard"]["answers"][key]
        if (answers := _answers(folder / place, known)) is not None:
            found[label] = answers
    return found


def _attacked(folder: Path, scores: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """{model: {attack: its pictures of the cases}}; none of those that were deleted."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for label, robustness in _robustness(scores).items():
        cases, found[label] = robustness["cases"], {}
        for name, record in robustness["attacks"].items():
            pictures = _attack_pictures(folder, scores, record["key"])
            if pictures is not None:
                found[label][name] = _as_many(pictures, cases, record["key"])
    return found


def _unattacked(folder: Path, scores: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{model: [2, N, H, W, 3], the target pictures and its own without attack}."""
    found = {}
    for label, robustness in _robustness(scores).items():
        if (key := robustness.get("before")) is None:
            continue
        pictures = _attack_pictures(folder, scores, key)
        if pictures is not None:
            _as_many(pictures[0], robustness["cases"], key)
            found[label] = pictures
    return found


def _robustness(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What attacks found on the edited models that were attacked."""
    from .report.views import ORIGINAL

    cards = {label: model["scorecard"] for label, model in scores["models"].items()}
    return {
        label: card["robustness"]
        for label, card in cards.items()
        if card.get("robustness") and label != ORIGINAL
    }


def _attack_pictures(folder: Path, scores: Mapping[str, Any], key: str) -> np.ndarray | None:
    from .evaluation.robustness import pictures_of

    return pictures_of(folder / scores.get("attacks", "attacks"), key)


def _as_many(pictures: np.ndarray, cases: int, key: str) -> np.ndarray:
    if len(pictures) != cases:
        raise UsageError(
            f"{key}.npz holds pictures of {len(pictures)} prompts and the scores are of {cases}; run"
            " the recipe again."
        )
    return pictures


def answer_places(scores: Mapping[str, Any]) -> list[str]:
    """Folders of all answer sets that a run's scores were made from."""
    kinds = ("answers", "concept_answers", "wordings_answers")
    return [place for kind in kinds for place in scores.get(kind, {}).values()]


def _answers(place: Path, known: str) -> AnswerSet | None:
    from .evaluation.answers import AnswerSet

    if not (place / "answers.json").is_file():
        return None
    answers = AnswerSet.load(place)
    if answers.key != known:
        raise UsageError(f"{place} holds other pictures than were scored; run the recipe again.")
    return answers


def forget_stale(root: Path, keep: Iterable[str]) -> None:
    """Delete the answer sets of earlier settings below ``root``; ``keep`` ends in their names."""
    kept = {Path(place).name for place in keep}
    for found in root.glob("?" * 16):
        if found.is_dir() and found.name not in kept:
            files.remove(found)
