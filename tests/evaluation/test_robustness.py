"""The battery: one list of cases, controls and floors, the worst case, and going on."""

from __future__ import annotations

import json
from copy import deepcopy
from types import SimpleNamespace

import evaluation_fakes as fakes
import numpy as np
import pytest
import scenes

from mu_vision import api
from mu_vision.attack.base import Attack
from mu_vision.attack.paraphrase import Paraphrase
from mu_vision.errors import RunError, UsageError
from mu_vision.evaluation import cases, robustness
from mu_vision.evaluation.robustness import Battery, attacks_of, metrics_of, pictures_of

TINY = {
    "paraphrase": None,
    "random_prefix": {"tokens": 1, "pictures": 1},
    "unlearndiffatk": {"tokens": 2, "timesteps": 1, "iterations": 1},
    "image_to_image": {"strengths": [1.0]},
    "relearning": {"marks": [0, 1], "batch": 1},
}
BENCH = SimpleNamespace(
    judges={"style": SimpleNamespace(name="fake-style")}, clip=None, key=lambda: "bench"
)


def protocol(attacks=None, **changes):
    about = {
        "seeds": (1, 2), "examples": 2, "attacks": TINY if attacks is None else attacks, **changes
    }  # fmt: skip
    return fakes.protocol(
        styles=("photo", "neon"), objects=("tree", "cat"), steps=1, guidance=1.0,
        clip=None, fid={"clip": False}, robustness=about,
    )  # fmt: skip


def red(pictures, asked):
    """Three of the four pictures of the tiny original are redder than this."""
    return pictures[..., 0].mean(axis=(1, 2)) > red.level


def use_red(patch, sd) -> None:
    patch.setattr(cases, "verdict_of", lambda request, bench: red)
    made = cases.cases_of(fakes.request(), protocol(), (1, 2))
    drawn = cases.draw_cases(sd, made, scenes.Sampler(1, 1.0))
    red.level = np.sort(drawn[..., 0].mean(axis=(1, 2)))[:2].mean()


@pytest.fixture(autouse=True)
def judge(monkeypatch, sd):
    use_red(monkeypatch, sd)


@pytest.fixture(scope="module")
def victim(sd):
    return scenes.edited(sd, 3)


def battery(sd, folder=None, said=None, attacks=None, targets=None, **changes) -> Battery:
    announce = said.append if said is not None else lambda text: None
    chosen = protocol(attacks, **changes)
    return Battery(sd, [fakes.request()], chosen, BENCH, folder, targets, announce)


@pytest.fixture(scope="module")
def audited(sd, victim, tmp_path_factory):
    """One battery, run once: its folder, what it announced, what it found."""
    patch = pytest.MonkeyPatch()
    use_red(patch, sd)
    folder, said = tmp_path_factory.mktemp("battery"), []
    found = battery(sd, folder, said).audit(victim, "victim")
    patch.undo()
    return folder, said, found


def test_every_attack_sees_the_same_cases(audited):
    _, _, found = audited
    assert list(found["attacks"]) == list(TINY)
    assert (found["asked"], found["cases"], len(found["unknown"])) == (4, 3, 1)
    ids = {
        tuple((t["prompt"], t["seed"]) for t in record["trials"])
        for record in found["attacks"].values()
    }
    assert len(ids) == 1 and len(next(iter(ids))) == 3
    before = {tuple(t["before"] for t in r["trials"]) for r in found["attacks"].values()}
    assert len(before) == 1
    for record in found["attacks"].values():
        hits = [sum(t[key] for t in record["trials"]) for key in ("before", "after")]
        assert [record["pre_asr"]["hits"], record["asr"]["hits"]] == hits
        assert record["pre_asr"] == found["pre_asr"]
        assert 0 <= record["pre_asr"]["value"] <= record["asr"]["value"] <= 1
        assert record["asr"]["total"] == 3
        assert record["queries"] == sum(t["queries"] for t in record["trials"])
    assert json.loads(json.dumps(found)) == found


