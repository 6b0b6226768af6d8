from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from mu_vision.unlearn.diffusion.sfd import SFD

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "one_step.py"


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_it_prints_both_ratios(monkeypatch, capsys):
    settings = ("--pictures", "4", "--updates", "1", "--batch", "2", "--repeats", "1")
    assert run(monkeypatch, "--model", "tiny", *settings) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("sampling") and "(50 steps to 1)" in line for line in lines)
    assert any("times faster in one batch" in line for line in lines)


def test_separate_passes_have_the_same_losses(label_model):
    import torch

    from mu_vision import seeding
    from mu_vision.request import ConceptRequest

    separate = runpy.run_path(str(SCRIPT))["SeparateDistillation"]
    request = ConceptRequest(kind="object", name="cat", prompts=("cat",), anchor="boat")
    made = SFD(batch=2).objective(label_model, [request])
    made.prepare(torch.device("cpu"))
    sizes = []
    hook = made.teacher.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    made.__class__ = separate
    with seeding.seeded("separate"):
        assert made.loss(0)["generator_loss"].isfinite()
    assert sizes == [2, 2]
    hook.remove()


def test_a_model_of_texts_is_refused(monkeypatch, capsys, sd_folder):
    assert run(monkeypatch, "--model", str(sd_folder)) == 2
    assert "is not a label-conditional model" in capsys.readouterr().err
