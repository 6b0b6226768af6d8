from __future__ import annotations

from typing import Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from mu_vision import resources
from mu_vision.errors import UsageError
from mu_vision.evaluation.robustness import attacks_of
from mu_vision.recipe import (
    AuditRecipe,
    EraseRecipe,
    TableRecipe,
    load_recipe,
    make_recipe,
    override,
    parse_settings,
)
from mu_vision.validation import merged, read_yaml, validated

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


TABLE = {
    "name": "t",
    "kind": "table",
    "model": "minicanvas/sd",
    "groups": {
        "styles": {
            "kind": "style",
            "names": ["neon", "mosaic"],
            "methods": {"uce": None, "esd": {"steps": 3}, "fixed": {"method": "esd", "seed": 9}},
        },
        "objects": {"kind": "object", "names": ["cat"], "methods": {"uce": None}},
    },
}


def test_seeds_repeat_what_has_randomness():
    recipe = make_recipe(TABLE, ["seeds=[4, 5]"])
    jobs = {job.name: job for _, job in recipe.jobs()}
    assert list(jobs) == [
        "style-neon-seed4", "style-mosaic-seed4", "style-neon-seed5", "style-mosaic-seed5",
        "object-cat-seed4",
    ]  # fmt: skip
    # a closed form has no randomness: it is run, and the original measured, with the first alone
    assert list(jobs["style-neon-seed4"].methods) == ["uce", "esd", "fixed"]
    assert list(jobs["style-neon-seed5"].methods) == ["esd", "fixed"]
    seeds = [
        {label: method.seed for label, method in jobs[f"style-neon-seed{k}"].unlearners().items()}
        for k in (4, 5)
    ]
    assert (seeds[0]["esd"], seeds[1]["esd"]) == (4, 5)
    assert (seeds[0]["fixed"], seeds[1]["fixed"]) == (9, 9)


def test_one_seed_or_none_leaves_the_names_as_they_are():
    alone = [job for _, job in make_recipe(TABLE, ["seeds=[7]"]).jobs()]
    default = [job for _, job in make_recipe(TABLE, ["seed=7"]).jobs()]
    assert [job.name for job in alone] == ["style-neon", "style-mosaic", "object-cat"]
    assert [(j.name, j.seed, j.methods) for j in alone] == [
        (j.name, j.seed, j.methods) for j in default
    ]
    assert {job.seed for job in alone} == {7}
    with pytest.raises(UsageError, match=r"'seeds.0' must be greater than or equal to 0"):
        make_recipe(TABLE, ["seeds=[-1]"])


AUDIT = {
    "name": "a",
    "kind": "audit",
    "models": {"esd": "erased"},
    "original": "minicanvas/sd",
    "request": {"kind": "style", "name": "neon"},
    "protocol": "minicanvas_robust",
}


def test_a_change_below_a_key_leaves_its_neighbours():
    recipe = make_recipe(AUDIT, ["protocol.robustness.attacks.p4d.timesteps=2", "protocol.steps=4"])
    assert isinstance(recipe, AuditRecipe)
    whole = make_recipe(AUDIT).protocol.resolve()
    changed = recipe.protocol.resolve()
    assert changed.steps == 4 and whole.steps != 4
    expected = whole.robustness.model_dump()
    expected["attacks"]["p4d"]["timesteps"] = 2
    assert changed.robustness.model_dump() == expected
    built = attacks_of(changed)
    assert built["p4d"].timesteps == 2 and built["p4d"].tokens == 3
    left = make_recipe(AUDIT, ["protocol.robustness.attacks.relearning=false"])
    names = list(whole.robustness.attacks)
    names.remove("relearning")
    assert list(attacks_of(left.protocol.resolve())) == names