def test_the_worst_case_is_over_what_counts(audited):
    found = audited[2]
    counted = {name: r for name, r in found["attacks"].items() if name != "relearning"}
    hits = {name: record["asr"]["hits"] for name, record in counted.items()}
    assert found["worst"]["hits"] == max(hits.values()) == hits[found["worst"]["attack"]]
    anyone = np.any([[t["after"] for t in r["trials"]] for r in counted.values()], axis=0)
    assert (
        found["any"]["hits"] == anyone.sum() >= found["worst"]["hits"] >= found["pre_asr"]["hits"]
    )
    assert found["attacks"]["relearning"]["headline"] is False


def test_any_is_the_union_and_what_may_teach_anything_has_no_part(sd, victim):
    def record(headline, *after):
        trials = [{"after": bool(hit)} for hit in after]
        rate = {"value": sum(after) / 3, "hits": sum(after), "total": 3, "interval": [0, 1]}
        return {"headline": headline, "trials": trials, "asr": rate, "control": None}

    attacks = {
        "one": record(True, 1, 0, 0), "two": record(True, 0, 1, 0), "all": record(False, 1, 1, 1)
    }  # fmt: skip
    found = battery(sd, attacks={"paraphrase": None})._summary(attacks, victim)
    assert (found["worst"]["attack"], found["worst"]["hits"], found["any"]["hits"]) == ("one", 1, 2)


def test_metrics_are_the_counts(audited):
    found = audited[2]
    metrics = metrics_of(found, "fake-style")
    assert list(metrics) == [
        "pre_asr", "asr_paraphrase", "asr_random_prefix", "asr_unlearndiffatk",
        "asr_image_to_image", "asr_worst", "asr_any",
    ]  # fmt: skip
    for name, metric in metrics.items():
        assert metric.expected == metric.used == found["cases"] == 3
        assert metric.judge == "fake-style"
        low, high = metric.interval
        assert low <= metric.value <= high
        assert metric.value >= metrics["pre_asr"].value
        if name.startswith("asr_"):
            assert metric.value <= metrics["asr_any"].value
    assert metrics["asr_worst"].value == found["worst"]["value"]


def test_only_white_box_attacks_that_count_have_a_control(audited):
    _, said, found = audited
    controls = {name for name, record in found["attacks"].items() if record["control"]}
    assert controls == {"unlearndiffatk"}
    assert [text for text in said if "without the name" in text] == [
        "attack unlearndiffatk on original without the name"
    ]
    assert {record["floor"] for record in found["attacks"].values()} == {None}


def test_the_control_asks_the_original_without_the_name(sd):
    made = battery(sd)
    scene = made.scene(sd, "control")
    assert [c.prompt for c in scene.cases] == [c.neutral for c in made.stage.cases]
    assert [c.asks_for for c in scene.cases] == [c.prompt for c in made.stage.cases]
    noise = [a.noise((4, 8, 8)) for a in scene.cases]
    assert all(
        (n == c.noise((4, 8, 8))).all() for n, c in zip(noise, made.stage.cases, strict=True)
    )
    own = made.scene(sd)
    assert own.before.all()
    assert np.abs(own.unattacked.astype(int) - made.stage.targets).max() <= 1
    assert not np.array_equal(scene.unattacked, own.unattacked)


def test_what_was_finished_is_read_and_not_run_again(sd, victim, audited, monkeypatch):
    folder, first, found = audited
    said = []
    monkeypatch.setattr(Attack, "run", lambda *_: pytest.fail("run again"))
    again = battery(sd, folder, said).audit(victim, "victim")
    assert again == found and said == [] and len(first) == 6


def test_a_stopped_battery_goes_on_where_it_was(sd, victim, audited, monkeypatch, tmp_path):
    inner, done = Attack.run, []

    def run(self, scene):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(self.name)
        return inner(self, scene)

    with monkeypatch.context() as patch:
        patch.setattr(Attack, "run", run)
        with pytest.raises(KeyboardInterrupt):
            battery(sd, tmp_path).audit(victim)
    said = []
    resumed = battery(sd, tmp_path, said).audit(victim)
    assert done == ["paraphrase", "random_prefix"] and len(said) == 4
    whole = deepcopy(audited[2])
    for found in (resumed, whole):
        for record in found["attacks"].values():
            record.pop("seconds")
            for trial in record["trials"]:
                trial.pop("seconds")
    assert resumed["attacks"] == whole["attacks"]


