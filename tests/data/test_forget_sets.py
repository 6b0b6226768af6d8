"""Forget sets: selectors, requests, requests after requests, and files of them."""

from __future__ import annotations

import json

import pytest
import torch
from labelled import few_digits
from pydantic import ValidationError

from mu_vision.data.selectors import (
    ForgetRequest,
    Selector,
    forget_rows,
    in_turn,
    load_forget_set,
)
from mu_vision.errors import UsageError
from mu_vision.unlearn.samples import together

FEW = few_digits()
N = len(FEW.train)


@pytest.mark.parametrize(
    ("settings", "count", "name"),
    [
        ({"kind": "random", "share": 0.1}, 24, "random 10 %"),
        ({"kind": "random", "share": 0.025}, 6, "random 2.5 %"),
        ({"kind": "class", "of": "3"}, 25, "class 3"),
        ({"kind": "class", "of": "3", "share": 0.5}, 12, "50 % of class 3"),
        ({"kind": "indices", "indices": (5, 2, 9)}, 3, "3 given samples"),
    ],
)
def test_a_selector_says_how_many_and_in_words(settings, count, name):
    asked = Selector(**settings).select(FEW)
    assert (len(asked.rows), asked.name) == (count, name)
    assert list(asked.rows) == sorted(set(asked.rows))
    assert len(asked.forget) + len(asked.retain) == N
    assert sorted([*asked.rows, *asked.kept_rows]) == list(range(N))


def test_random_samples_are_a_function_of_the_seed():
    selector = Selector(kind="random", share=0.2)
    first, again, other = (selector.select(FEW, seed).rows for seed in (0, 0, 1))
    assert first == again != other
    half = Selector(kind="class", of="3", share=0.5)
    assert half.select(FEW, 0).rows == half.select(FEW, 0).rows != half.select(FEW, 1).rows


def test_the_whole_class_does_not_depend_on_the_seed():
    asked = [Selector(kind="class", of="3").select(FEW, seed) for seed in (0, 1)]
    assert asked[0].rows == asked[1].rows == tuple((FEW.train.y == 3).nonzero().flatten().tolist())


def test_a_class_that_is_forgotten_whole_leaves_the_test_set():
    for share, whole in ((None, ("3",)), (1, ("3",)), (0.5, ())):
        asked = Selector(kind="class", of="3", share=share).select(FEW)
        assert asked.whole == whole
        assert (3 in asked.test.y) == (not whole)
    asked = Selector(kind="class", of="3").select(FEW)
    assert len(asked.test) == int((FEW.test.y != 3).sum()) < len(FEW.test)
    assert asked.test.classes == FEW.classes
    assert set(asked.forget.y.tolist()) == {3} and 3 not in asked.retain.y
    assert Selector(kind="random", share=0.5).select(FEW).test is FEW.test


def test_the_sides_of_a_request_hold_the_samples_of_their_positions():
    asked = forget_rows(FEW, [7, 3, 100])
    assert asked.rows == (3, 7, 100)
    assert torch.equal(asked.forget.x, FEW.train.x[[3, 7, 100]])
    assert torch.equal(asked.retain.y, FEW.train.y[list(asked.kept_rows)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "random"}, r"A forget set by random needs share=\.\.\., which is missing\."),
        ({"kind": "class"}, r"A forget set by class needs of=\.\.\., which is missing\."),
        ({"kind": "indices"}, r"A forget set by indices needs indices=\.\.\., which is missing\."),
        ({"kind": "file"}, r"A forget set by file needs file=\.\.\., which is missing\."),
        ({"kind": "class", "of": "tree"}, r"There is no class 'tree'\..* Known: 0, 1, 2, 3, 4, "),
        (
            {"kind": "random", "share": 1e-6},
            r"The forget set \(random 0.0001 %\) is empty: there is nothing to forget\.",
        ),
        (
            {"kind": "random", "share": 1},
            r"The forget set \(random\) is the whole training set: nothing is left to keep\.",
        ),
        ({"kind": "indices", "indices": ()}, r"The forget set \(0 given samples\) is empty"),
        (
            {"kind": "indices", "indices": (1, 240)},
            r"The forget set \(2 given samples\) names sample 240, but the training set has samples"
            r" 0 to 239\.",
        ),
        ({"kind": "indices", "indices": (-1,)}, r"names sample -1, but the training set has"),
        ({"kind": "indices", "indices": (4, 4)}, r"\(2 given samples\) names a sample twice\."),
    ],
)
def test_what_cannot_be_forgotten_is_told(settings, message):
    with pytest.raises(UsageError, match=message):
        Selector(**settings).select(FEW)


@pytest.mark.parametrize(
    "settings", [{"kind": "clas"}, {"share": 0}, {"share": 1.5}, {"share": 0.1, "shar": 1}]
)
def test_selectors_refuse_what_they_do_not_know(settings):
    with pytest.raises(ValidationError):
        Selector(**settings)


def test_a_later_request_neither_keeps_nor_forgets_what_is_gone():
    first, later = forget_rows(FEW, range(10)), forget_rows(FEW, range(5, 20), "later")
    then = first.then(later)
    assert (then.rows, then.gone, then.name) == (tuple(range(10, 20)), tuple(range(10)), "later")
    assert then.kept_rows == tuple(range(20, N))
    assert len(then.forget) == 10 and len(then.retain) == N - 20
    third = then.then(forget_rows(FEW, range(15, 30)))
    assert third.rows == tuple(range(20, 30)) and third.gone == tuple(range(20))
    whole = first.then(Selector(kind="class", of="3").select(FEW))
    assert whole.whole == ("3",) and 3 not in whole.retain.y


