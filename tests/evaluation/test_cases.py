"""What is attacked: cases, what is left out, target pictures, and the judges' yes or no."""

from __future__ import annotations

import evaluation_fakes as fakes
import numpy as np
import pytest
import torch
from PIL import Image

from mu_vision.errors import UsageError
from mu_vision.evaluation import cases as stage
from mu_vision.evaluation.cases import cases_of, read_pictures, set_stage, verdict_of
from mu_vision.evaluation.marks import Bench
from mu_vision.models.text import Tokens

NEON, PHOTO = fakes.STYLES.index("neon"), fakes.STYLES.index("photo")
SMALL = {
    "styles": ("photo", "neon"), "objects": ("tree", "cat", "boat"),
    "robustness": {"seeds": (7, 8), "examples": 4, "attacks": {"paraphrase": None}},
}  # fmt: skip


class Model(fakes.FakeModel):
    """Reads 40 tokens, a letter each."""

    def tokens(self, prompt):
        return Tokens((0,) * 40, min(len(prompt) + 2, 40), len(prompt) + 2 > 40)


def protocol(**changes):
    settings = {**SMALL, **changes}
    settings["robustness"] = {**SMALL["robustness"], **changes.get("robustness", {})}
    return fakes.protocol(**settings)


@pytest.fixture(autouse=True)
def judges(monkeypatch):
    fakes.install(monkeypatch)


def set_up(model=None, request=None, room=0, targets=None, **changes):
    chosen = protocol(**changes)
    request = request or fakes.request()
    return set_stage(model or Model(), [request], chosen, Bench(chosen), room, targets)


def test_every_prompt_of_the_concept_with_every_seed():
    made = cases_of(fakes.request(), protocol(), (7, 8))
    prompts = [fakes.CARD.prompt(thing, "neon") for thing in ("tree", "cat", "boat")]
    assert [case.prompt for case in made] == prompts * 2
    assert [case.seed for case in made] == [7] * 3 + [8] * 3
    for case in made:
        assert case.asks_for == case.prompt
        assert "neon" in case.prompt.lower() and "neon" not in case.neutral.lower()
        assert {sort for sort, _ in case.paraphrases} >= {"paraphrase"}
        assert all(text != case.prompt for _, text in case.paraphrases)
    assert "cat" in made[1].neutral.lower()
    thing = cases_of(fakes.request("object", "cat"), protocol(), (7,))
    assert [case.prompt for case in thing] == [
        fakes.CARD.prompt("cat", "photo"), fakes.CARD.prompt("cat", "neon")
    ]  # fmt: skip
    assert all("cat" not in case.neutral.lower() for case in thing)
    assert any(sort == "synonym" for sort, _ in thing[0].paraphrases)


def test_a_free_concept_has_its_prompts_and_its_anchor():
    request = fakes.request("concept", "a red hat", prompts=("a red hat", "hat"), anchor="a hat")
    made = cases_of(request, protocol(), (1,))
    assert [(c.prompt, c.neutral, c.seed) for c in made] == [
        ("a red hat", "a hat", 1), ("hat", "a hat", 1)
    ]  # fmt: skip


def test_all_that_the_original_knows_is_kept_with_its_pictures():
    found = set_up()
    assert len(found.cases) == found.asked == 6
    assert found.targets.shape == (6, 8, 8, 3)
    assert found.verdict(found.targets, found.cases).all()
    assert not found.verdict(found.others.pixels, ()).any()
    assert found.verdict(found.examples.pixels, ()).all()
    assert len(found.examples) == 4 and len(found.others) == 4
    assert found.too_long == found.unknown == []
    assert all(
        "neon" not in text.lower() for text in (*found.examples.neutral, *found.others.prompts)
    )
    assert all("neon" in text.lower() for text in found.examples.prompts)


def test_what_the_original_does_not_show_is_left_out_and_named():
    boat = fakes.OBJECTS.index("boat")
    model = Model(draw=lambda s, o, prompt: (PHOTO if o == boat else s, o))
    found = set_up(model)
    asked = fakes.CARD.prompt("boat", "neon")
    assert len(found.cases) == 4 and found.asked == 6
    assert found.unknown == [asked, asked]
    assert all(case.prompt != asked for case in found.cases)


def test_what_the_original_shows_without_being_asked_is_left_out_and_named():
    """A model that reads nothing at all would "bring it back" there."""
    named = fakes.CARD.prompt("boat", "neon")
    model = Model(draw=lambda s, o, prompt: (NEON if "boat" in prompt else s, o))
    found = set_up(model)
    assert found.unasked == [named, named] and found.unknown == []
    assert len(found.cases) == len(found.targets) == 4 and found.asked == 6
    assert all(case.prompt != named for case in found.cases)


def test_if_the_original_always_shows_it_unasked_all_prompts_stay():
    found = set_up(Model(draw=lambda s, o, prompt: (NEON, o)))
    assert len(found.cases) == 6 and found.unasked == []


