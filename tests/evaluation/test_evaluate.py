from __future__ import annotations

import numpy as np
import pytest
from evaluation_fakes import OBJECTS, STYLES, FakeModel, install, judge, protocol, request

from mu_vision.errors import CountMismatch, RunError, UsageError
from mu_vision.evaluation.answers import AnswerSet, generate
from mu_vision.evaluation.evaluate import evaluate
from mu_vision.evaluation.scorecard import Scorecard

NEON, PHOTO = STYLES.index("neon"), STYLES.index("photo")


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    install(monkeypatch)


def erased(s, o, prompt):
    """The ideal edit: neon is drawn as photo, the object stays."""
    return (PHOTO, o) if s == NEON else (s, o)


def ruined(s, o, prompt):
    return 7, 9


def test_original_alone():
    card = evaluate(FakeModel(), protocol())
    assert card.value("ua") is None and card.request is None and not card.warnings
    for name in (
        "style_accuracy",
        "object_accuracy",
        "clip_style_accuracy",
        "clip_object_accuracy",
    ):
        assert card[name].value == 1 and card[name].used == 160 and card[name].unit == "rate"
    assert card["clip_score"].value > 95
    assert card["fid_clip"].details["reference_pictures"] == 80
    assert card["sampling_seconds"].expected == 160
    assert card.answers["pictures"] == 160 and len(card.answers["sha256"]) == 64
    assert np.array(card.confusion["style"]["counts"]).sum(axis=1).tolist() == [20] * 8


@pytest.mark.parametrize("kind, name", [("style", "neon"), ("object", "cat")])
def test_the_original_as_unlearner(kind, name):
    """UA = 1 - accuracy; paired changes are 0; no flag, for it is the original."""
    model = FakeModel()
    card = evaluate(model, protocol(), request(kind, name), original=model)
    assert (card["ua"].value, card["ira"].value, card["cra"].value) == (0, 1, 1)
    for name in ("paired_target_change", "paired_ira_change", "paired_cra_change",
                 "paired_label_changes", "paired_pixel_change"):  # fmt: skip
        assert card[name].value == 0
    assert card["paired_clip_similarity"].value == pytest.approx(1)
    assert card["changed_gb"].value == 0
    assert not any(card.flags.values()) and not card.warnings


def test_ideal_unlearner():
    card = evaluate(FakeModel(erased, "esd"), protocol(), request(), FakeModel(), method="esd")
    assert (card["ua"].value, card["ira"].value, card["cra"].value) == (1, 1, 1)
    assert card["ua"].expected == card["ua"].used == 20 and card["ira"].used == 140
    assert card["cra"].used == 160 and card["cra_retain"].used == 140
    assert card["ua"].judge == "fake-style" and card["cra"].judge == "fake-object"
    assert 0.8 < card["ua"].interval[0] < 1 and card["ua"].interval[1] == 1
    assert card.became == {"photo": 20}
    assert card["target_cross_accuracy"].value == 1
    assert card["target_probability"].value < 1e-6
    assert card["target_confidence"].value == pytest.approx(1, abs=1e-4)
    assert card["paired_target_change"].value == -1 and card["paired_ira_change"].value == 0
    assert card["clip_score"].value > card["clip_score_target"].value
    assert card["changed_gb"].value == pytest.approx(12e-9)
    assert not card.warnings and not any(card.flags.values())
    neon = card.cells["style"]["styles"].index("neon")
    assert card.cells["style"]["hits"][neon] == [0] * 10 and card.cells["style"]["total"] == 2


def test_object_request():
    cat, dog = OBJECTS.index("cat"), OBJECTS.index("boat")

    def draw(s, o, prompt):
        return s, dog if o == cat else o

    card = evaluate(FakeModel(draw, "uce"), protocol(), request("object", "cat"), FakeModel())
    assert (card["ua"].value, card["ira"].value, card["cra"].value) == (1, 1, 1)
    assert card["ua"].used == 16 and card["ua"].judge == "fake-object"
    assert card.became == {"boat": 16}


def test_ruin_is_exposed():
    card = evaluate(FakeModel(ruined, "bad"), protocol(), request(), FakeModel())
    assert card["ua"].value == 1 and card["ira"].value == pytest.approx(1 / 7)
    assert card["target_cross_accuracy"].value == pytest.approx(1 / 10)
    assert card.flags["collapsed"]
    said = " ".join(card.warnings)
    assert "UA is 100.0 %, but the pictures of the target are ruined" in said
    assert "the rest is damaged" in said


def test_fid_leaves_the_target_out_on_both_sides():
    model = FakeModel()
    whole = evaluate(model, protocol())
    style = evaluate(model, protocol(), request(), model)
    thing = evaluate(model, protocol(), request("object", "cat"), model)
    assert whole["fid_clip"].used == 160
    assert style["fid_clip"].used == 140
    assert style["fid_clip"].details["reference_pictures"] == 70
    assert thing["fid_clip"].used == 144
    assert style["fid_clip"].judge == "fake-clip" and style["fid_clip"].unit == "distance"
    kept = evaluate(model, protocol(fid={"per_cell": 1, "exclude_target": False}), request(), model)
    assert kept["fid_clip"].value == pytest.approx(whole["fid_clip"].value)


