"""The course lab under shadow models (U-LiRA), and with the anamnesis index."""

from __future__ import annotations

import pytest
from test_lab import RECIPE, line

from mu_vision.recipe import make_recipe
from mu_vision.runner import run

LIRA = {
    **RECIPE,
    "model": {"epochs": 2, "lr": 0.05},
    "groups": {
        "class": {
            "forget": {"kind": "class", "of": "3"},
            "methods": {"ssd": {"alpha": 5}, "ruin": RECIPE["groups"]["random"]["methods"]["ruin"]},
        }
    },
    "seeds": [0],
    "relearn": 3,
    "probe": False,
    "lira": {"shadows": 6},
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lira") / "run"
    return run(make_recipe(LIRA), folder)


def test_shadow_models_tell_what_saw_the_samples_from_what_never_did(attacked):
    """Of a whole class a model that has seen it and done nothing about it is told at once."""
    rows = {method: line(attacked.table, "class", method) for method in ("original", "ssd")}
    assert rows["original"]["lira"] > 0.95 and rows["original"]["lira_auc"] > 0.95
    assert 0.5 <= rows["ssd"]["lira"] <= 1
    assert abs(line(attacked.table, "class", "retrain")["lira"] - 0.5) < 0.25
    ruined = line(attacked.table, "class", "ruin")
    assert ruined["failed"] == 1 and "lira" not in ruined
    html = attacked.report.read_text(encoding="utf-8")
    assert ">U-LiRA<" in html and "an attacker of each sample" in html
    assert (
        f"tells SSD from models that never saw the samples in {100 * rows['ssd']['lira']:.0f} %"
        in html
    )
    assert "| U-LiRA | AIN | seconds |" in (attacked.folder / "table.md").read_text()
    trained = [name for name in attacked.stages if name.startswith("train-seed1000")]
    assert len(trained) == 6


def test_an_attack_with_shadow_models_goes_on_where_it_was(attacked):
    """A stage that is lost is done again alone, with the same end."""
    lost = attacked.folder / "checkpoints" / "stages" / "shadow3-seed0-class-ssd.json"
    lost.unlink()
    again = run(make_recipe(LIRA), attacked.folder)
    assert [name for name, r in again.stages.items() if not r.reused] == ["shadow3-seed0-class-ssd"]
    assert again.scores["rows"] == attacked.scores["rows"]


def test_a_method_that_fails_on_a_shadow_original_has_no_attack_and_says_why(tmp_path, monkeypatch):
    from mu_vision.errors import RunError
    from mu_vision.unlearn.classifier.ssd import SSD

    whole = SSD.unlearn

    def failing(self, model, request, folder=None):
        if self.seed == 10_002:
            raise RunError("ssd gave NaN or infinite weights")
        return whole(self, model, request, folder)

    monkeypatch.setattr(SSD, "unlearn", failing)
    group = {**LIRA["groups"]["class"], "methods": {"ssd": {"alpha": 5}}}
    data = {**LIRA, "groups": {"class": group}, "model": {"epochs": 1}, "relearn": 0}
    found = run(make_recipe(data), tmp_path / "run")
    row = line(found.table, "class", "ssd")
    assert "lira" not in row and row["failed"] == 0
    said = "No U-LiRA, for it failed on a shadow model: ssd gave NaN or infinite weights"
    assert said in found.report.read_text(encoding="utf-8")


def test_the_anamnesis_index_stands_beside_the_epochs_of_relearning(attacked):
    rows = {m: line(attacked.table, "class", m) for m in ("original", "retrain", "ssd")}
    assert rows["original"]["relearn_time"] == 0 and rows["retrain"]["ain"] == 1
    time, gold = rows["ssd"]["relearn_time"], rows["retrain"]["relearn_time"]
    assert rows["ssd"]["ain"] == pytest.approx((time + 0.01) / (gold + 0.01))
    assert 0 < rows["ssd"]["ain"]
    html = attacked.report.read_text(encoding="utf-8")
    assert ">AIN<" in html and ">Relearn epochs<" in html
