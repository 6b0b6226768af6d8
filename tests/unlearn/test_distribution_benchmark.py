from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "distribution_erasers.py"


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--model", "tiny", "--steps", "2", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_fewer_evaluations_and_half_the_activations_for_the_same_gradients(monkeypatch, capsys):
    assert run(monkeypatch, "batch=4") == 0
    found = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("| "):
            what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found[what] = cells
    assert found["joint: U-Net rows, all"] == ["28.0", "16.0", "1.75"]
    assert found["head start: U-Net rows, all"][:2] == ["12.0", "0.0"]
    plain, ours, _ = map(float, found["joint: activations, MB"])
    assert ours < 0.55 * plain
    told = found["relative difference of the gradients"][1]
    assert all(float(text.split()[0]) < 1e-3 for text in told.split(", "))


def test_it_explains_a_wrong_setting(monkeypatch, capsys):
    assert run(monkeypatch, "bach=8") == 2
    assert "Did you mean 'batch'" in capsys.readouterr().err
    assert run(monkeypatch, "batch") == 2
    assert "type key=value" in capsys.readouterr().err
    assert run(monkeypatch, "surgery=none") == 2
    assert "the plain way is written for surgery=project" in capsys.readouterr().err
