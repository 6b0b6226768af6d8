"""The regression lab: a ``forget`` recipe of regressors from YAML to table and report."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mu_vision import cli, registry
from mu_vision.errors import UsageError
from mu_vision.lab_regression import cell, nearest
from mu_vision.plan import plan
from mu_vision.recipe import load_recipe, make_recipe
from mu_vision.runner import run

RECIPE = {
    "kind": "forget",
    "family": "regressor",
    "name": "small_regression",
    "model": {"data": "diabetes", "architecture": "mlp", "epochs": 4, "standardize": True},
    "groups": {
        "band": {
            "forget": {"kind": "range", "low": 200},
            "methods": {
                "finetune": {"epochs": 1},
                "blindspot": {"blind_epochs": 2},
                "ruin": {"method": "finetune", "lr": 1e30, "epochs": 1},
            },
        },
        "age": {
            "forget": {"kind": "subject", "of": "youngest"},
            "methods": {"gaussian_amnesiac": None},
        },
    },
    "seeds": [3, 4],
    "anamnesis": {"alpha": 0.5, "epochs": 2},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(make_recipe(RECIPE), tmp_path_factory.mktemp("lab") / "run")


def line(done, group, method):
    return next(r for r in done.table if (r["group"], r["method"]) == (group, method))


def test_every_method_stands_beside_the_original_and_retrain(done):
    methods = [r["method"] for r in done.table if r["group"] == "band"]
    assert methods == ["original", "retrain", "finetune", "blindspot", "ruin"]
    gold = line(done, "band", "retrain")
    assert gold["w1"] == 0 and gold["gap"] == 0 and gold["ain"] == 1 and gold["seconds"] > 0
    assert line(done, "band", "original")["relearn"] == 0
    assert line(done, "band", "original")["w1"] > 0 and "seconds" not in line(
        done, "band", "original"
    )
    assert line(done, "band", "ruin")["failed"] == 2 and "w1" not in line(done, "band", "ruin")
    assert all(r["seeds"] == 2 and "w1_half" in r for r in done.table if r["method"] != "ruin")


def test_what_is_done_is_not_done_again_but_measured_anew_if_asked_otherwise(done, tmp_path):
    before = json.loads((done.folder / "scores.json").read_text())
    again = run(make_recipe(RECIPE), done.folder)
    assert all(record.reused for record in again.stages.values())
    assert again.scores["rows"] == before["rows"]


def test_tables_are_in_the_unit_of_the_targets(done):
    text = (done.folder / "table.md").read_text()
    assert (
        "| method | D_f | D_f, test | D_r | D_r, test | W1 | MIA % | gap | steps | AIN | seconds |"
        in text
    )
    assert "### band" in text and "### age" in text
    assert (
        (done.folder / "table.csv")
        .read_text()
        .startswith("group,method,seeds,failed,forget,forget_half")
    )


def test_the_report_shows_scatters_and_densities_beside_retrain(done):
    html = done.report.read_text(encoding="utf-8")
    for text in (
        "of 310 training samples of diabetes are to be forgotten", "mean squared error",
        "predicted against true", "The true values", "Blindspot: predictions on the forget set",
        "ruin, seed 3",
    ):  # fmt: skip
        assert text in html
    closer = done.scores["closer"]["band"]
    assert set(closer["models"]) == {"original", "retrain", "finetune", "blindspot"}
    for about in closer["models"].values():
        assert sum(about["density"]) == pytest.approx(1)


def test_the_report_and_the_console_are_made_again_from_the_folder(done):
    before = done.report.read_text(encoding="utf-8")
    done.report.unlink()
    result = CliRunner().invoke(cli.app, ["report", str(done.folder)])
    assert result.exit_code == 0 and done.report.read_text(encoding="utf-8") == before
    shown = CliRunner().invoke(
        cli.app, ["run", str(done.folder / "recipe.yaml"), "-o", str(done.folder)]
    )
    assert shown.exit_code == 0 and "Blindspot" in shown.stdout and "AIN" in shown.stdout
    kept = CliRunner().invoke(cli.app, ["show", str(done.folder)])
    assert kept.exit_code == 0 and "Blindspot" in kept.stdout and "AIN" in kept.stdout


def test_cells_say_what_was_given_up():
    about = {"relearn": 144.0, "relearn_half": 3.0, "censored": 0.5, "mia": 0.256, "mia_half": None}
    assert cell(about, "relearn") == "> 144 ± 3"
    assert cell({**about, "censored": 0.0}, "relearn") == "144 ± 3"
    assert cell(about, "mia") == "25.6" and cell(about, "w1") == "–"
    lines = [{"method": "retrain", "w1": 0}, {"method": "a", "w1": 2}, {"method": "b", "w1": 1}]
    assert nearest(lines)["method"] == "b" and nearest(lines[:1]) is None


def test_the_shipped_lab_has_every_method():
    shipped = load_recipe("lab_regression")
    for group in shipped.groups:
        names = {m.name for m in shipped.methods(group, 0).values()}
        assert names == set(registry.names("method", "regressor"))
    assert any("band: blindspot" in step for step, _ in plan(shipped).steps)
    shipped.check()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": {"data": "gagues"}}, "There is no data set 'gagues'. Did you mean 'gauges'"),
        ({"model": {"data": "gauges", "architecture": "mlp"},
          "groups": {"a": {"forget": {"kind": "random", "share": 0.1}, "methods": {"ssd": {}}}}},
         r"mlp cannot read the samples of gauges, which are \[3, 32, 32\]"),
        ({"poison": {"target": "3"}}, "'poison' is not for a regressor; leave it out"),
        ({"relearn": 3}, "'relearn' is not for a regressor"),
        ({"anamnesis": {"alhpa": 1}}, "anamnesis: unknown key 'alhpa'. Did you mean 'alpha'"),
        ({"family": "classifier", "model": {}, "groups": {"a": {"forget": {}, "methods": {"ssd": {}}}}},
         "'anamnesis' is not for a classifier"),
        ({"groups": {"a": {"forget": {"kind": "range", "low": 900}, "methods": {"ssd": {}}}}},
         "No training sample has a value from 900"),
        ({"groups": {"a": {"forget": {"kind": "range", "low": 0}, "methods": {"ssd": {}}}}},
         "is the whole training set: nothing is left to keep"),
        ({"groups": {"a": {"forget": {"search": "worst"}, "methods": {"ssd": {}}}}},
         "'search' is not for a regressor"),
        ({"groups": {"a": {"forget": {"kind": "range", "low": 200}, "methods": {"scrub": {}}}}},
         "The method scrub works on classifier models, not on regressor models"),
    ],
)  # fmt: skip
def test_bad_recipes_are_refused_before_anything_is_trained(changes, fault, tmp_path):
    with pytest.raises(UsageError, match=fault):
        run(make_recipe({**RECIPE, **changes}), tmp_path / "run")
    assert not list(tmp_path.rglob("*.safetensors"))