def test_merging_goes_key_by_key_and_changes_nothing_in_place():
    before = {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}
    mixed = merged(before, {"a": {"c": {"d": 3, "f": 4}}, "e": [9], "g": {"h": 1}})
    assert mixed == {"a": {"b": 1, "c": {"d": 3, "f": 4}}, "e": [9], "g": {"h": 1}}
    assert before == {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}
    assert merged({"a": {"b": 1}}, {"a": None}) == {"a": None}
    assert merged({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "protocol=minicanvas",
            r"recipe a: the protocol minicanvas names no attack; use minicanvas_",
        ),
        ("original=", r"'original' must not be empty"),
        ("targts=x", r"unknown key 'targts'. Did you mean 'targets'"),
        ("request.name=noen", r"Did you mean 'neon'"),
        ("protocol.robustness.attacks.p4dd.tokens=1", r"no attack 'p4dd'. Did you mean 'p4d'"),
        ("protocol.robustness.attacks.p4d.tokns=1", r"attacks.p4d: unknown key 'tokns'. Did you m"),
        (
            "protocol.robustness.attacks.p4d.iterations=0",
            r"'iterations' must be greater than or eq",
        ),
        ("protocol.robustness.attacks.mine.attack=p4dd", r"no attack 'p4dd'. Did you mean 'p4d'"),
        ("protocol.robustness.seeds=[]", r"'robustness.seeds' must not be empty"),
        (
            "protocol.robustness.atacks={}",
            r"unknown key 'robustness.atacks'. Did you mean 'attacks'",
        ),
        ("protocol.robustness.attacks.p4d.lowest=1000", r"lowest"),
    ],
)
def test_wrong_changes_of_an_audit(change, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_recipe(AUDIT, [change])


def test_an_audit_needs_a_request_and_an_original():
    for key in ("request", "original"):
        data = {name: value for name, value in AUDIT.items() if name != key}
        with pytest.raises(UsageError, match=f"'{key}' is missing"):
            make_recipe(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"model": {}, "groups": {"one": {"forget": {"kind": "class"}, "methods": {"ssd": {}}}}},
            "'forget', 'groups' belong to a recipe of kind forget; add the line `kind: forget`",
        ),
        ({"dataset": "digits", "forget": {}, "methods": {}}, "'forget' .* of kind forget"),
        ({"family": "regressor"}, "'family' belongs to a recipe of kind forget"),
        ({"model": "x", "oracle": {}, "groups": {"a": {"target": "3"}}}, "of kind gan; add"),
        ({"groups": {"a": {"kind": "style", "names": "all"}}}, "of kind table; add"),
        ({"trainers": []}, "'trainers' belongs to a recipe of kind train"),
        ({"models": {}, "targets": "x"}, "'models', 'targets' belong to a recipe of kind audit"),
        ({"models": {}}, "of kind evaluate or audit; add the line `kind: evaluate`"),
        # what an erasure has, or no kind has, is an erasure with that fault
        ({"model": "x", "request": {}, "methods": {}}, "'request.kind' is missing"),
        ({"requests": {}}, "'request' is missing|unknown key 'requests'. Did you mean 'request'"),
    ],
)
def test_a_recipe_without_kind_says_which_kind_it_looks_like(data, said):
    with pytest.raises(UsageError, match=rf"^recipe: .*{said}"):
        make_recipe({"name": "a", **data})


def test_a_recipe_without_kind_is_an_erasure():
    data = {key: value for key, value in ERASE.items() if key != "kind"}
    assert make_recipe(data) == make_recipe(ERASE)


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("methods.esd.precision=no", "no"),
        ("methods.concept_ablation.augment=off", "off"),
        ("methods.concept_ablation.reg=on", "on"),
    ],
)
def test_words_that_yaml_once_took_for_booleans_are_words(change, read):
    method, field = change.split("=")[0].split(".")[1:]
    recipe = make_recipe({**ERASE, "methods": {method: {}}}, [change])
    assert getattr(recipe.unlearners()[method], field) == read


def test_booleans_can_be_written_in_every_usual_way():
    for text in ("true", "True", "yes", "on", "1"):
        assert make_recipe(ERASE, [f"delta={text}"]).delta is True
    for text in ("false", "FALSE", "no", "off", "0"):
        assert make_recipe(ERASE, [f"delta={text}"]).delta is False
