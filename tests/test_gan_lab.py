"""The gan recipe on tiny GANs: its table, its report, a resume, and what is refused first."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from gans import tiny_gan
from labelled import few_digits
from typer.testing import CliRunner

from mu_vision.cli import app
from mu_vision.data import labelled as data
from mu_vision.data.feedback import Marks, load_marks
from mu_vision.errors import UsageError
from mu_vision.models.gan import Gan
from mu_vision.plan import plan
from mu_vision.recipe import make_recipe
from mu_vision.reporting import rebuild_report
from mu_vision.runner import run
from mu_vision.runs import without_times

GAME = {"batch": 8, "lr": 0.01, "samples": 200, "path_every": 2, "r1_every": 2, "average": 0.9}


@pytest.fixture(scope="module", autouse=True)
def only_few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.DATASETS, "digits", lambda root: few_digits())
        yield


def target_of(gan: Gan) -> dict:
    """A digit, and a threshold from which both judges see it in a third of an untrained GAN's pictures."""
    from mu_vision.evaluation.oracles import Scorer
    from mu_vision.train.classifier import ClassifierTrainer

    judges = [
        Scorer.of_classifier(ClassifierTrainer(epochs=2, seed=s).fit(few_digits())[0], 1, 8)
        for s in (1, 2)
    ]
    sums = [judge.chances(gan.draw(200, "feedback", 0)) for judge in judges]
    sums += [judge.chances(gan.pictures(gan.latents(96, "report"))) for judge in judges]
    often = torch.stack([x.quantile(0.7, dim=0) for x in sums]).amin(0)
    least = float(often.max())
    return {"target": str(int(often.argmax())), "threshold": least, "scored": least}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    place = tmp_path_factory.mktemp("gans")
    tiny_gan().save(place / "original")
    tiny_gan(seed=1).save(place / "retrained")
    return {
        "name": "tiny", "kind": "gan", "model": str(place / "original"), "data": "digits",
        "oracle": {"seed": 1, "epochs": 2}, "scorer": {"seed": 2, "epochs": 2}, "latents": 96,
        "search": {"starts": 6, "budgets": [0, 2]}, "walk": [-1, 0, 1],
        "groups": {
            "one": {
                **target_of(tiny_gan()),
                "retrained": str(place / "retrained"),
                "adapt": {"steps": 3, "models": 2, "negatives": 8, "fisher_samples": 4, **GAME},
                "methods": {
                    "positives": {"steps": 4, "check_every": 2, "check_latents": 64, **GAME},
                    "extrapolation": {"s": -0.5},
                    "adapt_then_unlearn_nl2": {
                        "method": "adapt_then_unlearn", "repulsion": "nl2", "steps": 4,
                        "r_stop": 1e9, **GAME,
                    },
                },
            }
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory):
    return run(make_recipe(recipe), tmp_path_factory.mktemp("run") / "tiny")


def test_every_method_stands_beside_the_original_and_the_retrained(done):
    lines = {line["method"]: line for line in done.table}
    assert list(lines) == [
        "original", "retrained", "positives", "extrapolation", "adapt_then_unlearn_nl2"
    ]  # fmt: skip
    assert not any(line["failed"] for line in lines.values())
    assert lines["original"]["pul"] == 0 and lines["original"]["moved"] == 0
    gold = lines["retrained"]
    assert gold["pul"] != 0 and gold["pul_gap"] == 0
    for line in lines.values():
        assert line["pul_gap"] == pytest.approx(abs(line["pul"] - gold["pul"]))
    assert lines["extrapolation"]["seconds"] == 0 < lines["positives"]["seconds"]
    for line in lines.values():
        assert {"fid", "ret_fid", "fid_ratio", "found", "balance", "path", "pul_gap"} <= set(line)
    assert lines["adapt_then_unlearn_nl2"]["r"] > 0
    rows = {row["method"]: row for row in done.scores["rows"]}
    assert sum(rows["positives"]["counts"]) == 96
    assert [s for s, _ in rows["positives"]["watched"]] == [0, 2, 4]
    assert [rate["total"] for rate in rows["original"]["search"]] == [6, 6]
    before = rows["original"]["negatives_hits"]
    after = rows["positives"]["negatives_hits"]
    assert rows["positives"]["pul"] == pytest.approx(100 * (before - after) / before)


def test_what_a_run_leaves_behind(done):
    folder = done.folder
    for label in ("adapted-0", "adapted-1", "positives", "adapt_then_unlearn_nl2"):
        Gan.load(folder / "model/seed0/one" / label)
    with np.load(folder / "pictures/seed0-one.npz") as kept:
        assert {f"grid.{line['method']}" for line in done.table} <= set(kept.files)
        assert kept["walk.1"].shape == (6, 8, 8, 3)
        assert np.array_equal(kept["walk.1"][:3], kept["grid.original"][:3])
    with open(folder / "table.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)][1] == "retrained"
    table = (folder / "table.md").read_text()
    assert "| Positives only |" in table and "PUL" in table and "Ret-FID" in table
    page = done.report.read_text()
    for text in ("The same latents, before and after", "PUL over iterations", "The walk along",
                 "in the latent space", "What was moved besides", "Adapt-then-Unlearn nl2"):  # fmt: skip
        assert text in page
    assert not list((folder / "checkpoints").glob("seed0*"))
    assert rebuild_report(folder).read_text() == page


def test_the_same_command_again_does_nothing_anew(done, recipe):
    again = run(make_recipe(recipe), done.folder)
    assert all(record.reused for record in again.stages.values())
    assert without_times(again.scores) == without_times(done.scores)


def test_a_stage_that_is_lost_is_done_again_with_the_same_numbers(done, recipe):
    (done.folder / "checkpoints/stages/seed0-one-adapt_then_unlearn_nl2-unlearn.json").unlink()
    again = run(make_recipe(recipe), done.folder)
    assert not again.stages["seed0-one-adapt_then_unlearn_nl2-unlearn"].reused
    assert again.stages["seed0-one-adapted"].reused


def test_other_measurements_need_no_other_edit(done, recipe):
    again = run(make_recipe({**recipe, "latents": 80}), done.folder)
    assert again.stages["seed0-one-positives-unlearn"].reused
    assert not again.stages["seed0-one-positives"].reused
    again = run(make_recipe(recipe), done.folder)
    assert without_times(again.scores) == without_times(done.scores)


def changed(recipe: dict, **group) -> dict:
    return {**recipe, "groups": {"one": {**recipe["groups"]["one"], **group}}}


def test_a_target_that_the_judges_do_not_know_is_refused(recipe, tmp_path):
    with pytest.raises(UsageError, match="There is no class 'ten'"):
        run(make_recipe(changed(recipe, target="ten")), tmp_path / "run")


def test_a_score_by_the_feedback_itself_is_refused(recipe):
    with pytest.raises(UsageError, match="oracle and scorer are one and the same network"):
        make_recipe({**recipe, "scorer": recipe["oracle"]})


def test_unknown_settings_are_refused(recipe):
    with pytest.raises(UsageError, match=r"groups.one.adapt.*unknown key 'step'"):
        make_recipe(changed(recipe, adapt={"step": 3}))
    with pytest.raises(UsageError, match=r"search: unknown key 'start'. Did you mean 'starts'"):
        make_recipe({**recipe, "search": {"start": 3}})
    with pytest.raises(UsageError, match="method esd works on diffusion models, not on gan models"):
        make_recipe(changed(recipe, methods={"esd": {}}))
    with pytest.raises(UsageError, match="has no seed"):
        make_recipe({**recipe, "seeds": []})


def test_a_missing_gan_is_found_before_anything_is_written(recipe, tmp_path):
    with pytest.raises(UsageError, match="is no GAN folder"):
        run(make_recipe({**recipe, "model": str(tmp_path / "none")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    other = Marks("0" * 64, 0, 64, (1,)).save(tmp_path / "marks.json")
    with pytest.raises(UsageError, match=r"marks.json marks pictures of another GAN \(0000"):
        run(make_recipe(changed(recipe, marks=str(other))), tmp_path / "run")


def test_the_plan_counts_updates(recipe):
    told = plan(make_recipe(recipe))
    assert told.updates == 3 + 3 + 4 + 4
    assert ("seed 0, one: extrapolation", "one shot") in told.steps


def test_a_method_that_fails_is_a_result(recipe, tmp_path):
    methods = {"positives": {"steps": 2, **GAME, "lr": 0.0}}
    small = changed(recipe, methods=methods, retrained=None)
    result = run(make_recipe({**small, "search": None}), tmp_path / "run")
    (row,) = [row for row in result.scores["rows"] if row["method"] == "positives"]
    assert "moved no weight" in row["failed"]
    assert "moved no weight" in result.report.read_text()


def test_a_person_marks_pictures_and_the_recipe_takes_the_marks(recipe, tmp_path):
    gan, page = recipe["model"], tmp_path / "sheet.html"
    runner = CliRunner()
    made = runner.invoke(app, ["mark", gan, "-o", str(page), "--count", "64", "--seed", "5"])
    assert made.exit_code == 0, made.output
    text = page.read_text()
    assert text.count('type="checkbox"') == 64 and Gan.load(gan).fingerprint() in text
    assert "http" not in text.replace("http://www.w3.org", "")
    marks = Marks(Gan.load(gan).fingerprint(), 5, 64, (0, 3, 9)).save(tmp_path / "marks.json")
    told = runner.invoke(app, ["mark", gan, "--read", str(marks)])
    assert "3 of 64 pictures" in told.output
    methods = {"positives": {"steps": 2, **GAME}}
    small = changed(recipe, methods=methods, retrained=None, marks=str(marks))
    result = run(make_recipe({**small, "search": None}), tmp_path / "run")
    assert [line["method"] for line in result.table] == ["original", "positives"]


def test_a_page_without_a_place_or_of_another_gan_is_refused(recipe, tmp_path):
    runner = CliRunner()
    assert "Where should the page go?" in runner.invoke(app, ["mark", recipe["model"]]).output
    wrong = runner.invoke(app, ["mark", recipe["model"], "-o", str(tmp_path / "sheet.png")])
    assert "is not the name of a page" in wrong.output and wrong.exit_code == 2
    marks = Marks(tiny_gan(seed=4).fingerprint(), 0, 64, (1,)).save(tmp_path / "marks.json")
    other = runner.invoke(app, ["mark", recipe["model"], "--read", str(marks)])
    assert "marks pictures of another GAN" in other.output and other.exit_code == 2
    assert load_marks(marks).count == 64
    assert json.loads(marks.read_text())["marked"] == [1]
