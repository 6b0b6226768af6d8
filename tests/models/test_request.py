from __future__ import annotations

import pytest
from pydantic import ValidationError

from mu_vision.errors import UsageError
from mu_vision.request import ConceptRequest, concept_request


def test_a_style_with_what_takes_its_place():
    request = concept_request("style", "neon")
    pairs = dict(request.pairs())
    assert request.prompts[0] == "neon style"
    assert request.anchor == "photo style"
    assert pairs["A cat image in neon style."] == "A cat image in photo style."
    assert len(request.pairs("captions")) == 10
    assert request.pairs("names") == request.pairs()[: request.plain]
    assert request.slug == "style-neon"
    kept = request.kept("names")
    assert "photo style" in kept
    assert "cat" in kept
    assert not [text for text in request.keep if "neon" in text]
    assert "A cat image in mosaic style." in request.kept("captions")
    assert len(request.kept()) == 7 + 10 + 70


def test_an_object_with_the_next_one_in_its_place():
    request = concept_request("object", "car")
    assert request.pairs()[0] == ("car", "tree")
    assert dict(request.pairs())["A car image in neon style."] == "A tree image in neon style."
    assert not [text for text in request.keep if "car" in text]
    assert concept_request("object", "car", anchor="cat").anchor == "cat"


def test_the_anchor_may_be_any_text():
    request = concept_request("style", "neon", anchor="")
    assert {anchor for _, anchor in request.pairs()} == {""}
    assert concept_request("style", "photo").anchor != "photo style"


def test_free_text():
    request = concept_request("concept", "Van Gogh")
    assert request.pairs() == request.pairs("captions") == [("Van Gogh", "")]
    assert request.slug == "concept-van-gogh"


def test_given_prompts_replace_the_card_s():
    request = concept_request("style", "neon", prompts=["glowing tubes"], keep=["cat"])
    assert request.pairs("names") == [("glowing tubes", "photo style")]
    assert request.kept() == ["cat"]


def test_faults():
    with pytest.raises(UsageError, match="Did you mean 'neon'"):
        concept_request("style", "neno")
    with pytest.raises(UsageError, match="no name"):
        concept_request("concept", " ")
    with pytest.raises(UsageError, match="not 'color'"):
        concept_request("color", "red")
    with pytest.raises(ValidationError, match="2 prompts but 1 anchors"):
        ConceptRequest(kind="style", name="x", prompts=("a", "b"), anchors=("c",))
