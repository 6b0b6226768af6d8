"""Runs in a folder with an earlier run: they go on with it, add to it, or are refused, but lose nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import workshop
import yaml
from typer.testing import CliRunner

from mu_vision import files
from mu_vision.cli import app
from mu_vision.earlier import check_earlier
from mu_vision.errors import UsageError
from mu_vision.recipe import load_recipe, make_recipe
from mu_vision.runs import write_recipe


@pytest.fixture(scope="module")
def protocol(tmp_path_factory) -> Path:
    return workshop.protocol(tmp_path_factory.mktemp("protocol"))


@pytest.fixture
def start(sd_folder, protocol, tmp_path, monkeypatch):
    """Write ``small.yaml``, which erases by UCE, into a new folder, go there, and run commands."""
    monkeypatch.chdir(tmp_path)
    recipe = workshop.recipe(sd_folder, protocol, methods={"uce": {}})
    Path("small.yaml").write_text(yaml.safe_dump(recipe))

    def call(*words, code=0):
        result = CliRunner().invoke(app, ["run", *map(str, words)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def test_a_saved_recipe_goes_on_in_its_own_folder(start, tmp_path):
    start("small.yaml", "-o", "runs/x")
    saved = "runs/x/recipe.yaml"
    assert "folder: runs/x (a run that was begun" in start(saved, "--dry-run").stdout
    assert "report: runs/x/report.html" in start(saved).stdout
    assert [p.name for p in Path("runs").iterdir()] == ["x"]
    log = [json.loads(line) for line in Path("runs/x/log.jsonl").read_text().splitlines()]
    stages = [row["stage"] for row in log if row["event"] == "done"]
    assert [row["stage"] for row in log if row["event"] == "reused"] == stages
    # what has another name is another run
    assert load_recipe(saved, ["name=other"]).folder == Path("runs/other")
    # so is a copy, in a folder with anything else
    Path("mail").mkdir()
    shutil.copy(saved, "mail/recipe.yaml")
    assert load_recipe("mail/recipe.yaml").folder == Path("mail")
    Path("mail/letter.txt").write_text("Dear colleague")
    assert load_recipe("mail/recipe.yaml").folder == Path("runs/small")
    shutil.copy(saved, "runs/x/copy.yaml")
    assert load_recipe("runs/x/copy.yaml").folder == Path("runs/small")
    # and a recipe that a person wrote beside a run
    Path("runs/x/recipe.yaml").write_text(Path("small.yaml").read_text())
    assert load_recipe(saved).folder == Path("runs/small")


def test_a_request_of_a_table_is_no_run_of_its_own(start, sd_folder, protocol, monkeypatch):
    data = workshop.table(sd_folder, protocol)
    for place in ("runs/t", "runs/t/style-neon"):
        write_recipe(Path(place), data, {"state": "begun"})
    assert load_recipe("runs/t/recipe.yaml").folder == Path("runs/t")
    assert load_recipe("runs/t/style-neon/recipe.yaml").folder == Path("runs/grid")
    monkeypatch.chdir("runs/t")
    assert load_recipe("recipe.yaml").folder == Path()


def test_what_was_made_in_a_folder_stays_unless_the_folder_was_named(start):
    start("small.yaml")
    folder, uce = Path("runs/small"), Path("runs/small/model/uce")
    before, text = files.sizes(folder), (folder / "recipe.yaml").read_text()
    weights = {p: p.stat().st_mtime_ns for p in uce.rglob("*.safetensors")}
    for change in ("methods.uce.erase_scale=2", "request.name=mosaic"):
        for dry in ((), ("--dry-run",)):
            said = start("small.yaml", change, *dry, code=2).stderr
            assert (
                "mu-vision: runs/small holds a run of small with other settings, and model/uce in it"
                " would be written over; give this run a folder of its own with -o, e.g. -o"
                " runs/small-2, or say -o runs/small to let it take that one's place." in said
            )
    assert files.sizes(folder) == before and (folder / "recipe.yaml").read_text() == text
    # more methods, and other measurements, are the same run going on
    start("small.yaml", "methods.more={method: uce, erase_scale: 2}", "protocol.steps=1")
    assert (folder / "model" / "more").is_dir()
    assert {p: p.stat().st_mtime_ns for p in uce.rglob("*.safetensors")} == weights
    start("small.yaml", "methods.uce.erase_scale=2", "-o", folder)
    assert {p: p.stat().st_mtime_ns for p in uce.rglob("*.safetensors")} != weights


LAB = {
    "name": "it", "kind": "forget", "seeds": [0],
    "groups": {"one": {"forget": {"kind": "class", "of": "3"}, "methods": {"ssd": {"alpha": 5}}}},
}  # fmt: skip
GAN = {
    "name": "it", "kind": "gan", "model": "minicanvas/gan-digits", "data": "digits",
    "groups": {"one": {"target": "3", "methods": {"positives": {"steps": 2}}}},
}  # fmt: skip
TRAIN = {"name": "it", "kind": "train", "trainers": [{"trainer": "classifier", "epochs": 2}]}
EVALUATE = {"name": "it", "kind": "evaluate", "models": {"esd": "a"}, "original": "minicanvas/sd"}


@pytest.mark.parametrize(
    ("data", "made", "change", "lost"),
    [
        (LAB, "model/seed0/original", "model.epochs=3", True),
        (LAB, "model/seed0/original", "poison={target: zero, share: 0.2}", True),
        (LAB, "model/seed0/one/ssd", "groups.one.methods.ssd.alpha=9", True),
        (LAB, "model/seed0/one/ssd", "groups.one.forget.share=0.5", True),
        (LAB, "model/seed0/one/ssd", "groups.one.prune={how: omp, sparsity: 0.5}", True),
        (LAB, "model/seed0/original", "groups.one.methods.ssd.alpha=9", False),
        (LAB, "model/seed0/one/ssd", "groups.one.methods={finetune: {}}", False),
        (LAB, "model/seed0/one/ssd", "seeds=[0, 1]", False),
        (LAB, "model/seed0/one/ssd", "probe=false", False),
        (
            LAB,
            "model/seed0/one/ssd",
            "groups.one.forget={kind: class, of: '3', share: null}",
            False,
        ),
        (GAN, "model/seed0/one/positives", "groups.one.target=4", True),
        (GAN, "model/seed0/one/positives", "oracle.epochs=3", True),
        (GAN, "model/seed0/one/positives", "groups.one.methods.positives.steps=3", True),
        (GAN, "model/seed0/one/positives", "latents=80", False),
        (TRAIN, "model/classifier", "trainers.0.epochs=3", True),
        (TRAIN, "model/classifier", "trainers.0.checkpoint_every=3", False),
        (EVALUATE, "scores.json", "models.esd=b", True),
        (EVALUATE, "scores.json", "original=c/d", True),
        (EVALUATE, "scores.json", "models.uce=b", False),
        (EVALUATE, "scores.json", "protocol.steps=3", False),
    ],
)
def test_what_would_be_written_over(data, made, change, lost, tmp_path):
    folder = tmp_path / "it"
    write_recipe(folder, data, {"state": "begun"})
    recipe = make_recipe(data, [change])
    check_earlier(recipe, folder, False)  # nothing was finished yet
    if made == "scores.json":
        files.write_text(folder / made, "{}")
    else:
        files.write_text(folder / made / "failed.txt", "It failed.")
        check_earlier(recipe, folder, False)
        files.write_text(folder / made / "model.safetensors", "")
    check_earlier(make_recipe(data), folder, False)
    check_earlier(recipe, folder, True)
    if not lost:
        check_earlier(recipe, folder, False)
        return
    with pytest.raises(UsageError, match=f"holds a run of it with other settings, and {made} in"):
        check_earlier(recipe, folder, False)


@pytest.mark.parametrize("chosen", [True, False])
def test_a_folder_of_another_recipe_is_refused(chosen, tmp_path):
    write_recipe(tmp_path / "it", LAB, {"state": "begun"})
    for other in ({**LAB, "name": "that"}, GAN):
        with pytest.raises(
            UsageError, match=r"it holds the run of another recipe \(it, of kind forget\)"
        ):
            check_earlier(make_recipe(other), tmp_path / "it", chosen)


def test_a_run_of_another_version_is_not_written_over_by_chance(tmp_path):
    write_recipe(tmp_path / "it", {**LAB, "gone": 1}, {"state": "begun"})
    check_earlier(make_recipe(LAB), tmp_path / "it", False)
    files.write_text(tmp_path / "it/model/seed0/one/ssd/model.safetensors", "")
    with pytest.raises(UsageError, match="with other settings, and model/seed0/one/ssd in it"):
        check_earlier(make_recipe(LAB), tmp_path / "it", False)