def test_what_changes_a_result_changes_its_key(sd, victim):
    attack = Paraphrase()
    made = battery(sd)
    keys = [
        made._key(attack, victim, "victim"),
        made._key(attack, victim, "control"),
        made._key(attack, sd, "victim"),
        made._key(attacks_of(protocol())["relearning"], victim, "victim"),
        battery(sd, seed=1)._key(attack, victim, "victim"),
        battery(sd, examples=1)._key(attack, victim, "victim"),
        battery(sd, seeds=(2,))._key(attack, victim, "victim"),
    ]
    assert len(set(keys)) == len(keys)
    assert battery(sd, required_control=0.1)._key(attack, victim, "victim") == keys[0]


def test_a_damaged_file_is_one_sentence(sd, victim, tmp_path):
    made = battery(sd, tmp_path, attacks={"paraphrase": None})
    made.audit(victim)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text()[:40])
    with pytest.raises(RunError, match=rf"{path.name} is damaged; delete it and run again"):
        battery(sd, tmp_path, attacks={"paraphrase": None}).audit(victim)
    path.unlink()
    assert made.audit(victim)["attacks"]


def test_pictures_are_kept_beside(sd, victim, audited):
    folder, _, found = audited
    for record in found["attacks"].values():
        assert pictures_of(folder, record["key"]).shape == (3, 16, 16, 3)
    original, own = pictures_of(folder, found["before"])
    made = battery(sd)
    assert np.array_equal(original, made.stage.targets)
    assert np.array_equal(own, made.scene(victim).unattacked)
    assert pictures_of(folder, "nothing") is None
    assert battery(sd, attacks={"paraphrase": None}).audit(victim)["before"] is None


def test_warnings_say_what_was_left_out_and_which_attack_proves_little(sd, victim):
    few = {"unlearndiffatk": TINY["unlearndiffatk"]}
    found = battery(sd, attacks=few, required_control=1.0).audit(victim)
    control = found["attacks"]["unlearndiffatk"]["control"]
    assert "1 of 4 prompts were left out for every attack: 0 leave no room" in found["warnings"][0]
    weak = [text for text in found["warnings"] if "its failures show little" in text]
    assert len(weak) == (control["value"] < 1)
    lowered = {**found["attacks"]["unlearndiffatk"], "control": {**control, "value": 0.5}}
    said = battery(sd, attacks=few)._warnings({"unlearndiffatk": lowered})
    assert "UnlearnDiffAtk brings the concept back in only 50 % of the original's" in said[-1]
    assert "(at least 95 % are asked for)" in said[-1]
    none = battery(sd, attacks=few, required_control=0.0).audit(victim)["warnings"]
    assert not [text for text in none if "show little" in text]


def test_a_prompt_without_room_is_left_out_for_all_attacks(sd, victim):
    longest = max(
        len(sd.tokens(c.prompt).ids[: sd.tokens(c.prompt).count]) for c in battery(sd).stage.cases
    )
    tokens = 48 - longest + 1
    wide = {"paraphrase": None, "random_prefix": {"tokens": tokens, "pictures": 1}}
    found = battery(sd, attacks=wide).audit(victim)
    assert found["too_long"] and found["asked"] == 4
    out = [*found["too_long"], *found["unknown"], *found["unasked"]]
    assert found["cases"] == 4 - len(out)
    for record in found["attacks"].values():
        assert len(record["trials"]) == found["cases"]
        assert not {t["prompt"] for t in record["trials"]} & set(found["too_long"])
    assert f"{len(found['too_long'])} leave no room for adversarial tokens" in found["warnings"][0]


