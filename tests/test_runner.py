from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import ClassVar

import pytest
import workshop
import yaml

from mu_vision import files, runner
from mu_vision.errors import RunError, UsageError
from mu_vision.recipe import make_recipe
from mu_vision.runner import Chain, run
from mu_vision.stages import Stages
from mu_vision.tables import markdown, with_means, write_table


@pytest.fixture(scope="module")
def protocol(tmp_path_factory) -> Path:
    return workshop.protocol(tmp_path_factory.mktemp("protocol"))


@pytest.fixture(scope="module")
def finished(sd_folder, protocol, tmp_path_factory):
    """A run that nobody interrupted; do not change its folder."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return run(make_recipe(workshop.recipe(sd_folder, protocol, delta=True)), folder)


def numbers(scores: dict) -> dict:
    """What must be equal between a whole and a resumed run: everything but the clocks."""
    models = runner.without_times(scores["models"])
    for model in models.values():
        card = model.pop("scorecard")
        model.update(answers=card["answers"], cells=card["cells"], warnings=card["warnings"])
    return models


def test_a_run_leaves_what_the_design_says(finished):
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "recipe.yaml", "model", "checkpoints", "answers", "scores.json", "report.html", "log.jsonl",
    }  # fmt: skip
    assert {p.name for p in (folder / "model").iterdir()} == {
        "esd", "uce", "esd.delta.safetensors", "uce.delta.safetensors",
    }  # fmt: skip
    scores = json.loads((folder / "scores.json").read_text())
    assert list(scores["models"]) == ["original", "esd", "uce"]
    assert scores["request"]["name"] == "neon"
    for model in scores["models"].values():
        assert 0 <= model["ua"] <= 100 and 0 <= model["ira"] <= 100 and 0 <= model["cra"] <= 100
        assert model["counts"]["ua"] == {"expected": 2, "used": 2}
    assert scores["models"]["esd"]["seconds"] > 0
    weights = sum(p.stat().st_size for p in (folder / "model/esd").rglob("*.safetensors"))
    assert scores["models"]["esd"]["storage_gb"] == pytest.approx(weights / 1e9, abs=1e-6)
    # only the answer sets of these three models, and no checkpoints of finished methods
    assert len([p for p in (folder / "answers").iterdir() if p.is_dir()]) == 3
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["stages"]
    html = finished.report.read_text()
    assert "neon" in html and "UCE" in html
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    done = [event for event in events if event["event"] == "done"]
    assert [event["stage"] for event in done] == [
        "evaluate-original", "erase-esd", "erase-uce", "evaluate-esd", "evaluate-uce", "report",
    ]  # fmt: skip
    assert all(event["seconds"] > 0 and event["peak_memory_gb"] > 0 for event in done)


def test_the_resolved_recipe_can_be_run_again(finished, tmp_path):
    written = yaml.safe_load((finished.folder / "recipe.yaml").read_text())
    assert written["methods"]["esd"]["variant"] == "x"
    assert len(written["resolved"]["original"]) == 64
    assert written["resolved"]["environment"]["packages"]["torch"]
    again = run(make_recipe(written, ["methods={uce: {}}"]), tmp_path / "again")
    assert numbers(again.scores)["uce"] == numbers(finished.scores)["uce"]


def test_unchanged_stages_are_not_run_again(sd_folder, protocol, tmp_path):
    recipe = workshop.recipe(sd_folder, protocol)
    first = run(make_recipe(recipe), tmp_path / "r")
    before = first.report.stat().st_mtime_ns
    second = run(make_recipe(recipe), tmp_path / "r")
    assert all(record.reused for record in second.stages.values())
    assert second.report.stat().st_mtime_ns == before
    assert second.scores["models"] == first.scores["models"]
    # another setting of one method: only what depends on it runs
    third = run(make_recipe(recipe, ["methods.uce.erase_scale=2"]), tmp_path / "r")
    ran = {name for name, record in third.stages.items() if not record.reused}
    assert ran == {"erase-uce", "evaluate-uce", "report"}
    # how often to save is no part of the result
    fourth = run(
        make_recipe(recipe, ["methods.uce.erase_scale=2", "methods.esd.log_every=3"]),
        tmp_path / "r",
    )
    assert all(record.reused for record in fourth.stages.values())
    # a model that was deleted or cut off is made again, with the same weights
    weights = next((tmp_path / "r/model/esd/unet").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    fifth = run(make_recipe(recipe, ["methods.uce.erase_scale=2"]), tmp_path / "r")
    assert {n for n, r in fifth.stages.items() if not r.reused} == {"erase-esd"}
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("stage", ["erase-esd", "erase-uce", "evaluate-original", "report"])
def test_a_run_that_was_stopped_ends_with_the_same_numbers(
    finished, sd_folder, protocol, tmp_path, monkeypatch, stage
):
    recipe = make_recipe(workshop.recipe(sd_folder, protocol, delta=True))
    inner = Stages.run

    def stop(self, name, inputs, work, outputs=()):
        def half():
            if name == "erase-esd":
                _stop_in_step(monkeypatch, 2)
            elif name == stage:
                raise KeyboardInterrupt
            return work()

        return inner(self, name, inputs, half if name == stage else work, outputs)

    monkeypatch.setattr(Stages, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "r")
    monkeypatch.undo()
    assert not list((tmp_path / "r").rglob("*.partial"))
    result = run(recipe, tmp_path / "r")
    assert numbers(result.scores) == numbers(finished.scores)
    assert not result.stages[stage].reused
    assert result.report.is_file()


def _stop_in_step(monkeypatch, step):
    from mu_vision.unlearn.diffusion.esd import ESDObjective

    inner = ESDObjective.loss

    def loss(self, number):
        if number == step:
            raise KeyboardInterrupt
        return inner(self, number)

    monkeypatch.setattr(ESDObjective, "loss", loss)


def test_a_killed_process_goes_on(finished, sd_folder, protocol, tmp_path):
    """SIGKILL in the middle of the training, in a real process; then the same command again."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(workshop.recipe(sd_folder, protocol, delta=True)))
    folder = tmp_path / "r"
    code = (
        "import os, signal\n"
        "from mu_vision.unlearn.diffusion.esd import ESDObjective as E\n"
        "inner = E.loss\n"
        "def loss(self, n):\n"
        "    if n == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return inner(self, n)\n"
        "E.loss = loss\n"
        "from mu_vision.cli import main; main()"
    )
    line = [sys.executable, "-c", code, "run", str(path), "-o", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(folder.glob("checkpoints/esd-*/checkpoint.pt"))
    line[2] = "from mu_vision.cli import main; main()"
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    scores = json.loads((folder / "scores.json").read_text())
    assert numbers(scores) == numbers(finished.scores)
    assert "report.html" in done.stdout and "UA %" in done.stdout


def test_ctrl_c_in_a_real_process(sd_folder, protocol, tmp_path):
    path = tmp_path / "long.yaml"
    settings = {"esd": {**workshop.ESD, "steps": 100000}}
    path.write_text(yaml.safe_dump(workshop.recipe(sd_folder, protocol, methods=settings)))
    # a shell that starts the tests in the background makes children ignore Ctrl-C
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mu_vision.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(path), "-o", str(tmp_path / "r")],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "r").glob("checkpoints/esd-*/checkpoint.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. Nothing that was finished is lost" in errors
    assert "Traceback" not in errors


def test_a_table_is_made_request_by_request(sd_folder, protocol, tmp_path, monkeypatch):
    recipe = make_recipe(workshop.table(sd_folder, protocol))
    drawn, inner = [], Chain.run

    def stop(self):
        drawn.append(self.recipe.name)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return inner(self)

    monkeypatch.setattr(Chain, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "t")
    monkeypatch.undo()
    result = run(recipe, tmp_path / "t")
    assert [(row["group"], row["request"], row["method"]) for row in result.table] == [
        ("styles", "neon", "original"),
        ("styles", "neon", "uce"),
        ("styles", "mosaic", "original"),
        ("styles", "mosaic", "uce"),
        ("styles", "mean", "original"),
        ("styles", "mean", "uce"),
        ("objects", "cat", "original"),
        ("objects", "cat", "uce"),
        ("objects", "mean", "original"),
        ("objects", "mean", "uce"),
        ("all", "mean", "original"),
        ("all", "mean", "uce"),
    ]
    folder = tmp_path / "t"
    # the untouched model was drawn once for all three requests
    assert len([p for p in (folder / "answers").iterdir() if p.is_dir()]) == 4
    assert not (folder / "style-neon" / "answers").exists()
    for name in ("style-neon", "style-mosaic", "object-cat"):
        assert (folder / name / "report.html").is_file()
    lines = (folder / "table.csv").read_text().splitlines()
    assert len(lines) == 13 and lines[0].startswith("group,request,method,ua")
    assert (folder / "table.md").read_text().count("\n") == 14
    assert "mosaic" in (folder / "report.html").read_text()


def test_a_table_has_the_columns_that_have_numbers(tmp_path):
    row = {"group": "g", "request": "a|b", "method": "m", "ua": 12.34, "fid": None}
    write_table(tmp_path, [{**row, "fid_unlearncanvas": 3.0}, {**row, "method": "n"}])
    assert (tmp_path / "table.md").read_text().splitlines() == [
        "| group | request | method | UA % | FID (UnlearnCanvas) |",
        "|---|---|---|---:|---:|",
        "| g | a\\|b | m | 12.3 | 3.00 |",
        "| g | a\\|b | n | 12.3 | - |",
    ]
    header = (tmp_path / "table.csv").read_text().splitlines()[0]
    assert header == "group,request,method,ua,fid_unlearncanvas"


def test_means_count_every_request_once():
    rows = [
        {"group": g, "request": r, "method": "esd", "kind": "style", "ua": ua, "ira": 50.0,
         "cra": 70.0, "kept": 60.0, "fid_clip": None, "clip_score": None, "seconds": 1.0}
        for g, r, ua in [("a", "x", 100.0), ("a", "y", 80.0), ("b", "z", 30.0)]
    ]  # fmt: skip
    table = with_means(rows)
    means = {row["group"]: row["ua"] for row in table if row["request"] == "mean"}
    assert means == {"a": 90.0, "b": 30.0, "all": 70.0}
    assert "| all | mean | esd | 70.0 |" in markdown(table)
    rows[0]["ua"] = None
    with pytest.raises(RunError, match="esd has ua for 1 of 2 requests of a"):
        with_means(rows)


def test_evaluate_reads_what_was_forgotten_from_the_folder(finished, protocol, tmp_path):
    from mu_vision.commands import evaluation_recipe

    flags = (None, None, None, "minicanvas")
    recipe = evaluation_recipe(str(finished.folder / "model/uce"), str(protocol), flags, "", [])
    assert recipe.request.name == "neon" and list(recipe.models) == ["uce"]
    result = run(recipe, tmp_path / "e")
    ours, theirs = numbers(result.scores)["uce"], numbers(finished.scores)["uce"]
    assert {k: ours[k] for k in ("ua", "ira", "cra")} == {
        k: theirs[k] for k in ("ua", "ira", "cra")
    }
    assert result.report.is_file()


def test_another_original_than_the_one_edited_is_said(finished, protocol, sd_folder, tmp_path):
    data = {"kind": "evaluate", "name": "e", "protocol": str(protocol), "original": str(sd_folder),
            "models": {"uce": str(finished.folder / "model/uce")}}  # fmt: skip
    other = {**data, "original": str(finished.folder / "model/esd")}
    with pytest.warns(UserWarning, match="made from other weights than those of"):
        run(make_recipe(other), tmp_path / "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(make_recipe(data), tmp_path / "same")


def test_several_concepts_at_once(sd_folder, protocol, tmp_path):
    recipe = workshop.recipe(sd_folder, protocol, methods={"uce": {}})
    result = run(make_recipe(recipe, ["request.also=[mosaic]"]), tmp_path / "r")
    assert [request["name"] for request in result.scores["request"]] == ["neon", "mosaic"]
    assert result.scores["models"]["uce"]["counts"]["ua"]["used"] == 4
    assert "neon and mosaic" in result.report.read_text()


def test_a_request_in_free_words_shows_its_own_pictures(sd_folder, tmp_path):
    protocol = workshop.protocol(tmp_path, clip="minicanvas/clip", concept_pictures=3)
    words = {"kind": "concept", "name": "a red cat", "anchor": "a house"}
    recipe = workshop.recipe(sd_folder, protocol, methods={"uce": {}}, request=words)
    result = run(make_recipe(recipe), tmp_path / "r")
    places = result.scores["concept_answers"]
    assert list(places) == ["original", "uce"]
    assert all((tmp_path / "r" / place / "answers.json").is_file() for place in places.values())
    html = result.report.read_text()
    assert "Asked for" in html and html.count('alt="UCE: a red cat, seed') == 3


def test_training_recipes_run_and_go_on(tmp_path, monkeypatch):
    from mu_vision import registry
    from mu_vision.loop import LoopResult
    from mu_vision.train.base import Trainer

    ran = []

    class Counting(Trainer):
        output: ClassVar[str] = "counted"
        steps: int = 3

        def run(self, folder):
            ran.append(self.steps)
            files.write_text(Path(folder) / "counted" / f"{self.steps}.txt", "x")
            return LoopResult(self.steps, 0.1, 0.1)

    registry.names("trainer")
    Counting.name = "counting"
    monkeypatch.setitem(registry._TABLE["trainer"], "counting", {"": Counting})
    data = {"name": "count", "kind": "train", "trainers": [{"trainer": "counting"}]}
    result = run(make_recipe(data), tmp_path / "t")
    assert (tmp_path / "t/model/counted/3.txt").is_file() and result.report is None
    run(make_recipe(data), tmp_path / "t")
    assert ran == [3]
    run(make_recipe(data, ["trainers.0.steps=5"]), tmp_path / "t")
    assert ran == [3, 5]
    with pytest.raises(UsageError, match=r"no trainer 'countign'. Did you mean 'counting'"):
        run(make_recipe(data, ["trainers.0.trainer=countign"]), tmp_path / "t")


def test_a_folder_that_is_not_a_run_is_left_alone(sd_folder, protocol, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    recipe = make_recipe(workshop.recipe(sd_folder, protocol))
    with pytest.raises(UsageError, match="exists and is not a run"):
        run(recipe, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        run(recipe, tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_stages_add_up_the_time_of_their_parts(tmp_path):
    stages = Stages(tmp_path)

    def stopped():
        time.sleep(0.05)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run("a", {"x": 1}, stopped)
    record = stages.run("a", {"x": 1}, lambda: "done")
    assert record.seconds >= 0.05 and record.result == "done" and not record.reused
    assert Stages(tmp_path).run("a", {"x": 1}, stopped).reused
    (tmp_path / "checkpoints/stages/a.json").write_text("{broken")
    assert Stages(tmp_path).run("a", {"x": 1}, lambda: "again").result == "again"
