from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from mu_vision.request import concept_request

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "advunlearn.py"
SMALL = ("attack_steps=3", "sampler_steps=6", "pool=8", "retain_pool=8", "retain_batch=2")
REQUEST = concept_request("style", "neon")


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--model", "tiny", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


@pytest.fixture(scope="module")
def script():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("advunlearn_benchmark", SCRIPT)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_prints_a_table_of_costs(monkeypatch, capsys):
    assert run(monkeypatch, "--iterations", "10", *SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]
    found = {row[0]: row[1:] for row in rows}
    assert set(map(len, rows)) == {4}
    # three attack steps and the update, in which two retain prompts come along
    assert found["U-Net rows, forward and backward"] == ["6.0", "6.0", "1.0"]
    assert found["U-Net rows, forward only"][1:] == ["0.0", ""]
    assert found["U-Net calls"][1] == "4.0"
    assert float(found["U-Net rows of the pools, once"][1]) > 0
    whole = found["U-Net rows, all, with pools over 10"]
    assert float(whole[1]) > float(found["U-Net rows, all"][1])
    assert float(found["seconds, pools built"][2]) > 1


def test_the_plain_way_has_the_rows_of_the_published_algorithm(script, sd):
    """Every trajectory at its deepest: rows are then known exactly."""
    steps, attack, kept = 6, 3, 2
    settings = [*SMALL, "gamma=0.3"]
    way = script.both_ways(settings, 10)["plain"]
    timed = script.Timed(way, sd, REQUEST, 1)
    timed.objective.stops = timed.objective.stops[-1:]
    timed.build()
    timed.iterate()
    depth = steps - 1  # the last state lies before the last sampler step
    # a state: both branches of its trajectory, then e_0 and e_c; a retain state: one prediction
    forward = (attack + 1) * (2 * depth + 2) + kept * (2 * depth + 1)
    assert timed.each.forward == forward
    assert timed.each.backward == attack + 1 + kept
    assert timed.rows == timed.each.rows == timed.each.turns[0]
    assert timed.pools.rows == 0


def test_both_ways_have_the_same_losses_on_the_same_states(script, sd, monkeypatch):
    """With the plain way's states in its pools, mu-vision's update is the plain way's."""
    ways = script.both_ways([*SMALL, "attack=none"], 10)
    plain, ours = (way.objective(sd, (REQUEST,)) for way in ways.values())
    for objective in (plain, ours):
        objective.prepare(torch.device("cpu"))
        for parameter in objective.parameters().values():  # at the start l_retain is 0
            parameter.data.mul_(1.2)
    seen, predict = [], type(sd).predict_noise

    def recorded(model, x, t, text):
        found = predict(model, x, t, text)
        if torch.is_grad_enabled():
            seen.append((x, torch.as_tensor(t).expand(len(x)), text))
        return found

    state = plain.fresh(3, plain.stops[3][1])
    monkeypatch.setattr(plain, "fresh", lambda depth, t: state)
    monkeypatch.setattr(type(sd), "predict_noise", recorded)
    torch.manual_seed(0)
    expected = plain.loss(0)
    (_, _, _), (x, t, _) = seen
    torch.manual_seed(0)
    plain.stop()
    rows = torch.randperm(len(plain.kept))[:2].tolist()
    prompts = [plain.kept[i] for i in rows]
    with torch.no_grad():
        eps = sd.predict_noise(x, t, sd.encode_prompt(prompts))
    kept = {"x": x, "t": t, "eps": eps, "prompts": prompts}
    monkeypatch.setattr(ours.retain, "draw", lambda n: kept)
    monkeypatch.setattr(ours, "_draw", lambda: state)
    found = ours.loss(0)
    assert float(expected["retain_loss"].detach()) > 1e-4
    for name in ("esd_loss", "retain_loss"):
        assert torch.allclose(found[name], expected[name], rtol=1e-4)


def test_the_plain_way_trains_and_saves(script, sd, tmp_path):
    way = script.both_ways([*SMALL, "lr=1e-3"], 2)["plain"]
    done = way.unlearn(sd, REQUEST, tmp_path / "work")
    assert done.report["changed_tensors"] > 0
    assert all(name.startswith("text_encoder.") for name in done.trained)


def test_it_explains_a_wrong_setting(monkeypatch, capsys):
    for arguments, sentence in (
        (["attack_step=8"], "Did you mean 'attack_steps'"),
        (["steps"], "type key=value"),
        (["variant=x", "rollout=student"], "the plain way is written for the paper's variant=text"),
        (["--part", "0"], "give numbers of at least 1"),
    ):
        assert run(monkeypatch, *arguments) == 2
        assert sentence in capsys.readouterr().err
    assert run(monkeypatch, *SMALL, "--protocol", "minicanvas") == 2
    assert "does not name unlearndiffatk" in capsys.readouterr().err
