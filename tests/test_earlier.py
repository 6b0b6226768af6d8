"""Runs in a folder with an earlier run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import workshop
import yaml
from typer.testing import CliRunner

from mu_vision.cli import app
from mu_vision.recipe import load_recipe
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
