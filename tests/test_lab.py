"""The course lab: a ``forget`` recipe from YAML to table and report."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mu_vision import cli, lab
from mu_vision.errors import UsageError
from mu_vision.plan import plan
from mu_vision.recipe import load_recipe, make_recipe
from mu_vision.runner import run

RECIPE = {
    "kind": "forget",
    "name": "small_lab",
    "model": {"epochs": 3, "lr": 0.05},
    "groups": {
        "class": {
            "forget": {"kind": "class", "of": "3"},
            "methods": {"eu_k": {"epochs": 2}, "ssd": {"alpha": 5}, "finetune": {"epochs": 1}},
        },
        "random": {
            "forget": {"kind": "random", "share": 0.1},
            "methods": {"ruin": {"method": "finetune", "lr": 1e30, "epochs": 1}},
        },
    },
    "seeds": [0, 1],
    "relearn": 1,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "run"
    return run(make_recipe(RECIPE), folder)


def line(table, group, method):
    return next(r for r in table if (r["group"], r["method"]) == (group, method))


def test_every_method_stands_beside_the_original_and_retrain(done):
    methods = [r["method"] for r in done.table if r["group"] == "class"]
    assert methods == ["original", "retrain", "eu_k", "ssd", "finetune"]
    gold, original = line(done.table, "class", "retrain"), line(done.table, "class", "original")
    assert gold["ua"] == 1.0 and gold["gap"] == 0 and gold["js"] == 0
    assert original["ua"] < 0.2 and original["gap"] > 0.3
    assert line(done.table, "class", "eu_k")["ua"] > 0.9
    assert all(r["seeds"] == 2 for r in done.table)
    assert gold["seconds"] > 0 and "seconds" not in original


def test_the_spread_is_over_models(done):
    rows = [r for r in done.scores["rows"] if (r["group"], r["method"]) == ("class", "eu_k")]
    assert [r["seed"] for r in rows] == [0, 1]
    assert len({r["ta"] for r in rows}) == 2
    summary = line(done.table, "class", "eu_k")
    assert summary["ta"] == pytest.approx(sum(r["ta"] for r in rows) / 2)
    # two values: Student's t with one degree of freedom
    spread = 12.706204736432095 * abs(rows[0]["ta"] - rows[1]["ta"]) / 2
    assert summary["ta_half"] == pytest.approx(spread)


def test_a_method_that_ruins_the_network_is_a_result(done):
    ruined = line(done.table, "random", "ruin")
    assert ruined["failed"] == 2 and "ua" not in ruined
    said = [r["failed"] for r in done.scores["rows"] if r["method"] == "ruin"]
    assert all("became NaN or infinite" in text or "became" in text for text in said)
    assert "became" in done.report.read_text(encoding="utf-8")


def test_what_is_done_is_not_done_again_and_gives_the_same(done):
    before = json.loads((done.folder / "scores.json").read_text())
    again = run(make_recipe(RECIPE), done.folder)
    assert all(record.reused for record in again.stages.values())
    assert again.scores["rows"] == before["rows"]


def test_tables_are_written_as_papers_print_them(done):
    text = (done.folder / "table.md").read_text()
    assert "| Retrain | 100.0 ± 0.0 |" in text and "### random" in text
    header = (done.folder / "table.csv").read_text().splitlines()[0]
    assert header.startswith("group,method,seeds,failed,ua,ua_half,ra")


def test_the_report_tells_the_yardstick_and_what_was_forgotten(done):
    html = done.report.read_text(encoding="utf-8")
    assert "of 1197 training samples of digits are to be forgotten" in html
    assert "The test set is without class 3" in html
    assert "Accuracy on the forget set after epochs of training on it alone" in html
    for record in ("relearn", "confidences"):
        assert record in json.dumps(done.scores)


def test_the_report_is_built_again_from_the_folder(done):
    before = done.report.read_text(encoding="utf-8")
    done.report.unlink()
    result = CliRunner().invoke(cli.app, ["report", str(done.folder)])
    assert result.exit_code == 0
    assert done.report.read_text(encoding="utf-8") == before


def test_the_shipped_lab_has_every_method_in_both_groups():
    from mu_vision import registry

    shipped = load_recipe("lab_classifier")
    names = set(registry.names("method", "classifier"))
    for group in shipped.groups:
        assert {m.name for m in shipped.methods(group, 0).values()} == names
    assert any("class: l1_sparse" in step for step, _ in plan(shipped).steps)


def change(**groups):
    return {**RECIPE, "groups": {"one": {**RECIPE["groups"]["class"], **groups}}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (change(methods={"esd": {}}), "esd works on diffusion models"),
        (change(methods={"scrubb": {}}), "Did you mean 'scrub'"),
        (change(methods={"ssd": {"alpha": -1}}), "groups.one.methods.ssd: 'alpha'"),
        (
            {**RECIPE, "model": {"data": "digit"}},
            "There is no data set 'digit'. Did you mean 'digits'",
        ),
        ({**RECIPE, "seeds": []}, "has no seed"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_sentence(data, said):
    with pytest.raises(UsageError, match=said):
        make_recipe(data)


def test_a_class_that_does_not_exist_is_found_before_anything_is_trained(tmp_path):
    recipe = make_recipe(change(forget={"kind": "class", "of": "eleven"}))
    with pytest.raises(UsageError, match="There is no class 'eleven'"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_half_an_interval_of_one_value_is_not_known():
    assert lab.half_width([0.5]) is None
    assert lab.half_width([1.0, 1.0, 1.0]) == 0.0


def test_worst_and_easiest_sets_and_sparse_originals_are_one_line_each(tmp_path):
    methods = {"finetune": {"epochs": 1}}
    search = {"share": 0.1, "epochs": 1, "outer": 2}
    groups = {
        "worst": {"forget": {"search": "worst", **search}, "methods": methods},
        "easiest": {"forget": {"search": "easiest", **search}, "methods": methods},
        "sparse": {
            "forget": {"kind": "random", "share": 0.1},
            "prune": {"how": "random", "sparsity": 0.5},
            "methods": methods,
        },
    }
    data = {**RECIPE, "groups": groups, "seeds": [0], "relearn": 0, "probe": False}
    found = run(make_recipe(data), tmp_path / "run")
    worst, easiest = (line(found.table, group, "retrain") for group in ("worst", "easiest"))
    assert worst["ua"] < easiest["ua"]
    assert found.scores["requests"]["worst"]["name"] == "worst case 10 %"
    assert (found.folder / "forget_sets" / "seed0-worst.json").is_file()
    for method in ("original", "retrain", "finetune"):
        assert line(found.table, "sparse", method)["sparsity"] > 0.4
    assert line(found.table, "worst", "finetune")["sparsity"] == 0
    assert "Every forget set side by side" in found.report.read_text(encoding="utf-8")
    again = run(make_recipe(data), tmp_path / "run")
    assert all(record.reused for record in again.stages.values())


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (
            {"forget": {"search": "worse", "share": 0.1}},
            "'search' must be worst or easiest, not 'worse'",
        ),
        ({"forget": {"search": "worst", "shar": 0.1}}, "groups.one.forget: unknown key 'shar'"),
        ({"forget": {"kind": "random", "share": 2}}, "groups.one.forget: 'share'"),
        ({"prune": {"how": "omp", "sparsity": 1.0}}, "groups.one.prune: 'sparsity'"),
    ],
)
def test_a_wrong_forget_set_or_pruning_is_refused(group, said):
    with pytest.raises(UsageError, match=said):
        make_recipe(change(**group))


@pytest.mark.parametrize("name", ["worst_case_digits", "sparse_then_unlearn"])
def test_the_other_shipped_recipes_are_whole(name):
    assert len(load_recipe(name).groups) >= 3


def test_requests_one_after_the_other_stand_beside_retrain_of_all(tmp_path):
    first, second = {"kind": "class", "of": "3"}, {"kind": "class", "of": "5", "share": 0.5}
    groups = {"turn": {"forget": first, "then": [second], "methods": {"eu_k": {"epochs": 3}}}}
    data = {**RECIPE, "groups": groups, "seeds": [0], "relearn": 0, "probe": False}
    found = run(make_recipe(data), tmp_path / "run")
    about = found.scores["requests"]["turn"]
    assert about["name"] == "class 3, then 50 % of class 5" and about["parts"] == 2
    gold, ours = (line(found.table, "turn", m) for m in ("retrain", "eu_k"))
    assert 0.6 < gold["ua"] < 0.9  # half of class 5 was kept and is still known
    assert abs(ours["ua"] - gold["ua"]) < 0.2
    with pytest.raises(UsageError, match="searched forget set cannot be followed"):
        make_recipe(change(forget={"search": "worst", "share": 0.1}, then=[second]))
    with pytest.raises(UsageError, match=r"groups.one.then.0: unknown key 'off'"):
        make_recipe(change(then=[{"kind": "class", "off": "3"}]))


def test_other_data_in_the_same_folder_is_trained_on_anew(tmp_path):
    groups = {"one": {"forget": {"kind": "random", "share": 0.1}, "methods": {"ssd": {"alpha": 2}}}}
    data = {**RECIPE, "groups": groups, "seeds": [0], "relearn": 0, "probe": False}
    clean = run(make_recipe(data), tmp_path / "run")
    poisoned = run(make_recipe({**data, "poison": {"target": "0", "share": 0.2}}), tmp_path / "run")
    assert not poisoned.stages["train-seed0-original"].reused
    assert "asr" not in line(clean.table, "one", "original")
    assert line(poisoned.table, "one", "original")["asr"] > 0.5
    assert not list((tmp_path / "run" / "checkpoints").glob("seed0*"))


def test_a_one_shot_probe_sees_what_a_new_head_hides(done):
    """EU-k resets the head alone, so its features are the original's, and outputs cannot tell."""
    original, gold, ours = (
        line(done.table, "class", m)["one_shot"] for m in ("original", "retrain", "eu_k")
    )
    assert ours == original > gold + 0.1
    assert "one_shot" not in line(done.table, "random", "retrain")
