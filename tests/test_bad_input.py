"""Everything that can be wrong: one sentence on stderr, the right exit code, nothing lost."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
import workshop
import yaml
from typer.testing import CliRunner

from mu_vision import api, files, request
from mu_vision.cli import app
from mu_vision.data.cards import load_card
from mu_vision.data.folders import PictureFolder, read_picture
from mu_vision.errors import RunError, UsageError
from mu_vision.faults import STOPPED, explain


@pytest.fixture(scope="module")
def protocol(tmp_path_factory) -> Path:
    return workshop.protocol(tmp_path_factory.mktemp("protocol"))


@pytest.fixture
def job(sd_folder, protocol, tmp_path):
    """Write a recipe and return (its path, the run folder, a function that runs it)."""
    path, folder = tmp_path / "small.yaml", tmp_path / "run"

    def start(*changes, **recipe):
        path.write_text(yaml.safe_dump(workshop.recipe(sd_folder, protocol, **recipe)))
        return fails("run", path, *changes, "-o", folder)

    return path, folder, start


def fails(*words, code=2):
    """Run a command that must fail; returns its one sentence."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("mu-vision: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("modle=x", "Did you mean 'model'?"),
        ("methods.edd.steps=3", "There is no method 'edd'. Did you mean 'esd'?"),
        ("methods.esd.stpes=3", "unknown key 'stpes'. Did you mean 'steps'?"),
        ("methods.esd.steps=soon", "'steps' must be a whole number, not 'soon'."),
        ("methods.esd.lr=-1", "'lr' must be greater than or equal to 0, not -1."),
        ("methods.esd.variant=z", "must be one of"),
        ("request.name=noen", "Did you mean 'neon'?"),
        ("request.dataset=minicanvsa", "Did you mean 'minicanvas'?"),
        ("protocol=nothing_here", "There is no protocol 'nothing_here'."),
        ("protocol.seeds=[]", "'seeds'"),
        ("protocol.styles=[nene]", "neon"),
        ("model=no/such/folder", "There is no model folder no/such/folder."),
        ("model=minicanvas/ds", "There is no embedded model 'minicanvas/ds'."),
        ("protocol.seeds=[-1]", "greater than or equal to 0"),
        ("seed", "is not a change of the form key=value"),
    ],
)
def test_wrong_recipes_leave_no_run_behind(job, change, words):
    _, folder, start = job
    assert words in start(change)
    assert not folder.exists() or not any(folder.rglob("*.safetensors"))


def test_a_wrong_model_leaves_no_folder(job):
    _, folder, start = job
    start("model=no/such/folder")
    assert not folder.exists()
    change = "trainers.0.start=no/such/folder"
    assert "no/such/folder" in fails("run", "prolong_minicanvas_sd", change, "-o", folder)
    assert not folder.exists()


def test_wrong_flags(sd_folder, tmp_path):
    out = tmp_path / "out"
    neon = ["--style", "neon"]
    assert "Give --style NAME" in fails("erase", sd_folder, "-o", out)
    assert "give a folder with -o" in fails("erase", sd_folder, *neon).replace("Give", "give")
    assert "one kind at a time" in fails("erase", sd_folder, *neon, "--object", "cat", "-o", out)
    assert "Did you mean 'cat'?" in fails("erase", sd_folder, "--object", "cta", "-o", out)
    assert "no method 'uec'. Did you" in fails("erase", sd_folder, *neon, "-m", "uec", "-o", out)
    assert "unknown key 'stpes'" in fails("erase", sd_folder, "stpes=3", *neon, "-o", out)
    empty = fails("erase", sd_folder, "--concept", "", "-m", "uce", "-o", out)
    assert "--concept: 'name' must not be empty" in empty
    assert "There is no run folder" in fails("report", tmp_path / "nothing")
    assert "not a run folder" in fails("report", tmp_path)
    assert "There is no card" in fails("show", "minicanvass")
    assert not out.exists()
    # what typer itself finds wrong
    result = CliRunner().invoke(app, ["erse"])
    assert result.exit_code == 2 and "Did you mean 'erase'" in result.stderr