def test_prompts_without_room_are_left_out_for_every_attack():
    longest = max(len(fakes.CARD.prompt(thing, "neon")) for thing in ("tree", "cat", "boat"))
    room = 40 - (longest + 2) + 1
    found = set_up(room=room)
    out = {p for p in (case.prompt for case in cases_of(fakes.request(), protocol(), (7,)))
           if len(p) == longest}  # fmt: skip
    assert set(found.too_long) == out and len(found.cases) == 6 - 2 * len(out)
    assert not out & {case.prompt for case in found.cases}
    assert not out & set(found.examples.prompts)
    # the prompt without the name must leave room too: the control on the original uses it
    for case in found.cases:
        assert len(case.neutral) + 2 + room <= 40


def test_a_neutral_prompt_without_room_leaves_its_case_out(monkeypatch):
    inner = stage._object_alone
    monkeypatch.setattr(
        stage,
        "_object_alone",
        lambda card, thing: "x" * 39 if thing == "cat" else inner(card, thing),
    )
    found = set_up(room=1)
    assert found.too_long == [fakes.CARD.prompt("cat", "neon")] * 2
    assert len(found.cases) == 4 and "x" * 39 not in found.examples.neutral


def test_the_first_cases_alone():
    found = set_up(robustness={"most": 2})
    assert [case.seed for case in found.cases] == [7, 7] and found.asked == 2


def test_nothing_to_attack_is_one_sentence():
    with pytest.raises(
        UsageError, match=r"fake shows 'neon' in none of the 6 prompts \(0 are too long\)"
    ):
        set_up(Model(draw=lambda s, o, prompt: (PHOTO, o)))
    with pytest.raises(
        UsageError, match=r"in none of the 6 prompts \(6 are too long\), so there are no"
    ):
        set_up(room=39)


def test_without_examples_that_show_it_the_targets_serve():
    class Fickle(Model):
        """Draws the concept for the cases, and not for the examples that come after."""

        def encode_prompt(self, prompts):
            self.draw = lambda s, o, p: (s if len(self.batches) < 1 else PHOTO, o)
            return super().encode_prompt(prompts)

    found = set_up(Fickle())
    assert np.array_equal(found.examples.pixels, found.targets)
    assert found.examples.prompts == tuple(case.asks_for for case in found.cases)


def test_pictures_of_a_folder_take_the_place_of_the_originals(tmp_path):
    for k, level in enumerate((10, 200)):
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    given = read_pictures(tmp_path, 8)
    assert given.shape == (2, 8, 8, 3) and given[:, 0, 0, 0].tolist() == [10, 200]
    found = set_up(targets=tmp_path)
    assert found.targets[:, 0, 0, 0].tolist() == [10, 200] * 3
    assert set(found.examples.pixels[:, 0, 0, 0].tolist()) == {10, 200}
    assert len(found.examples) == len(found.examples.prompts) == len(found.examples.neutral)


def test_a_missing_an_empty_and_a_damaged_folder(tmp_path):
    with pytest.raises(UsageError, match=r"There is no folder of target pictures .*nowhere"):
        set_up(targets=tmp_path / "nowhere")
    with pytest.raises(
        UsageError, match=r"holds no target picture; put some \.png or \.jpg files there"
    ):
        set_up(targets=tmp_path)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"The picture .*1\.png cannot be read"):
        set_up(targets=tmp_path)


def test_the_judge_says_yes_to_its_class_alone():
    bench = Bench(protocol())
    model = Model()
    text = model.encode_prompt(
        [fakes.CARD.prompt("cat", "neon"), fakes.CARD.prompt("tree", "photo")]
    )
    pictures = model.decode(model.sample(text, torch.zeros(2, 4, 2, 2), 1, 1.0))
    assert verdict_of(fakes.request(), bench)(pictures, ()).tolist() == [True, False]
    assert verdict_of(fakes.request("object", "tree"), bench)(pictures, ()).tolist() == [
        False,
        True,
    ]
    free = fakes.request("concept", "a picture in neon style", anchor="photo")
    assert verdict_of(free, bench)(pictures, ()).tolist() == [True, False]


def test_a_judge_without_the_class_and_a_protocol_without_clip(monkeypatch):
    request = fakes.request().model_copy(update={"name": "noen"})
    bench = Bench(protocol())
    with pytest.raises(
        UsageError, match=r"style that the judge fake-style knows called 'noen'. Did you"
    ):
        verdict_of(request, bench)
    bench = Bench(protocol(clip=None, fid={"clip": False}))
    with pytest.raises(
        UsageError, match="in free words is judged by CLIP, and test has none; set `clip`"
    ):
        verdict_of(fakes.request("concept", "a hat"), bench)


def test_a_spread_keeps_order_and_ends_apart():
    assert stage._spread(list(range(10)), 3) == [0, 3, 6]
    assert stage._spread([1, 2], 5) == [1, 2]
