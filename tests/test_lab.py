"""The course lab: a ``forget`` recipe from YAML to table and report."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mu_vision import cli, lab
from mu_vision.data.labelled import digits
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
    for group in shipped.groups:
        names = {
            m.name for m in registry.classes("method", "classifier")
            if group == "class" or not m.class_wise
        }  # fmt: skip
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
        ({**RECIPE, "lira": {"shadows": 2}}, "'lira.shadows' must be greater than or equal to 6"),
        ({**RECIPE, "lira": {"models": 8}}, "unknown key 'lira.models'"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_sentence(data, said):
    with pytest.raises(UsageError, match=said):
        make_recipe(data)


def test_a_class_that_does_not_exist_is_found_before_anything_is_trained(tmp_path):
    recipe = make_recipe(change(forget={"kind": "class", "of": "eleven"}))
    with pytest.raises(UsageError, match="There is no class 'eleven'"):
        run(recipe, tmp_path / "run")
    data = make_recipe({**RECIPE, "model": {"data": "cifar10", "root": str(tmp_path)}})
    with pytest.raises(UsageError, match=r"CIFAR-10 cannot be read from .*\. Fetch cifar-10"):
        run(data, tmp_path / "run")
    with pytest.raises(
        UsageError, match="unsir forgets whole classes alone, and random 10 % leaves"
    ):
        random = {"forget": {"kind": "random", "share": 0.1}, "methods": {"unsir": {}}}
        run(make_recipe(change(**random)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


def test_groups_in_order_of_sparsity_are_drawn_as_lines_with_bands(tmp_path):
    spec = {"forget": {"kind": "class", "of": "3"}, "methods": {"ssd": {"alpha": 5}}}
    pruned = {
        f"sparse_{percent}": {**spec, "prune": {"how": "random", "sparsity": percent / 100}}
        for percent in (90, 50)
    }
    data = {**RECIPE, "groups": {**pruned, "dense": spec}, "relearn": 0, "probe": False}
    data["model"] = {"epochs": 1}
    found = run(make_recipe(data), tmp_path / "run")
    assert found.scores["axis"] == {
        "name": "sparsity", "places": {"sparse_90": 0.9, "sparse_50": 0.5, "dense": 0.0}
    }  # fmt: skip
    html = found.report.read_text(encoding="utf-8")
    assert "Against sparsity" in html and html.count('class="band c') == 4
    gap, mia = (line(found.table, "sparse_50", "ssd")[key] for key in ("gap", "mia_gap"))
    for value in (gap, mia):
        assert f"SSD: {100 * value:.1f} points at 50 % sparsity" in html
    pairs = [r for r in found.scores["rows"] if r["group"] == "dense"]
    gold = {r["seed"]: r["mia"] for r in pairs if r["method"] == "retrain"}
    ours = [abs(r["mia"] - gold[r["seed"]]) for r in pairs if r["method"] == "ssd"]
    assert line(found.table, "dense", "ssd")["mia_gap"] == pytest.approx(sum(ours) / 2)


def test_other_groups_are_drawn_side_by_side(done):
    html = done.report.read_text(encoding="utf-8")
    assert done.scores["axis"] is None and "Against" not in html
    value = line(done.table, "class", "ssd")["gap"]
    assert f"<title>SSD, class: {100 * value:.1f}</title>" in html
    assert "<title>Retrain, class: 100.0</title>" in html


@pytest.mark.parametrize(
    ("changes", "axis"),
    [
        ([{"prune": {"sparsity": s}} for s in (0.5, 0.9, 0.0)], ("sparsity", [0.5, 0.9, 0.0])),
        ([{}, {"prune": {"sparsity": 0.5}}, {"prune": {}}], ("sparsity", [0.0, 0.5, 0.95])),
        ([{"forget": {"share": s}} for s in (0.1, 0.2, 0.5)], ("share forgotten", [0.1, 0.2, 0.5])),
        ([{"forget": {"share": s}} for s in (0.1, 0.2)], None),
        ([{"forget": {"share": s}} for s in (0.1, 0.2, 0.2)], None),
        ([{"forget": {"share": 0.1, "kind": k}} for k in ("random", "class", "indices")], None),
        ([{}, {"prune": {"sparsity": 0.5}}, {"prune": {"sparsity": 0.9, "how": "imp"}}], None),
        (
            [
                {},
                {"prune": {"sparsity": 0.5}},
                {"prune": {"sparsity": 0.9}, "methods": {"ssd": {}}},
            ],
            None,
        ),
    ],
)
def test_groups_have_an_axis_if_they_differ_in_one_number_alone(changes, axis):
    base = {"forget": {"kind": "random", "share": 0.1}, "methods": {"finetune": {}}}
    groups = {f"g{n}": {**base, **change} for n, change in enumerate(changes)}
    found = make_recipe({**RECIPE, "groups": groups}).axis()
    if axis is None:
        assert found is None
    else:
        assert (found["name"], list(found["places"].values())) == axis


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


def test_the_shipped_attack_says_what_it_will_cost():
    shipped = load_recipe("privacy_digits")
    steps = dict(plan(shipped).steps)
    assert steps["U-LiRA: 6 more originals"].startswith("a training for each, then every method")
    assert not any("U-LiRA" in step for step, _ in plan(load_recipe("lab_classifier")).steps)


def threes_and_fives() -> list[int]:
    y = digits().train.y
    return [int((y == label).nonzero()[0]) for label in (3, 5)]


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
    fives = {"kind": "class", "of": "5"}
    again = change(forget=first, then=[fives, {"kind": "class", "of": "3", "share": 0.5}])
    with pytest.raises(
        UsageError,
        match=r"\(50 % of class 3\) was forgotten already, by request 1 \(class 3\): leave it out",
    ):
        run(make_recipe(again), tmp_path / "again")
    both = change(forget=first, then=[fives, {"kind": "indices", "indices": threes_and_fives()}])
    with pytest.raises(
        UsageError, match=r"already, by request 1 \(class 3\) and request 2 \(class 5\): leave"
    ):
        run(make_recipe(both), tmp_path / "again")
    assert not (tmp_path / "again").exists()
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