def test_damaged_models(sd_folder, tmp_path):
    out = tmp_path / "out"

    def refused(model):
        return fails("erase", model, "--style", "neon", "-m", "uce", "-o", out)

    broken = tmp_path / "broken"
    shutil.copytree(sd_folder, broken)
    weights = next((broken / "unet").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"{weights} is cut off or damaged" in refused(broken)
    weights.write_bytes(b"")
    assert "is cut off or damaged" in refused(broken)
    weights.unlink()
    assert "the model folder is not complete" in refused(broken)
    torch.save({}, broken / "unet" / "diffusion_pytorch_model.bin")
    assert "is a pickle" in refused(broken) or "only a pickle" in refused(broken)
    weights.write_bytes(whole)
    (broken / "model_index.json").write_text("{")
    assert "is damaged" in refused(broken)
    (broken / "model_index.json").unlink()
    assert "is not a diffusers folder" in refused(broken)
    torch.save({}, tmp_path / "model.ckpt")
    assert "is a pickle, which can run any code" in refused(tmp_path / "model.ckpt")
    assert not out.exists()


def test_damaged_deltas(sd_folder, tmp_path):
    delta = tmp_path / "d.safetensors"
    words = ("apply", delta, "--to", sd_folder, "-o", tmp_path / "out")
    assert "There is no delta file" in fails(*words)
    delta.write_bytes(b"nothing")
    assert "is cut off or damaged" in fails(*words)
    assert not (tmp_path / "out").exists()


def test_a_damaged_report_folder(tmp_path):
    (tmp_path / "scores.json").write_text("{")
    assert "is damaged" in fails("report", tmp_path)
    (tmp_path / "scores.json").write_text("[]")
    assert "does not hold the scores of a run" in fails("report", tmp_path)


def test_folders_of_others_are_left_alone(job, sd_folder, tmp_path):
    _, folder, start = job
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    assert "exists and is not a run of mu-vision" in start()
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]
    erase = ("erase", sd_folder, "--style", "neon", "-m", "uce", "-o")
    for taken in (folder, folder / "thesis.txt", Path(".")):
        assert "exists; give another" in fails(*erase, taken)
    assert "is a file" in fails(*erase, folder / "thesis.txt" / "deeper" / "model")
    assert "thesis.txt is a file" in fails(
        "run", "quickstart", "--dry-run", "-o", folder / "thesis.txt"
    )
    assert "is in the way" in fails("show", "minicanvas", "-o", folder / "thesis.txt" / "sheet.png")
    (tmp_path / "x.safetensors").mkdir()
    assert "exists; give another file" in fails(*erase, tmp_path / "x.safetensors")
    assert (folder / "thesis.txt").read_text() == "precious"


def test_an_earlier_model_is_not_overwritten(sd_folder, tmp_path):
    erase = ("erase", sd_folder, "--style", "neon", "-m", "uce", "-o")
    assert CliRunner().invoke(app, [str(word) for word in (*erase, tmp_path / "a")]).exit_code == 0
    before = files.sizes(tmp_path / "a")
    for output in (tmp_path / "a", str(tmp_path / "a") + "/"):
        assert "exists; give another folder" in fails(*erase, output)
    delta = tmp_path / "d.safetensors"
    assert CliRunner().invoke(app, [str(word) for word in (*erase, delta)]).exit_code == 0
    assert "exists; give another file" in fails(*erase, delta)
    assert "exists" in fails("apply", delta, "--to", sd_folder, "-o", tmp_path / "a")
    assert files.sizes(tmp_path / "a") == before
    with pytest.raises(UsageError, match="was read from"):
        api.load_model(tmp_path / "a").save(tmp_path / "a")


