from __future__ import annotations

from typing import Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from mu_vision import resources
from mu_vision.errors import UsageError
from mu_vision.recipe import (
    EraseRecipe,
    TableRecipe,
    load_recipe,
    make_recipe,
    override,
    parse_settings,
)
from mu_vision.validation import read_yaml, validated

ERASE = {
    "name": "small",
    "kind": "erase",
    "model": "minicanvas/sd",
    "request": {"kind": "style", "name": "neon"},
    "methods": {"esd": {"steps": 3}, "uce": None},
    "protocol": "minicanvas",
}


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: int = Field(3, ge=1)
    variant: Literal["x", "u", "full"] = "x"
    text: str = ""
    size: int | None = None


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    inner: Inner = Inner()
    many: list[Inner] = []
    by_name: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {"name": "a", "inner": {"stpes": 1}},
            r"^here: unknown key 'inner.stpes'. Did you mean 's",
        ),
        ({"name": "a", "many": [{"stp": 1}]}, r"unknown key 'many.0.stp'. Did you mean 'steps'"),
        ({"name": "a", "by_name": {"k": {"stp": 1}}}, r"Did you mean 'steps'\? Known: size, steps"),
        ({"name": "a", "inner": {"steps": 0}}, r"'inner.steps' must be greater than or equal to 1"),
        ({"name": "a", "inner": {"steps": "x"}}, r"'inner.steps' must be a whole number, not 'x'"),
        ({"name": "a", "inner": {"size": "x"}}, r"'inner.size' must be a whole number, not 'x'"),
        ({"name": "a", "inner": {"variant": "ful"}}, r"must be one of 'x', .*mean 'full'"),
        ({"name": 3}, r"'name' must be a text, not 3"),
        ({}, r"'name' is missing"),
        ({"name": "a", "inner": 3}, r"'inner' must be a set of 'key: value' lines"),
        ([], r"it must be a set of 'key: value' lines"),
    ],
)
def test_faults_are_plain_sentences(data, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        validated(Outer, data, "here")
    assert "\n" not in str(caught.value)


def test_a_recipe_resolves_its_names():
    recipe = make_recipe(ERASE)
    assert isinstance(recipe, EraseRecipe)
    assert recipe.methods == {"esd": {"steps": 3}, "uce": {}}
    assert [request.slug for request in recipe.request.resolve()] == ["style-neon"]
    chosen = recipe.unlearners()
    assert chosen["esd"].steps == 3 and chosen["uce"].name == "uce"
    assert recipe.protocol.resolve().name == "minicanvas"


def test_several_concepts_at_once():
    recipe = make_recipe(ERASE, ["request.also=[mosaic, blueprint]"])
    assert [r.name for r in recipe.request.resolve()] == ["neon", "mosaic", "blueprint"]
    with pytest.raises(UsageError, match="Did you mean 'mosaic'"):
        make_recipe(ERASE, ["request.also=[mosiac]"])
    with pytest.raises(UsageError, match="need different names"):
        make_recipe(ERASE, ["request.also=[neon]"])


def test_the_recipes_seed_reaches_methods_that_set_none():
    data = {**ERASE, "seed": 7, "methods": {"esd": {}, "other": {"method": "esd", "seed": 1}}}
    chosen = make_recipe(data).unlearners()
    assert (chosen["esd"].seed, chosen["other"].seed) == (7, 1)
    assert chosen["other"].name == "esd"


def test_overrides_are_typed_by_the_schema():
    changes = [
        "methods.esd.steps=50",
        "methods.esd.lr=1e-4",
        "request.name=no",
        "protocol.steps=4",
        "protocol.seeds=[1, 2]",
        "seed=3",
    ]
    recipe = make_recipe(ERASE, [c for c in changes if "request" not in c])
    assert recipe.unlearners()["esd"].steps == 50
    assert recipe.unlearners()["esd"].lr == 1e-4
    protocol = recipe.protocol.resolve()
    assert (protocol.steps, protocol.seeds, recipe.seed) == (4, (1, 2), 3)
    # YAML reads a bare no as false; where the schema wants a text it stays one
    assert override(ERASE, "request.name=no", EraseRecipe)["request"]["name"] == "no"
    assert override(ERASE, "request.anchor=", EraseRecipe)["request"]["anchor"] == ""
    assert ERASE["methods"]["esd"] == {"steps": 3}


def test_settings_from_flags():
    data = parse_settings(["steps=2", "text=12", "variant=full"], Inner)
    assert data == {"steps": 2, "text": "12", "variant": "full"}
    assert validated(Inner, data, "x").text == "12"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("methods.esd.stpes=50", r"unknown key 'stpes'. Did you mean 'steps'"),
        ("methods.edd.steps=50", r"no method 'edd'. Did you mean 'esd'"),
        ("methods.esd.steps=many", r"methods.esd: 'steps' must be a whole number, not 'many'"),
        ("methods.esd.steps=-1", r"'steps' must be greater than or equal to"),
        ("methods.original.steps=1", r"no method 'original'|names the untouched model"),
        ("modle=x", r"unknown key 'modle'. Did you mean 'model'"),
        ("request.nmae=x", r"unknown key 'request.nmae'. Did you mean 'name'"),
        ("request.name=noen", r"neon"),
        ("request.kind=stlye", r"mean 'style'"),
        ("request.kind=object", r"neon"),
        ("request.dataset=minicanvs", r"minicanvas"),
        ("protocol=minicanva", r"mean 'minicanvas'"),
        ("protocol.stpes=3", r"unknown key 'stpes'. Did you mean 'steps'"),
        ("protocol.steps=0", r"'steps' must be greater"),
        ("steps", r"'steps' is not a change of the form key=value"),
        ("seed.deep=3", r"which has no keys|must be a whole number"),
        ("seed=[1", r"not valid YAML"),
        ("kind=erasee", r"must be"),
        ("name=a/b", r"'name' must match|'name' "),
    ],
)
def test_wrong_changes(change, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_recipe(ERASE, [change])


def test_a_table_makes_one_job_a_request():
    data = {
        "name": "t",
        "kind": "table",
        "model": "minicanvas/sd",
        "groups": {
            "styles": {"kind": "style", "names": ["neon", "mosaic"], "methods": {"uce": None}},
            "objects": {"kind": "object", "names": "all", "methods": {"uce": None}},
        },
    }
    recipe = make_recipe(data)
    assert isinstance(recipe, TableRecipe)
    jobs = recipe.jobs()
    assert [job.name for _, job in jobs[:3]] == ["style-neon", "style-mosaic", "object-tree"]
    assert len(jobs) == 12 and jobs[0][0] == "styles"
    with pytest.raises(UsageError, match=r"'names'|mushrom"):
        make_recipe(data, ["groups.objects.names=[mushrom]"])
    with pytest.raises(UsageError, match=r"groups.styles.methods.*stpes|unknown key 'stpes'"):
        make_recipe(data, ["groups.styles.methods.esd.stpes=1"])


def test_lists_are_reached_by_place():
    data = {"name": "t", "kind": "train", "trainers": [{"trainer": "autoencoder"}]}
    recipe = make_recipe(data, ["trainers.0.steps=5"])
    assert recipe.jobs()[0][1].steps == 5
    with pytest.raises(UsageError, match=r"a place in a list of 1"):
        make_recipe(data, ["trainers.3.steps=5"])
    with pytest.raises(UsageError, match=r"no trainer 'autoencodr'. Did you mean 'autoencoder'"):
        make_recipe(data, ["trainers.0.trainer=autoencodr"])
    with pytest.raises(UsageError, match="'trainer' is missing"):
        make_recipe({**data, "trainers": [{"steps": 3}]})


@pytest.mark.parametrize("name", resources.names("recipe"))
def test_every_recipe_that_ships_loads(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary


def test_unknown_names_and_broken_files(tmp_path):
    with pytest.raises(UsageError, match=r"no recipe 'quickstrat'. Did you mean 'quickstart'"):
        load_recipe("quickstrat")
    with pytest.raises(UsageError, match="no recipe file"):
        load_recipe("nowhere/at_all.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [a\nkind: erase\n")
    with pytest.raises(UsageError, match=r"recipe broken is not valid YAML.*\(line"):
        load_recipe(str(broken))
    broken.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UsageError, match="cannot be read: it is not a text file"):
        load_recipe(str(broken))
    with pytest.raises(UsageError, match="must be a set of"):
        read_yaml("- a\n- b\n", "it")
    broken.write_text(yaml.safe_dump({**ERASE, "kind": "ersae"}))
    with pytest.raises(UsageError, match=r"no kind of recipe 'ersae'. Did you mean 'erase'"):
        load_recipe(str(broken))
