from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import workshop
import yaml

from mu_vision.cli import app
from mu_vision.errors import UsageError
from mu_vision.merging import merge, read_source
from mu_vision.metrics.rates import Rate
from mu_vision.recipe import TableRecipe, load_recipe, make_recipe
from mu_vision.runner import run

GROUPS = {
    "styles": {"kind": "style", "names": ["neon"], "methods": {"uce": {}}},
    "objects": {"kind": "object", "names": ["cat"], "methods": {"uce": {}}},
}
ESD = {"steps": 2, "batch": 1, "sampler_steps": 2, "variant": "x"}


@pytest.fixture(scope="module")
def runs(sd_folder, tmp_path_factory) -> dict[str, Path]:
    """Tables of one concept each, of one method more, and of a second seed; do not change them."""
    place = tmp_path_factory.mktemp("runs")
    protocol = workshop.protocol(place)

    def table(name: str, groups: dict, **more) -> Path:
        data = {**workshop.table(sd_folder, protocol), "groups": groups, **more}
        return run(make_recipe(data), place / name).folder

    neon = {**GROUPS["styles"], "methods": {"uce": {}, "esd": ESD}}
    return {
        "styles": table("styles", {"styles": GROUPS["styles"]}),
        "objects": table("objects", {"objects": GROUPS["objects"]}),
        "neon": table("neon", {"styles": neon}),
        "again": table("again", {"styles": neon}, seed=1),
    }


def named(result) -> list[tuple[str, str, str]]:
    return [(row["group"], row["request"], row["method"]) for row in result.table]


def test_two_halves_are_the_whole(runs, tmp_path):
    result = merge([runs["styles"], runs["objects"]], tmp_path / "m")
    assert named(result) == [
        ("styles", "neon", "original"), ("styles", "neon", "uce"),
        ("styles", "mean", "original"), ("styles", "mean", "uce"),
        ("objects", "cat", "original"), ("objects", "cat", "uce"),
        ("objects", "mean", "original"), ("objects", "mean", "uce"),
        ("all", "mean", "original"), ("all", "mean", "uce"),
    ]  # fmt: skip
    for half in ("styles", "objects"):
        rows = json.loads((runs[half] / "scores.json").read_text())["rows"]
        assert [row for row in result.scores["rows"] if row["group"] == half] == rows
    assert result.report.is_file() and (tmp_path / "m" / "table.csv").is_file()


def test_the_recipe_of_a_merged_table_asks_for_all_of_it(runs, tmp_path):
    recipe = load_recipe(str(merge([*runs.values()], tmp_path / "m").folder / "recipe.yaml"))
    assert isinstance(recipe, TableRecipe) and recipe.seeds == (0, 1)
    assert {title: group.names for title, group in recipe.groups.items()} == {
        "styles": ("neon",), "objects": ("cat",),
    }  # fmt: skip
    assert list(recipe.groups["styles"].methods) == ["uce", "esd"]
    assert len(recipe.resolved["merged"]) == 4


def test_seeds_repeat_what_has_randomness_and_nothing_else(runs, tmp_path):
    result = merge([runs["neon"], runs["again"]], tmp_path / "m")
    assert named(result) == [
        ("styles", "neon, seed 0", "original"), ("styles", "neon, seed 0", "uce"),
        ("styles", "neon, seed 0", "esd"), ("styles", "neon, seed 1", "esd"),
        ("styles", "mean", "original"), ("styles", "mean", "uce"), ("styles", "mean", "esd"),
    ]  # fmt: skip


def test_a_merged_table_can_be_merged_again(runs, tmp_path):
    once = merge([runs["styles"], runs["objects"]], tmp_path / "once")
    twice = merge([once.folder, runs["neon"], runs["again"]], tmp_path / "twice")
    merge([runs["styles"]], tmp_path / "straight")
    straight = merge([*runs.values()], tmp_path / "straight")
    assert twice.scores["rows"] == straight.scores["rows"]


def test_means_have_the_interval_over_all_that_was_counted(runs, tmp_path):
    result = merge([runs["neon"], runs["again"]], tmp_path / "m")
    counts = [row["counts"]["ua"] for row in result.scores["rows"] if row["method"] == "esd"]
    mean = next(row for row in result.table if row["request"] == "mean" and row["method"] == "esd")
    assert len(counts) == 2 and mean["rows"] == 2
    assert mean["counts"]["ua"] == [sum(hits) for hits in zip(*counts, strict=True)]
    low, high = Rate(*mean["counts"]["ua"]).interval
    hits, total = mean["counts"]["ua"]
    line = f"({100 * low:.0f} to {100 * high:.0f}; {hits} of {total})"
    assert line in (tmp_path / "m" / "means.md").read_text()
    assert f"{100 * low:.1f}–{100 * high:.1f} of {total}" in result.report.read_text()


