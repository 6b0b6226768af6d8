"""Protocols of classes, on a model and judges that read and write classes in colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_fakes import OBJECTS, STEP, STYLES, FakeClip, FakeModel, judge, request

from mu_vision.data import minicanvas
from mu_vision.errors import RunError, UsageError
from mu_vision.evaluation import classes
from mu_vision.evaluation.answers import generate
from mu_vision.evaluation.class_protocol import ClassProtocol
from mu_vision.evaluation.evaluate import evaluate, prepare
from mu_vision.evaluation.plan import class_plan
from mu_vision.evaluation.protocol import load_protocol
from mu_vision.metrics.inception import inception_score
from mu_vision.models.text import TextStates
from mu_vision.validation import validated


class Labelled(FakeModel):
    """The fake, asked with names of objects: green says the object."""

    classes = OBJECTS
    picture_size = (8, 8)

    def __init__(self, becomes=None, name="labelled", **more):
        super().__init__(name=name, **more)
        self.becomes = becomes or {}

    def encode_prompt(self, prompts) -> TextStates:
        drawn = [OBJECTS.index(self.becomes.get(name, name)) for name in prompts]
        return TextStates(torch.tensor([[0, o] for o in drawn]).float().view(len(drawn), 1, 2))

    def evaluations(self, steps, guidance):
        return steps if guidance == 1 else 2 * steps


def protocol(**changes) -> ClassProtocol:
    settings = {
        "kind": "classes", "name": "test", "dataset": "minicanvas", "per_class": 8, "steps": 3,
        "guidance": 1.0, "size": 8, "judge": "fake", "clip": "fake", "real": {"per_cell": 1},
    }  # fmt: skip
    return ClassProtocol.model_validate({**settings, **changes})


def painted(indices, label="", without=()) -> minicanvas.Pictures:
    """Real pictures in the colours that the judge reads: one of each object and style."""
    cells = [
        (o, s)
        for o, thing in enumerate(OBJECTS)
        for s, style in enumerate(STYLES)
        if not {thing, style} & set(without)
    ]
    pixels = np.full((len(cells), 8, 8, 3), 5, np.uint8)
    for row, (o, s) in enumerate(cells):
        pixels[row, ..., 1] += STEP * o
        pixels[row, :, : s + 1, 2] = 10 * s  # so that pictures of one class differ
    objects, styles = np.array(cells).T
    return minicanvas.Pictures(pixels, objects, styles)


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    classes._bench.cache_clear()
    monkeypatch.setattr(classes, "load_judge", lambda spec, names, device: judge("object"))
    monkeypatch.setattr(classes, "load_clip", lambda spec, device: FakeClip())
    monkeypatch.setattr(minicanvas, "load", painted)


def test_a_model_that_draws_what_it_is_asked_for():
    card = evaluate(Labelled(), protocol())
    assert card["object_accuracy"].value == 1 and card["object_accuracy"].used == 80
    assert "ua" not in card.metrics and not any(card.flags.values())
    assert card["inception_score"].value == pytest.approx(10, rel=1e-3)
    assert card["evaluations"].value == 3 and card["pictures_per_second"].value > 0
    assert card["fid_clip"].details["reference_pictures"] == 80
    assert card["precision"].used == 80 and card["recall"].used == 80
    assert np.trace(card.confusion["object"]["counts"]) == 80
    assert card.answers["pictures"] == 80 and card.settings["per_class"] == 8


def test_forgetting_is_counted_on_the_class_and_keeping_on_the_others():
    erased = Labelled({"cat": "boat"}, "sfd")
    card = evaluate(erased, protocol(), request("object", "cat"), Labelled(), method="sfd")
    assert card["ua"].value == 1 and card["ua"].used == 8
    assert card["ira"].value == 1 and card["ira"].used == 72
    assert card["object_accuracy"].value == pytest.approx(0.9)
    assert card["target_probability"].value < 1e-6
    assert card.became == {"boat": 8}
    assert card["fid_clip"].used == 72 and card["fid_clip"].details["reference_pictures"] == 72
    assert card["inception_score"].value == pytest.approx(9, rel=1e-3)
    assert card["paired_target_change"].value == -1 and card["paired_ira_change"].value == 0
    assert card.method == "sfd" and card.request["name"] == "cat"
    assert not any(card.flags.values()) and not card.warnings


def test_real_pictures_can_be_of_some_styles():
    two = protocol(real={"per_cell": 1, "styles": ("photo", "neon")}, neighbours=1)
    card = evaluate(Labelled(), two)
    assert card["fid_clip"].details["reference_pictures"] == 20 == card["recall"].used


def test_the_untouched_model_has_a_row_for_a_request():
    model = Labelled()
    card = evaluate(model, protocol(), request("object", "cat"), model)
    assert (card["ua"].value, card["ira"].value) == (0, 1) and not any(card.flags.values())


def test_a_no_op_and_a_missing_original_are_told():
    same = evaluate(Labelled(name="twin"), protocol(), request("object", "cat"), Labelled())
    assert same.flags["unchanged_pictures"] and "not one picture did" in same.warnings[0]
    alone = evaluate(Labelled({"cat": "boat"}), protocol(), request("object", "cat"))
    assert "No original was given" in alone.warnings[0] and not alone.flags["collapsed"]


def test_ruined_pictures_are_called_so():
    ruined = Labelled({name: OBJECTS[0] for name in OBJECTS}, "ruined")
    card = evaluate(ruined, protocol(), request("object", "cat"), Labelled())
    assert card["ua"].value == 1 and card.flags["collapsed"]
    assert "the pictures moved away from real ones" in card.warnings[0]


def test_pictures_depend_on_their_class_and_number_alone():
    some = protocol(classes=("boat", "cat"))
    whole, part = class_plan(protocol()), class_plan(some)
    assert part.prompts == ("cat",) * 8 + ("boat",) * 8
    everything = dict(
        zip(zip(whole.prompts, whole.seeds, strict=True), whole.latent_parts, strict=True)
    )
    assert all(
        everything[name, number] == parts
        for name, number, parts in zip(part.prompts, part.seeds, part.latent_parts, strict=True)
    )
    one, many = (
        generate(Labelled(), some, batch=size, plan=class_plan(some)).pictures for size in (1, 7)
    )
    assert np.array_equal(one, many)


def test_marks_and_real_features_are_kept(tmp_path, monkeypatch):
    model = Labelled()
    first = evaluate(model, protocol(), folder=tmp_path)
    classes._bench.cache_clear()
    monkeypatch.setattr(classes.ClassBench, "look", lambda *_: pytest.fail("looked again"))
    again = evaluate(model, protocol(), folder=tmp_path)
    kept = {"fid_clip", "object_accuracy", "precision", "recall", "inception_score"}
    assert {n: first[n].value for n in kept} == {n: again[n].value for n in kept}


def test_a_blind_judge_or_an_original_that_cannot_draw_voids_the_protocol(monkeypatch):
    lost = Labelled({"cat": "boat", "tree": "boat"})
    with pytest.raises(RunError, match=r"finds the class right in 80\.0 % of the pictures of the"):
        evaluate(lost, protocol(minimum={"original": 0.9}))
    blind = lambda spec, names, device: judge("object", classes=OBJECTS[::-1])  # noqa: E731
    monkeypatch.setattr(classes, "load_judge", blind)
    classes._bench.cache_clear()
    with pytest.raises(RunError, match=r"names 0\.0 % of the real pictures rightly at 8 pixels"):
        evaluate(Labelled(), protocol())


def test_what_does_not_fit_is_said_in_a_sentence():
    model = Labelled()
    with pytest.raises(UsageError, match="judges objects; evaluate the style 'neon'"):
        evaluate(model, protocol(), request("style", "neon"), model)
    with pytest.raises(UsageError, match="There is no class in the protocol test 'cat'"):
        prepare(protocol(classes=("boat", "tree")), [(request("object", "cat"),)])
    with pytest.raises(UsageError, match="forget everything that the protocol draws"):
        two = (request("object", "cat"), request("object", "boat"))
        evaluate(model, protocol(classes=("boat", "cat")), two, model)
    with pytest.raises(UsageError, match="give the model, not an answer set"):
        evaluate(generate(model, protocol(), plan=class_plan(protocol())), protocol())
    with pytest.raises(UsageError, match=r"is asked with labels \(tree, ...\) and the protocol"):
        evaluate(model, "minicanvas")
    text = Labelled()
    text.classes = ()
    with pytest.raises(UsageError, match="asks for the class 'tree' and labelled is asked with"):
        evaluate(text, protocol())
    with pytest.raises(UsageError, match="judges pictures of 16 x 16 pixels and labelled draws 8"):
        evaluate(model, protocol(size=16))


def test_protocol_files_are_read_and_checked(tmp_path):
    read = load_protocol("minicanvas_objects")
    assert isinstance(read, ClassProtocol) and read.pictures() == 500
    assert read.changed({"real": {"per_cell": 2}}, "x").real.split == "test"
    with pytest.raises(UsageError, match="no object of MiniCanvas 'dog'"):
        protocol(classes=("cat", "dog")).check_names()
    with pytest.raises(UsageError, match="no style of MiniCanvas 'noen'"):
        protocol(real={"styles": ("noen",)}).check_names()
    with pytest.raises(UsageError, match="UnlearnCanvas is not rendered here"):
        protocol(dataset="unlearncanvas").check_names()
    (tmp_path / "p.yaml").write_text("kind: clases\nname: p\n")
    with pytest.raises(UsageError, match=r"no kind of protocol 'clases'.*kind: classes"):
        load_protocol(tmp_path / "p.yaml")
    with pytest.raises(UsageError, match="Did you mean 'per_class'"):
        validated(ClassProtocol, {**protocol().model_dump(), "per_clas": 1}, "p")


def test_the_inception_score_is_that_of_the_judges_probabilities():
    sure = judge("object", sure=2.0)
    classes._bench.cache_clear()
    bench = classes.ClassBench(protocol())
    bench.judge = sure
    answers = generate(Labelled(), protocol(), plan=class_plan(protocol()))
    logits = bench.look(answers.pictures)["logits"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    e = np.exp(2.0)
    kl = e / (e + 9) * np.log(10 * e / (e + 9)) + 9 / (e + 9) * np.log(10 / (e + 9))
    assert inception_score(p) == pytest.approx(np.exp(kl), rel=1e-4)
