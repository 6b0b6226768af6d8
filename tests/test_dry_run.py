"""What a dry run finds: all that the run would refuse before it writes, in the same words."""

from __future__ import annotations

import pytest

from mu_vision.errors import UsageError
from mu_vision.plan import plan
from mu_vision.recipe import load_recipe, make_recipe
from mu_vision.runner import run

CLASSIFIER = {
    "name": "lab", "kind": "forget", "model": {"epochs": 1},
    "groups": {"one": {"forget": {"kind": "class", "of": "3"}, "methods": {"ssd": {}}}},
}  # fmt: skip
REGRESSOR = {
    **CLASSIFIER, "family": "regressor",
    "model": {"data": "diabetes", "architecture": "mlp"},
    "groups": {"one": {"forget": {"kind": "subject", "of": "oldest"}, "methods": {"ssd": {}}}},
}  # fmt: skip
GAN = {
    "name": "gan", "kind": "gan", "model": "minicanvas/gan-digits", "data": "digits",
    "groups": {"one": {"target": "3", "methods": {"positives": {"steps": 2}}}},
}  # fmt: skip
ERASE = {
    "name": "erase", "kind": "erase", "model": "minicanvas/sd", "methods": {"uce": {}},
    "request": {"kind": "style", "name": "neon"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "change", "said"),
    [
        (CLASSIFIER, "groups.one.forget.of=eleven", "There is no class 'eleven'. Known: 0, 1, 2"),
        (CLASSIFIER, "groups.one.forget={kind: range, low: 3}", "needs samples with a value each"),
        (CLASSIFIER, "groups.one.methods={unsir: {}}", None),
        (CLASSIFIER, "poison={target: zero}", "There is no class 'zero'"),
        (CLASSIFIER, "groups.one.then=[{kind: class, of: x}]", "There is no class 'x'"),
        (CLASSIFIER, "model.architecture=small_cn", "There is no classifier 'small_cn'"),
        (REGRESSOR, "groups.one.forget.of=oldes", "no subject 'oldes'. Did you mean 'oldest'"),
        (REGRESSOR, "groups.one.forget={kind: range, low: 900}", "has a value from 900"),
        (REGRESSOR, "model.architecture=small_cnn", "small_cnn"),
        (GAN, "groups.one.target=three", "There is no class 'three'. Known: 0, 1, 2"),
        (GAN, "oracle.architecture=small_cn", "There is no classifier 'small_cn'"),
        (ERASE, "protocol.styles=[photo, mosaic]", "neon"),
        (ERASE, "protocol.judges.style=minicanvas/object-judge", "object-judge"),
        (ERASE, "protocol.minimum.judge=1.1", "minimum.judge"),
        (ERASE, "model=minicanvas/object-judge", "is not a diffusers folder"),
    ],
)
def test_a_dry_run_and_the_run_refuse_the_same(data, change, said, tmp_path):
    if said is None:
        assert plan(make_recipe(data, [change]), tmp_path / "run").needs == []
        return
    faults = []
    for carry_out in (plan, run):
        with pytest.raises(UsageError, match=said) as caught:
            carry_out(make_recipe(data, [change]), tmp_path / "run")
        faults.append(str(caught.value))
    assert faults[0] == faults[1]
    assert not list(tmp_path.iterdir())


def test_data_that_has_to_be_fetched_is_told_and_does_not_hide_the_plan(tmp_path):
    changes = ["model.data=cifar10", f"model.root={tmp_path}"]
    planned = plan(make_recipe(CLASSIFIER, changes), tmp_path / "run")
    assert [need.split(" cannot")[0] for need in planned.needs] == ["CIFAR-10"]
    assert "Fetch cifar-10" in planned.needs[0]
    assert ("seed 0, one: ssd", "one shot") in planned.steps
    with pytest.raises(UsageError, match="Fetch cifar-10"):
        run(make_recipe(CLASSIFIER, changes), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_models_and_judges_that_have_to_be_fetched_are_told_together(tmp_path):
    recipe = load_recipe("unlearncanvas", ["groups.styles.names=[Van_Gogh]"])
    planned = plan(recipe, tmp_path / "run")
    assert planned.updates > 0
    [need] = planned.needs
    assert "There is no model folder unlearncanvas/diffuser/style50." in need
    assert "The protocol unlearncanvas needs files that are not here. Fetch and put" in need
    with pytest.raises(UsageError) as caught:
        run(recipe, tmp_path / "run")
    assert str(caught.value) == need and not list(tmp_path.iterdir())


def test_a_data_set_of_a_gan_is_looked_up():
    with pytest.raises(UsageError, match=r"There is no data set 'digit'. Did you mean 'digits'"):
        make_recipe(GAN, ["data=digit"])


def test_a_one_step_generator_is_counted_in_its_steps():
    made = plan(load_recipe("sfd_minicanvas"))
    costs = dict(made.steps)
    assert costs["evaluate sfd"] == "500 pictures of 1 step, 500 U-Net evaluations"
    assert costs["evaluate original"] == "500 pictures of 50 steps, 25,000 U-Net evaluations"
    assert made.evaluations == 500 + 3 * 25_000
