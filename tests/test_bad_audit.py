"""Audits and adversarial erasures that cannot be done: one sentence, exit code 2, nothing drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import workshop
import yaml
from test_bad_input import fails
from typer.testing import CliRunner

from mu_vision import api
from mu_vision.cli import app
from mu_vision.errors import UsageError
from mu_vision.evaluation.judges import load_judge
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import concept_request

ATTACKS = {"random_prefix": {"tokens": 1, "pictures": 1}, "paraphrase": None}


@pytest.fixture(scope="module")
def protocol(tmp_path_factory) -> Path:
    about = {"seeds": [1], "examples": 2, "attacks": ATTACKS, "controls": False}
    return workshop.protocol(tmp_path_factory.mktemp("protocol"), robustness=about)


@pytest.fixture(scope="module")
def erased(tmp_path_factory, sd_folder) -> Path:
    folder = tmp_path_factory.mktemp("erased") / "uce"
    words = ["erase", sd_folder, "--style", "neon", "-m", "uce", "-o", folder]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def refused(erased, protocol, tmp_path):
    """Run an audit that must fail; returns its sentence."""

    def start(*words, model=erased, using=protocol):
        said = fails("audit", model, "-p", using, *words, "-o", tmp_path / "run")
        assert not list((tmp_path / "run").glob("*.html"))
        return said

    return start


def test_unknown_names_settings_and_empty_budgets(refused):
    attacks = "protocol.robustness.attacks"
    assert "There is no attack 'p4dd'. Did you mean 'p4d'?" in refused(f"{attacks}.p4dd.tokens=1")
    assert "unknown key 'tokns'. Did you mean 'tokens'?" in refused(f"{attacks}.p4d.tokns=1")
    for change in ("p4d.iterations", "unlearndiffatk.timesteps", "random_prefix.pictures"):
        name = change.split(".")[1]
        said = refused(f"{attacks}.{change}=0")
        assert f"'{name}' must be greater than or equal to 1, not 0." in said
    assert "'marks': steps must rise" in refused(f"{attacks}.relearning.marks=[2, 1]")
    assert "must be less than or equal to 1" in refused(f"{attacks}.image_to_image.strengths=[3]")
    none = refused(*(f"{attacks}.{name}=false" for name in ATTACKS))
    assert "names no attack" in none
    assert "Did you mean 'neon'?" in refused("--style", "noen")


def test_folders_of_target_pictures(refused, tmp_path):
    said = refused("--targets", tmp_path / "nowhere")
    assert f"There is no folder of target pictures {tmp_path / 'nowhere'}." in said
    (tmp_path / "empty").mkdir()
    assert "empty holds no target picture; put some" in refused("--targets", tmp_path / "empty")
    (tmp_path / "empty" / "1.png").write_bytes(b"no")
    assert "1.png cannot be read" in refused("--targets", tmp_path / "empty")


def test_prompts_that_are_longer_than_the_encoder_reads(refused):
    said = refused("protocol.robustness.attacks.random_prefix.tokens=44", "--style", "neon")
    assert "shows 'neon' in none of the 2 prompts (2 are too long), so there are no target" in said


def test_a_judge_without_the_class(refused, protocol, tmp_path):
    data = yaml.safe_load(protocol.read_text())
    judge = shutil.copytree(data["judges"]["style"], tmp_path / "judge")
    config = json.loads((judge / "config.json").read_text())
    config["classes"] = ["noen" if name == "neon" else name for name in config["classes"]]
    (judge / "config.json").write_text(json.dumps(config))
    data["judges"]["style"] = str(judge)
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(data))
    said = refused(using=path)
    assert "There is no style that the judge" in said and "Did you mean 'noen'?" in said


def test_models_that_cannot_be_audited(refused, sd_folder, sdxl_folder, erased, protocol, tmp_path):
    other = shutil.copytree(erased, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "DDPMPipeline"}))
    assert "holds a DDPMPipeline; the pipelines read here are" in refused(model=other)
    neon = ("--style", "neon", "--original")
    assert "reads a prompt through two text encoders" in refused(
        *neon, sdxl_folder, model=sdxl_folder
    )
    assert "There is no model folder no/such/folder" in refused(*neon, "no/such/folder")
    bare = shutil.copytree(sd_folder, tmp_path / "bare")
    assert "What was" in refused(model=bare)
    facts = json.loads((erased / "mu_vision.json").read_text())
    lost = shutil.copytree(erased, tmp_path / "lost")
    (lost / "mu_vision.json").write_text(json.dumps({**facts, "base": {}}))
    assert "an audit needs the untouched model beside" in refused("--style", "neon", model=lost)
    assert "names no attack; use minicanvas_robust" in refused(using="minicanvas")


def test_a_concept_in_free_words_needs_clip(refused):
    said = refused("--concept", "a hat")
    assert "A request in free words is judged by CLIP, and tiny has none; set `clip`" in said


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "The prompts of 'neon' must name it: give at least one text and no empty one"),
        (["neon", "  "], "The prompts of 'neon' must name it: give at least one text and no empty"),
    ],
)
def test_prompts_that_name_nothing(sd_folder, protocol, tmp_path, prompts, words):
    request = {"kind": "style", "name": "neon", "prompts": prompts}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(workshop.recipe(sd_folder, protocol, request=request)))
    assert words in fails("run", path, "-o", tmp_path / "run")
    with pytest.raises(UsageError, match=words):
        concept_request("concept", "neon", prompts=prompts)
    with pytest.raises(UsageError, match="The concept to erase has no name"):
        concept_request("concept", "   ")


def test_an_adversarial_erasure_that_does_not_fit(sd_folder, sdxl_folder, tmp_path):
    out = tmp_path / "out"

    def erase(model, *words):
        return fails("erase", model, "-m", "advunlearn", *words, "-o", out)

    neon = ("--style", "neon")
    assert "43 more do not fit: the text encoder reads 48" in erase(sd_folder, "tokens=43", *neon)
    assert "has more than 48 tokens" in erase(sd_folder, "--concept", "x" * 99, "gamma=0")
    assert "No retain prompt is left that does not name 'a hat' (1 were given)" in erase(
        sd_folder, "--concept", "a hat", "retain=[wear a hat]"
    )
    assert "layers=9, but the text encoder of" in erase(sd_folder, "layers=9", *neon)
    assert "leave one of the two out" in erase(sd_folder, "layers=1", "variant=x", *neon)
    assert "reads a prompt through two text encoders" in erase(sdxl_folder, *neon)
    assert "'attack_steps' must be greater than or equal to 1" in erase(
        sd_folder, "attack_steps=0", *neon
    )
    assert not out.exists()


def test_an_audit_runs_from_the_command_line(erased, protocol, sd_folder, tmp_path):
    """The judge of the workshop sees one class in everything; that one is audited."""
    judge = load_judge(yaml.safe_load(protocol.read_text())["judges"]["style"])
    model = DiffusionModel.load(sd_folder, "cpu")
    drawn = api.render(model, [f"A tree image in {name} style." for name in "abcd"], steps=2)
    seen = judge.classes[judge.predict(np.stack(drawn)).argmax(1)[0]]
    run = tmp_path / "run"
    words = ["audit", erased, "-p", protocol, "--style", seen, "--original", sd_folder, "-o", run]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    scores = json.loads((run / "scores.json").read_text())
    assert "asr_worst" in json.dumps(scores) and model.fingerprint() in json.dumps(scores)
    assert (run / "report.html").is_file()