def test_a_run_that_was_stopped_gives_what_it_has(runs, tmp_path, sd_folder):
    part = tmp_path / "part"
    recipe = yaml.safe_load((runs["styles"] / "recipe.yaml").read_text())
    recipe["groups"]["styles"]["names"] = ["neon", "mosaic"]
    (part / "style-neon").mkdir(parents=True)
    (part / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match="no finished request yet"):
        read_source(part)
    for name in ("scores.json", "recipe.yaml"):
        (part / "style-neon" / name).write_bytes(
            (runs["styles"] / "style-neon" / name).read_bytes()
        )
    said = []
    result = merge([part, runs["objects"]], tmp_path / "m", said.append)
    assert said == ["2 of 6 rows are not there yet"]
    assert [row["request"] for row in result.scores["rows"]] == ["neon", "neon", "cat", "cat"]
    # numbers that another recipe left in the folder are none of this run's
    recipe["groups"]["styles"]["methods"] = {"uce": {"erase_scale": 0.5}}
    (part / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match="no finished request yet"):
        read_source(part)


def test_an_older_table_is_read_by_its_requests(runs, tmp_path):
    old = shutil.copytree(runs["styles"], tmp_path / "old")
    scores = json.loads((old / "scores.json").read_text())
    rows = [dict(row) for row in scores["rows"]]
    for row in scores["rows"]:
        del row["name"], row["seed"], row["counts"]
    (old / "scores.json").write_text(json.dumps(scores))
    assert list(read_source(old).rows.values()) == rows


def changed(folder: Path, place: Path, change) -> Path:
    """A copy of a finished run's recipe and scores, changed."""
    place.mkdir()
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    scores = json.loads((folder / "scores.json").read_text())
    change(recipe, scores)
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (place / "scores.json").write_text(json.dumps(scores))
    return place


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r, s: r["resolved"].update(original="x"), "another original"),
        (lambda r, s: r["resolved"]["protocol"].update(steps=99), "another protocol"),
        (lambda r, s: r["groups"]["styles"]["methods"].update(uce={"erase_scale": 0.5}),
         "other settings for uce in the group styles"),
        (lambda r, s: r["groups"]["styles"].update(anchor="photo"), "another anchor in the group"),
        (lambda r, s: s["rows"][1].update(ua=12.5), "other numbers for uce of neon"),
    ],
)  # fmt: skip
def test_runs_that_do_not_belong_together_are_refused(runs, tmp_path, change, words):
    other = changed(runs["styles"], tmp_path / "other", change)
    with pytest.raises(UsageError, match=words):
        merge([runs["styles"], other], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_what_is_no_run_of_a_table_is_refused_in_one_sentence(runs, tmp_path):
    with pytest.raises(UsageError, match="There is no run folder"):
        merge([tmp_path / "none"], tmp_path / "m")
    with pytest.raises(UsageError, match="each once"):
        merge([runs["styles"], runs["styles"]], tmp_path / "m")
    with pytest.raises(UsageError, match="is one of the runs"):
        merge([runs["styles"], runs["objects"]], runs["objects"])
    before = (runs["neon"] / "scores.json").read_bytes()
    with pytest.raises(UsageError, match="holds a run, which would be written over"):
        merge([runs["styles"], runs["objects"]], runs["neon"])
    assert (runs["neon"] / "scores.json").read_bytes() == before
    with pytest.raises(UsageError, match=r"recipe .* cannot be read"):
        merge([tmp_path], tmp_path / "m")
    with pytest.raises(UsageError, match="of the kind erase; only runs of the kind table"):
        merge([runs["styles"] / "style-neon"], tmp_path / "m")


def test_the_command_prints_the_table(runs, tmp_path):
    from typer.testing import CliRunner

    folders = [str(runs["styles"]), str(runs["objects"])]
    done = CliRunner().invoke(app, ["merge", *folders, "-o", str(tmp_path / "m")])
    assert done.exit_code == 0 and "neon" in done.output and "cat" in done.output
    refused = CliRunner().invoke(app, ["merge", *folders])
    assert refused.exit_code != 0 and "Where should the table go?" in refused.output
