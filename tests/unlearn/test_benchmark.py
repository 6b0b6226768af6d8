from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "esd.py"


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--model", "tiny", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_it_prints_the_ratio(monkeypatch, capsys):
    settings = ("steps=8", "sampler_steps=10", "lr=1e-3", "refresh=8")
    assert run(monkeypatch, "--repeats", "1", *settings) == 0
    lines = capsys.readouterr().out.splitlines()
    calls = {line.split()[0]: float(line.split()[1]) for line in lines if "U-Net calls" in line}
    assert calls["mu-vision"] < calls["plain"] / 2
    assert any("times faster" in line for line in lines)


def test_it_explains_a_wrong_setting(monkeypatch, capsys):
    assert run(monkeypatch, "step=8") == 2
    assert "Did you mean 'steps'" in capsys.readouterr().err
    assert run(monkeypatch, "steps") == 2
    assert "type key=value" in capsys.readouterr().err