def test_too_few_real_pictures_are_an_error(monkeypatch):
    from mu_vision.evaluation import marks

    every = marks._real_pictures

    def fewer(protocol):
        blocks = list(every(protocol))
        return [tuple(part[1:] for part in blocks[0]), *blocks[1:]]

    monkeypatch.setattr(marks, "_real_pictures", fewer)
    with pytest.raises(CountMismatch, match="1 real pictures of each of 80 cells and got 79"):
        evaluate(FakeModel(), protocol())


def test_no_op_is_reported():
    original = FakeModel()
    same = FakeModel(name="edited", fingerprint=original.fingerprint())
    card = evaluate(same, protocol(), request(), original)
    assert card.flags["no_op"] and "no-op" in card.warnings[0]
    idle = evaluate(FakeModel(name="moved"), protocol(), request(), original)
    assert idle.flags["unchanged_pictures"] and not idle.flags["no_op"]
    assert "not one picture" in idle.warnings[0]


def test_void_protocol(monkeypatch):
    install(monkeypatch, style=judge("style", accuracy=0.9))
    with pytest.raises(RunError, match=r"void: its style judge fake-style names 90\.0 %"):
        evaluate(FakeModel(), protocol())
    install(monkeypatch)
    with pytest.raises(RunError, match=r"void: the judge finds the style right in 12\.5 %"):
        evaluate(FakeModel(ruined, "bad"), protocol())
    with pytest.raises(RunError, match="void"):
        evaluate(FakeModel(), protocol(), request(), FakeModel(ruined, "bad"))
    install(monkeypatch, object=judge("object", accuracy=None))
    card = evaluate(FakeModel(), protocol())
    assert "does not state its accuracy" in card.warnings[0]


def test_without_an_original_it_says_so():
    card = evaluate(FakeModel(ruined, "bad"), protocol(), request())
    assert "No original was given" in card.warnings[0]
    assert "paired_pixel_change" not in card.metrics and card.flags["collapsed"]


def test_answers_are_drawn_once_and_shared(tmp_path, monkeypatch):
    original = FakeModel()
    first = evaluate(original, protocol(), request(), original, tmp_path)
    drawn = len(original.batches)
    evaluate(FakeModel(erased, "esd"), protocol(), request(), original, tmp_path)
    assert len(original.batches) == drawn
    install(monkeypatch)  # forgets what is in memory
    fresh = FakeModel()
    again = evaluate(fresh, protocol(), request(), fresh, tmp_path)
    assert not fresh.batches
    assert {n: m.value for n, m in again.metrics.items()} == {
        n: m.value for n, m in first.metrics.items()
    }
    assert len(set(original.encoded)) == len(original.encoded) == 80
    assert AnswerSet.load(tmp_path / first.answers["key"][:16]).digest == first.answers["sha256"]


def test_original_in_a_folder_of_its_own(tmp_path, monkeypatch):
    original = FakeModel()
    evaluate(original, protocol(), request(), original, tmp_path / "original")
    install(monkeypatch)
    fresh = FakeModel()
    edited, places = FakeModel(erased, "esd"), {"original_folder": tmp_path / "original"}
    evaluate(edited, protocol(), request(), fresh, tmp_path / "esd", **places)
    assert not fresh.batches and len(list((tmp_path / "esd").glob("*/answers.json"))) == 1


def test_result_does_not_depend_on_order_or_batch():
    model = FakeModel(erased, "esd")
    answers = generate(model, protocol(), batch=7)
    mixed = np.random.default_rng(0).permutation(len(answers))
    shuffled = AnswerSet(
        answers.pictures[mixed], answers.styles[mixed], answers.objects[mixed],
        answers.seeds[mixed], answers.style_names, answers.object_names,
        tuple(answers.prompts[k] for k in mixed), answers.fingerprint, answers.key,
    )  # fmt: skip
    original = generate(FakeModel(), protocol())
    one = evaluate(answers, protocol(), request(), original)
    two = evaluate(shuffled, protocol(), request(), original)
    three = evaluate(model, protocol(), request(), FakeModel(), batch=160)
    for name, metric in two.metrics.items():
        if metric.unit not in ("s", "GB"):
            assert metric.value == pytest.approx(one[name].value, abs=1e-6), name
            assert metric.value == pytest.approx(three[name].value, abs=1e-6), name
    assert one.confusion == two.confusion == three.confusion