def test_empty_data_sets_and_unreadable_pictures(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    with pytest.raises(UsageError, match="has no picture"):
        PictureFolder(root, load_card("unlearncanvas"))
    (root / "1.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    with pytest.raises(UsageError, match=r"The picture .* cannot be read"):
        read_picture(root / "1.jpg")


@pytest.mark.parametrize("where", ["model", "scores.json", "report.html", "answers"])
def test_a_full_disk_is_a_sentence_and_the_run_goes_on(job, monkeypatch, where):
    path, folder, _ = job
    inner = files.replacing

    def full(target):
        if where in str(Path(target).relative_to(folder)):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return inner(target)

    words = ["run", str(path), "-o", str(folder)]
    _write(job)
    monkeypatch.setattr(files, "replacing", full)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, result.output
    assert "mu-vision: The disk is full while writing" in result.stderr
    assert "make room and run the same command to go on" in result.stderr
    assert not list(folder.rglob("*.partial"))
    monkeypatch.undo()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def _write(job):
    """Write the recipe file of ``job`` with a quick method."""
    path, _, start = job
    start("modle=x", methods={"uce": {}})
    return path


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mu_vision.unlearn.base.ClosedFormUnlearner", "_run"),
        ("mu_vision.runner.Chain", "judge"),
        ("mu_vision.runner.Chain", "write_recipe"),
        ("mu_vision.runner", "write_run_report"),
        ("mu_vision.runner.Original", "model"),
    ],
)
def test_ctrl_c_in_each_stage(job, monkeypatch, module, name):
    path, folder, _ = job
    _write(job)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{module}.{name}", property(stop) if name == "model" else stop)
    words = ["run", str(path), "-o", str(folder)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 130
    assert f"mu-vision: {STOPPED}" in result.stderr
    assert not list(folder.rglob("*.partial"))
    monkeypatch.undo()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert (folder / "report.html").is_file()


def test_debug_shows_the_traceback(job, monkeypatch):
    path, _, _ = job
    _write(job)
    for words in (
        ["--debug", "run", str(path), "modle=1"],
        ["run", str(path), "modle=1", "--debug"],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr and "Did you mean 'model'" in result.stderr
    monkeypatch.setenv("MU_VISION_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(app, ["run", "nothing"]).stderr


def test_what_nobody_foresaw_is_a_sentence_too(job, monkeypatch):
    path, folder, _ = job
    _write(job)

    def broken(*_, **__):
        raise ZeroDivisionError("division by zero\nsecond line")

    monkeypatch.setattr("mu_vision.runner.Chain.judge", broken)
    sentence = fails("run", path, "-o", folder, code=1)
    assert "ZeroDivisionError: division by zero. This is a fault of the program" in sentence


def test_a_no_op_is_a_fault(sd_folder, tmp_path):
    out = tmp_path / "out"
    words = (
        "erase",
        sd_folder,
        "--style",
        "neon",
        "-m",
        "esd",
        "steps=1",
        "lr=0",
        "sampler_steps=2",
    )
    sentence = fails(*words, "-o", out, code=1)
    assert "moved no weight" in sentence
    assert not out.exists()


def test_explanations_of_wrapped_faults():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not write the tensors") from error
    except RuntimeError as error:
        assert explain(error) == explain(OSError(errno.ENOSPC, "No space left on device"))
    assert explain(KeyboardInterrupt()) == (STOPPED, 130)
    assert explain(RunError("It broke.")) == ("It broke.", 1)
    assert explain(UsageError("Not so."))[1] == 2
    assert "The memory is full" in explain(RuntimeError("CUDA out of memory. Tried"))[0]
    assert "Not allowed to open" in explain(PermissionError(13, "Permission denied", "x"))[0]


def test_python_raises_the_same_sentences(sd_folder):
    wanted = request.concept_request("style", "neon")
    with pytest.raises(UsageError, match=r"method esd: unknown key 'stpes'. Did you mean 'steps'"):
        api.erase(sd_folder, wanted, "esd", stpes=3)
    with pytest.raises(UsageError, match=r"no method 'edd'. Did you mean 'esd'"):
        api.erase(sd_folder, wanted, "edd")
    with pytest.raises(UsageError, match="at least one prompt"):
        api.render(sd_folder, [])