def test_several_classes_that_are_forgotten_whole_all_leave_the_test_set():
    threes, fives, half = (
        Selector(kind="class", of=of, share=share).select(FEW)
        for of, share in (("3", None), ("5", None), ("7", 0.5))
    )
    for asked in (together([threes, fives, half]), in_turn(threes, fives, half)):
        assert asked.whole == ("3", "5")
        assert set(asked.test.y.tolist()) == set(range(10)) - {3, 5}
    parts = in_turn(threes, half, fives).parts
    assert [part.whole for part in parts] == [("3",), ("3",), ("3", "5")]
    # two halves of one class are all of it, and the samples of a class are the class
    rest = forget_rows(FEW, set((FEW.train.y == 7).nonzero().flatten().tolist()) - set(half.rows))
    assert half.whole == rest.whole == () and together([half, rest]).whole == ("7",)
    assert forget_rows(FEW, threes.rows).whole == ("3",)


def test_a_later_request_for_nothing_new_or_on_other_samples_is_refused():
    first = forget_rows(FEW, range(10))
    with pytest.raises(
        UsageError,
        match=r"The forget set \(four\) was forgotten already, by request 1 \(given samples\): leave",
    ):
        first.then(forget_rows(FEW, range(4), "four"))
    with pytest.raises(UsageError, match="was forgotten already, by an earlier request: leave it"):
        ForgetRequest(FEW, (9,), gone=(1, 2)).then(forget_rows(FEW, (1,)))
    with pytest.raises(UsageError, match=r"Sample 3 was forgotten before; leave it out"):
        ForgetRequest(FEW, (3, 4), gone=(2, 3))
    with pytest.raises(UsageError, match=r"is the whole training set: nothing is left to keep"):
        first.then(forget_rows(FEW, range(5, N)))
    with pytest.raises(UsageError, match=r"names sample 999, but the training set has"):
        ForgetRequest(FEW, (3,), gone=(999,))
    other = forget_rows(few_digits(100), range(60, 70), "ten")
    with pytest.raises(
        UsageError,
        match=r"The forget set \(ten\) was made on another training set \(few_digits, 100 samples\)"
        r" than few_digits with 240\.",
    ):
        first.then(other)


@pytest.mark.parametrize(
    "asked",
    [
        forget_rows(FEW, [3, 9, 27], "three"),
        Selector(kind="class", of="3").select(FEW),
        forget_rows(FEW, range(10)).then(Selector(kind="class", of="3").select(FEW)),
    ],
    ids=["rows", "class", "after another"],
)
def test_a_saved_forget_set_is_the_same_request(asked, tmp_path):
    again = load_forget_set(asked.save(tmp_path / "forget.json"), FEW)
    assert again == asked
    assert again.model_dump() == asked.model_dump()
    assert again.kept_rows == asked.kept_rows
    selected = Selector(kind="file", file=str(tmp_path / "forget.json")).select(FEW, seed=5)
    assert selected == asked


def test_a_saved_forget_set_is_refused_on_another_training_set(tmp_path):
    forget_rows(FEW, [1, 2]).save(tmp_path / "forget.json")
    with pytest.raises(
        UsageError,
        match=r"forget\.json was made on another training set \(few_digits, 240 samples\) than"
        r" few_digits with 100; its positions mean other samples here\.",
    ):
        load_forget_set(tmp_path / "forget.json", few_digits(100))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda facts: facts.pop("indices"), "KeyError"),
        (lambda facts: facts.pop("gone_indices"), "KeyError"),
        (lambda facts: facts.update(indices=["a"]), "ValueError"),
        (lambda facts: facts.update(indices=5), "TypeError"),
    ],
)
def test_a_broken_forget_set_is_told(change, kind, tmp_path):
    path = forget_rows(FEW, [1, 2]).save(tmp_path / "forget.json")
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=rf"forget\.json is no forget set \({kind}: "):
        load_forget_set(path, FEW)


def test_a_file_whose_forgotten_samples_were_taken_before_is_refused(tmp_path):
    path = forget_rows(FEW, [1, 2]).then(forget_rows(FEW, [3, 4])).save(tmp_path / "forget.json")
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "indices": [2, 3]}))
    with pytest.raises(UsageError, match=r"Sample 2 was forgotten before; leave it out"):
        load_forget_set(path, FEW)


def test_what_is_forgotten_is_never_kept():
    """The retain set is what the forget set leaves, so no two lists of positions can overlap."""
    for asked in (forget_rows(FEW, [1, 5]), forget_rows(FEW, [1]).then(forget_rows(FEW, [1, 7]))):
        assert not {*asked.rows, *asked.gone} & set(asked.kept_rows)
        assert len(asked.rows) + len(asked.gone) + len(asked.kept_rows) == N


def test_what_is_no_forget_set_at_all_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.json is no forget set \(FileNotFoundError"):
        load_forget_set(tmp_path / "nowhere.json", FEW)
    for text, kind in (("{", "JSONDecodeError"), ("[]", "TypeError"), ("{}", "KeyError")):
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(UsageError, match=rf"odd\.json is no forget set \({kind}"):
            load_forget_set(tmp_path / "odd.json", FEW)


def test_reports_tell_requests_apart_without_their_positions():
    dumps = [
        forget_rows(FEW, rows).model_dump() for rows in ([1, 2], [1, 3], [2, 1])
    ]  # fmt: skip
    assert dumps[0] == dumps[2] != dumps[1]
    assert dumps[0]["samples"] == 2 and dumps[0]["of"] == N and "indices" not in dumps[0]
    later = forget_rows(FEW, [5]).then(forget_rows(FEW, [1, 2])).model_dump()
    assert later["gone"] == 1 and later["rows"] != dumps[0]["rows"]
    json.dumps(dumps)