def test_a_missing_or_foreign_picture_is_an_error():
    answers = generate(FakeModel(), protocol())

    def part(rows):
        return AnswerSet(
            answers.pictures[rows], answers.styles[rows], answers.objects[rows],
            answers.seeds[rows], answers.style_names, answers.object_names,
            tuple(answers.prompts[k] for k in rows), "part", "part",
        )  # fmt: skip

    with pytest.raises(CountMismatch, match="needs 160 pictures and the answer set has 159"):
        evaluate(part(np.arange(159)), protocol())
    with pytest.raises(CountMismatch, match="holds it twice"):
        evaluate(part(np.r_[np.arange(160), 3]), protocol())
    with pytest.raises(CountMismatch, match="does not ask for it"):
        evaluate(answers, protocol(seeds=(1,)))


def test_seed_theme_and_cra_scope_are_options():
    def draw(s, o, prompt):
        if s == PHOTO:
            return NEON, o
        return erased(s, o, prompt) if s != NEON else (PHOTO, (o + 1) % 10)

    edited, original = FakeModel(draw, "esd"), FakeModel()
    counted = evaluate(edited, protocol(), request(), original)
    left_out = evaluate(edited, protocol(include_seed_theme=False), request(), original)
    assert counted["ira"].value == pytest.approx(6 / 7) and left_out["ira"].value == 1
    assert left_out["cra"].value == pytest.approx(6 / 7) and left_out["cra_retain"].value == 1
    scoped = evaluate(edited, protocol(cra_scope="retain"), request(), original)
    assert scoped["cra"].value == 1 and scoped["cra_all"].value == pytest.approx(7 / 8)
    with pytest.raises(UsageError, match="does not score its photo style"):
        evaluate(edited, protocol(include_seed_theme=False), request("style", "photo"), original)


def test_request_in_free_words():
    words = request("concept", "a red cat", anchor="a house")
    kept = evaluate(FakeModel(lambda s, o, p: (s, 3) if "red" in p else (s, o)), protocol(), words)
    assert kept["ua"].value == 0 and kept["ua"].used == 10 and kept["ua"].judge == "fake-clip"

    def house(s, o, prompt):
        return (s, OBJECTS.index("house")) if "red" in prompt else (s, o)

    gone = evaluate(FakeModel(house, "esd"), protocol(), words, FakeModel())
    assert gone["ua"].value == 1 and gone["ira"].value == 1 and gone["cra"].used == 160
    assert gone.became == {"a house": 10}
    with pytest.raises(UsageError, match="judged by CLIP"):
        evaluate(FakeModel(), protocol(clip=None), words)


def test_several_concepts_at_once():
    both = [request("style", "neon"), request("style", "mosaic")]
    targets = {NEON, STYLES.index("mosaic")}
    edited = FakeModel(lambda s, o, p: (PHOTO if s in targets else s, o), "esd")
    card = evaluate(edited, protocol(), both, FakeModel())
    assert card["ua"].value == 1 and card["ua"].used == 40 and card["ira"].used == 120
    assert card.title == "style neon, style mosaic"
    with pytest.raises(UsageError, match="several kinds"):
        evaluate(edited, protocol(), [request(), request("object", "cat")], FakeModel())


def test_request_of_another_data_set_or_name():
    with pytest.raises(UsageError, match="judges minicanvas"):
        other = request().model_copy(update={"dataset": "unlearncanvas"})
        evaluate(FakeModel(), protocol(), other)
    with pytest.raises(UsageError, match="Did you mean 'neon'"):
        evaluate(FakeModel(), protocol(), request().model_copy(update={"name": "neom"}))
    with pytest.raises(UsageError, match="everything that the protocol scores"):
        evaluate(FakeModel(), protocol(styles=("neon",)), request())


def test_cost_of_the_edit_is_kept():
    cost = {"seconds": 12.5, "peak_memory_gb": 0.7, "storage_gb": 0.01}
    card = evaluate(FakeModel(erased, "esd"), protocol(), request(), FakeModel(), cost=cost)
    assert card["seconds"].value == 12.5 and card["storage_gb"].unit == "GB"
    with pytest.raises(UsageError, match="no cost 'minutes'"):
        evaluate(FakeModel(), protocol(), cost={"minutes": 1})


def test_scorecard_survives_json_and_prints(tmp_path):
    card = evaluate(FakeModel(erased, "esd"), protocol(), request(), FakeModel(), method="esd")
    assert Scorecard.from_json(card.to_json()) == card
    card.save(tmp_path / "card.json")
    assert Scorecard.load(tmp_path / "card.json") == card
    text = str(card)
    assert "test: style neon" in text and "100.0 %" in text and "target cross accuracy" in text
    row = card.to_row()
    assert row["ua"] == 1 and row["ua_low"] < 1 and row["request"] == "style neon"
    assert row.name == "esd" and not row["no_op"]


def test_the_same_name_twice_is_the_original(monkeypatch):
    from mu_vision.models import zoo

    monkeypatch.setattr(zoo, "load_model", lambda name: FakeModel())
    card = evaluate("minicanvas/sd", protocol(), request(), original="minicanvas/sd")
    assert not card.flags["no_op"] and card["paired_pixel_change"].value == 0
