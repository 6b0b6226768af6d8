from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import workshop
import yaml
from diffusers import DiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

from mu_vision import __version__, api
from mu_vision.cli import app

COMMANDS = ("run", "erase", "evaluate", "report", "apply", "show", "list", "doctor")


def call(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def command(*words, **changes):
    """A real process, as a user starts it."""
    line = [sys.executable, "-c", "from mu_vision.cli import main; main()", *map(str, words)]
    environment = {**os.environ, **changes}
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, mu_vision.cli\n"
        "from typer.testing import CliRunner\n"
        "print(CliRunner().invoke(mu_vision.cli.app, ['--help']).output)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'pandas', 'timm'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)
    done = command("--help")
    assert done.returncode == 0 and "quickstart" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples(name):
    text = call(name, "--help").output
    assert "Examples:" in text and f"mu-vision {name}" in text


def test_version():
    assert call("--version").output.strip() == f"mu-vision {__version__}"


def test_list_has_one_line_each():
    text = call("list").output
    for word in ("methods", "recipes", "protocols", "data sets", "models"):
        assert f"\n{word}\n" in f"\n{text}"
    for name in ("esd", "uce", "quickstart", "unlearncanvas", "minicanvas/sd", "2303.07345"):
        assert name in text


def test_doctor_names_what_is_missing(monkeypatch, tmp_path):
    from mu_vision import resources

    monkeypatch.setattr(resources, "EMBEDDED", tmp_path)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "MISSING minicanvas/sd" in result.output
    assert "Something is missing" in result.output
    (tmp_path / "sd").mkdir()
    assert "does not load" in CliRunner().invoke(app, ["doctor"]).output


def test_show_writes_a_contact_sheet_and_prints_cards(tmp_path):
    path = tmp_path / "deep" / "sheet.png"
    assert str(path) in call("show", "minicanvas", "-o", path).output
    with Image.open(path) as sheet:
        assert sheet.width > 8 * 90 and sheet.height > 10 * 90
    assert list(path.parent.iterdir()) == [path]
    text = call("show", "unlearncanvas").output
    assert "Van_Gogh" in text and "licence" in text
    result = call("show", "minicanvas", "-o", tmp_path / "sheet.txt", code=2)
    assert "is not the name of a picture" in result.stderr


def test_erase_evaluates_to_a_folder_that_diffusers_loads(sd_folder, tmp_path):
    out = tmp_path / "erased"
    settings = [f"{key}={value}" for key, value in workshop.ESD.items()]
    result = call("erase", sd_folder, *settings, "--style", "neon", "-o", out, "--delta")
    assert str(out) in result.stdout
    made = json.loads((out / "mu_vision.json").read_text())
    assert made["method"] == "esd" and made["settings"]["steps"] == 4
    assert made["requests"][0]["name"] == "neon"
    DiffusionPipeline.from_pretrained(out)
    # the delta puts the same weights into the original
    call("apply", out / "delta.safetensors", "--to", sd_folder, "-o", tmp_path / "applied")
    one, two = api.load_model(out), api.load_model(tmp_path / "applied")
    assert one.fingerprint() == two.fingerprint() != api.load_model(sd_folder).fingerprint()
    facts = json.loads((tmp_path / "applied/mu_vision.json").read_text())
    assert facts["requests"] == made["requests"] and facts["base"] == made["base"]
    # others may read the weights too, and no checkpoints are left behind
    assert len({p.stat().st_mode for p in out.rglob("*") if p.is_file()}) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["applied", "erased"]


def test_erase_writes_a_delta_alone(sd_folder, tmp_path):
    path = tmp_path / "cat.safetensors"
    call("erase", sd_folder, "-m", "uce", "--concept", "a cat", "--anchor", "a dog", "-o", path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_erase_takes_the_method_of_a_shared_name_that_is_for_diffusion(sd_folder, tmp_path):
    small = ("steps=1", "pictures=2", "sampler_steps=1", "batch=1", "lr=0.001", "retain=[a dog]")
    words = ("--concept", "a cat", "--anchor", "a dog", "-o", tmp_path / "erased")
    call("erase", sd_folder, "-m", "salun", *small, *words)
    made = json.loads((tmp_path / "erased/mu_vision.json").read_text())
    assert made["method"] == "salun" and made["settings"]["density"] == 0.5


def test_evaluate_asks_what_erase_was_asked(sd_folder, tmp_path):
    from mu_vision.commands import evaluation_recipe

    words = ("--concept", "a cat", "--concept", "a boat", "--anchor", "a dog")
    call("erase", sd_folder, "-m", "uce", *words, "-o", tmp_path / "erased")
    flags = (None, None, None, "minicanvas")
    recipe = evaluation_recipe(str(tmp_path / "erased"), "minicanvas", flags, "", [])
    asked = recipe.request
    assert (asked.kind, asked.name, asked.also, asked.anchor) == (
        "concept", "a cat", ("a boat",), "a dog",
    )  # fmt: skip
    assert recipe.original == str(sd_folder)


def test_dry_run_counts_and_writes_nothing(sd_folder, tmp_path):
    path = tmp_path / "small.yaml"
    protocol = workshop.protocol(tmp_path / "p")
    path.write_text(yaml.safe_dump(workshop.recipe(sd_folder, protocol)))
    before = sorted(tmp_path.rglob("*"))
    text = call("run", path, "methods.esd.steps=7", "--dry-run", "-o", tmp_path / "r").output
    assert sorted(tmp_path.rglob("*")) == before
    assert yaml.safe_load(text.split("\nfolder:")[0])["methods"]["esd"]["steps"] == 7
    # three models, 6 pictures each, 2 steps under guidance
    assert "cost: 7 updates, 18 pictures, 72 U-Net evaluations" in text
    assert "download: nothing" in text
    path.write_text(yaml.safe_dump(workshop.table(sd_folder, protocol)))
    text = call("run", path, "--dry-run").output
    assert "cost: 0 updates, 24 pictures" in text


def test_evaluate_report_and_show(sd_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    protocol = workshop.protocol(tmp_path / "p")
    names = ("--style", "neon", "--style", "mosaic")
    call("erase", sd_folder, "-m", "uce", *names, "-o", "erased")
    # what was forgotten, and the original, are read from the folder
    text = call("evaluate", "erased", "--protocol", protocol).stdout
    assert "style neon, style mosaic" in text and "original" in text and "UA %" in text
    folder = tmp_path / "runs" / "evaluate-erased-style-neon-mosaic"
    assert f"report: {folder.relative_to(tmp_path)}/report.html" in text
    (folder / "report.html").unlink()
    assert "report.html" in call("report", folder).stdout
    assert (folder / "report.html").is_file()
    assert "style mosaic" in call("show", folder).stdout
    # an untouched model alone
    text = call("evaluate", sd_folder, "-p", protocol, "protocol.steps=1", "-o", "plain").stdout
    assert "nothing forgotten" in text
    assert json.loads((tmp_path / "plain/scores.json").read_text())["models"]["original"]
    result = call("evaluate", "erased", "-p", protocol, "--original", "nowhere/at/all", code=2)
    assert "There is no model folder nowhere/at/all" in result.stderr
    made = tmp_path / "erased" / "mu_vision.json"
    made.write_text(made.read_text().replace(str(sd_folder), "gone/away/model"))
    result = call("evaluate", "erased", "-p", protocol, code=2)
    assert "was made from gone/away/model, which is not here" in result.stderr