def test_the_floor_is_the_attack_on_a_model_that_never_knew(sd, sd_folder, victim, monkeypatch):
    monkeypatch.setattr(robustness, "_LOADED", {})
    few = {"random_prefix": TINY["random_prefix"], "relearning": TINY["relearning"]}
    said = []
    made = battery(sd, said=said, attacks=few, never_knew={"neon": str(sd_folder)})
    found = made.audit(victim)
    assert found["never_knew"] == str(sd_folder)
    for record in found["attacks"].values():
        assert record["floor"]["total"] == 3 and "details" in record["floor"]
    # the stand-in is the original itself, which shows the concept in every case
    assert found["attacks"]["random_prefix"]["floor"]["hits"] == 3
    assert found["attacks"]["relearning"]["floor"]["details"]["curves"]["concept"][0] == 1.0
    assert said.count("attack random_prefix on the model that never knew it") == 1
    without = battery(sd, attacks=few, never_knew={"neon": str(sd_folder)}, controls=False)
    assert without.audit(victim)["attacks"]["relearning"]["floor"] is None
    other = battery(sd, attacks=few, never_knew={"mosaic": "nowhere/at/all"}).audit(victim)
    assert other["never_knew"] is None
    with pytest.raises(UsageError, match="There is no model folder nowhere/at/all"):
        battery(sd, attacks=few, never_knew={"neon": "nowhere/at/all"})


def test_attacks_are_named_left_out_and_repeated():
    built = attacks_of(
        protocol({**TINY, "relearning": False, "again": {"attack": "random_prefix"}})
    )
    assert list(built) == [
        "paraphrase",
        "random_prefix",
        "unlearndiffatk",
        "image_to_image",
        "again",
    ]
    assert built["again"].name == "random_prefix" and built["random_prefix"].pictures == 1
    assert attacks_of(fakes.protocol()) == {}
    where = "protocol test, robustness.attacks.p4d"
    for settings, words in (
        (
            {"p4d": {"iterations": 0}},
            f"{where}: 'iterations' must be greater than or equal to 1, not 0",
        ),
        (
            {"p4d": {"timesteps": 0}},
            f"{where}: 'timesteps' must be greater than or equal to 1, not 0",
        ),
        ({"p4d": {"tokns": 1}}, f"{where}: unknown key 'tokns'. Did you mean 'tokens'"),
        ({"p4d": {"lowest": 900, "highest": 100}}, "lowest=900 must be below highest=100"),
        ({"p4dd": None}, "There is no attack 'p4dd'. Did you mean 'p4d'"),
        ({"relearning": {"marks": [4, 2]}}, "steps must rise from mark to mark"),
    ):
        with pytest.raises(UsageError, match=words):
            attacks_of(protocol(settings))


def test_the_untouched_model_is_not_taught_what_it_knows(sd):
    found = battery(sd).audit(sd, "original")
    assert "relearning" not in found["attacks"] and found["pre_asr"]["hits"] == 3
    only = battery(sd, attacks={"relearning": TINY["relearning"]}).audit(sd, "original")
    assert only["attacks"] == {} and only["worst"] is only["any"] is None
    assert list(metrics_of(only, "x")) == ["pre_asr"]


def test_what_a_battery_cannot_do_is_said_before_any_picture_is_drawn(sd, sdxl, monkeypatch):
    monkeypatch.setattr(robustness, "set_stage", lambda *_: pytest.fail("drawn"))
    with pytest.raises(
        UsageError, match="The protocol test names no attack; add `robustness: attacks:`"
    ):
        battery(sd, attacks={"p4d": False})
    with pytest.raises(UsageError, match="What was to be forgotten"):
        Battery(sd, [], protocol(), BENCH)
    with pytest.raises(UsageError, match="reads a prompt through two text encoders"):
        battery(sdxl)


def test_audit_in_python(sd, victim, monkeypatch, tmp_path):
    monkeypatch.setattr(robustness, "open_bench", lambda protocol, device: BENCH)
    few = protocol({"paraphrase": None, "random_prefix": TINY["random_prefix"]})
    card = api.audit(victim, few, fakes.request(), sd, folder=tmp_path)
    assert card.protocol == "test" and card.value("pre_asr") <= card.value("asr_worst")
    assert card.value("asr_worst") <= card.value("asr_any")
    assert card.robustness["cases"] == 3 and card.request["name"] == "neon"
    assert len(list(tmp_path.glob("*.json"))) == 2
    for wrong in (
        {"request": None, "original": sd},
        {"request": fakes.request(), "original": None},
    ):
        with pytest.raises(UsageError, match="An audit needs the request, and the untouched model"):
            api.audit(victim, few, **wrong)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="The protocol test names no attack"):
        api.audit(victim, fakes.protocol(), fakes.request(), sd)
