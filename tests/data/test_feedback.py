"""Feedback on generated pictures: oracles, a person's marks, and every way in which they go wrong."""

from __future__ import annotations

import json

import pytest
import torch
from gans import LEFT, RIGHT, Bright, tiny_gan

from mu_vision.data.feedback import GanRequest, Marks, ask, collect, load_marks, quantised, restored
from mu_vision.errors import UsageError
from mu_vision.models.gan import Gan


class Says:
    """Gives the same answers whatever it sees."""

    name, fingerprint = "says", "says"

    def __init__(self, answers):
        self.answers = answers

    def shows(self, pictures):
        return self.answers(len(pictures)) if callable(self.answers) else self.answers


def test_pictures_are_sorted_by_the_oracle():
    gan = tiny_gan()
    feedback = collect(gan, [LEFT], 80, seed=3)
    assert len(feedback.negatives) + len(feedback.positives) == 80
    assert feedback.negatives.dtype == torch.uint8
    assert Bright("left").shows(restored(feedback.negatives)).all()
    assert not Bright("left").shows(restored(feedback.positives)).any()
    assert feedback.share == len(feedback.negatives) / 80
    again, other = collect(gan, [LEFT], 80, 3), collect(gan, [LEFT], 80, 4)
    assert torch.equal(feedback.negatives, again.negatives)
    assert feedback.positives.shape != other.positives.shape or not torch.equal(
        feedback.positives, other.positives
    )


def test_several_requests_are_sorted_together():
    gan = tiny_gan()
    both = collect(gan, [LEFT, RIGHT], 80, 0)
    one = collect(gan, [LEFT], 80, 0)
    assert len(both.negatives) > len(one.negatives)


def test_bytes_keep_what_an_oracle_sees():
    x = torch.linspace(-1, 1, 256).view(1, 1, 16, 16)
    torch.testing.assert_close(restored(quantised(x)), x, atol=1 / 255, rtol=0)
    assert torch.equal(quantised(restored(quantised(x))), quantised(x))


def test_a_target_that_is_never_drawn_is_refused():
    nothing = GanRequest("a unicorn", Bright("left", 9.0))
    with pytest.raises(
        UsageError, match=r"None of the 64 pictures that tiny stylegan2 drew shows a unicorn"
    ):
        collect(tiny_gan(), [nothing], 64, 0)


def test_a_target_that_is_always_drawn_is_refused():
    everything = GanRequest("pixels", Bright("left", -9.0))
    with pytest.raises(
        UsageError, match=r"Every one of the 64 pictures .* shows pixels, so nothing"
    ):
        collect(tiny_gan(), [everything], 64, 0)


def test_an_oracle_must_answer_yes_or_no_once_a_picture():
    pictures = torch.zeros(3, 1, 8, 8)
    with pytest.raises(UsageError, match=r"The oracle says answered 2; it must answer yes or no"):
        ask(Says(torch.tensor([0, 2, 1])), pictures)
    with pytest.raises(UsageError, match=r"answered 0.5; it must answer yes or no"):
        ask(Says(torch.tensor([0.5, 1.0, 0.0])), pictures)
    with pytest.raises(UsageError, match=r"gave \[2\] answers for 3 pictures"):
        ask(Says(torch.tensor([True, False])), pictures)
    assert ask(Says([True, False, True]), pictures).tolist() == [True, False, True]


def test_a_request_has_one_source_of_feedback():
    with pytest.raises(UsageError, match="needs an oracle or marks, one of them"):
        GanRequest("nothing")
    told = LEFT.model_dump()
    assert told["name"] == "left" and told["oracle"] == "bright on the left"
    assert json.loads(json.dumps(told)) == told


def marks_of(gan: Gan, marked=(1, 4), count=64) -> Marks:
    return Marks(gan.fingerprint(), 7, count, tuple(marked))


def test_marks_sort_the_sheet_that_a_person_saw(tmp_path):
    gan = tiny_gan()
    marks = load_marks(marks_of(gan).save(tmp_path / "marks.json"))
    assert marks == Marks(gan.fingerprint(), 7, 64, (1, 4), "marks.json")
    feedback = collect(gan, [GanRequest("ticked", marks=marks)], samples=9, seed=1)
    assert len(feedback.negatives) == 2 and len(feedback.positives) == 62
    sheet = quantised(gan.draw(64, "feedback", 7))
    assert torch.equal(feedback.negatives, sheet[[1, 4]])


def test_marks_of_another_gan_are_refused():
    other = GanRequest("ticked", marks=marks_of(tiny_gan(seed=1)))
    with pytest.raises(
        UsageError, match=r"marks marks pictures of another GAN .* than tiny stylegan2"
    ):
        collect(tiny_gan(), [other], 64, 0)


def test_marks_of_another_sheet_do_not_join_an_oracle():
    gan = tiny_gan()
    with pytest.raises(
        UsageError, match="The marks of ticked are of another sheet than those of left"
    ):
        collect(gan, [LEFT, GanRequest("ticked", marks=marks_of(gan))], 64, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "holds no marks"),
        ('{"gan": "a", "seed": 0, "count": 4}', "holds no marks .*marked"),
        ('{"gan": "a", "seed": 0, "count": 4, "marked": [4]}', "marks 4, but its sheet has the pictures 0 to 3"),
        ('{"gan": "a", "seed": 0, "count": 4, "marked": ["a"]}', "marks 'a', but its sheet"),
    ],
)  # fmt: skip
def test_damaged_marks_are_refused(text, message, tmp_path):
    path = tmp_path / "marks.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_marks(path)
    with pytest.raises(UsageError, match="holds no marks"):
        load_marks(tmp_path / "nothing.json")
