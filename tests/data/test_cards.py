from __future__ import annotations

import pytest

from mu_vision import resources
from mu_vision.data import minicanvas
from mu_vision.data.cards import load_card
from mu_vision.errors import UsageError

HEADER = """---
name: toy
title: Toy
kind: folder
summary: two styles, one object
licence: none
source: this test
template: "A {object} image in {style} style."
styles: [Van_Gogh, Photo]
objects: {cat: {names: [cat, kitten], held_out: [kitty]}}
photo_style: Photo
splits: {train: [1, 4]}
---
# Toy
"""


def write(tmp_path, text):
    path = tmp_path / "toy.md"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", resources.names("card"))
def test_every_card_that_ships_loads_and_has_a_body(name):
    card = load_card(name)
    assert card.name == name
    assert card.body.startswith("# ")
    assert card.summary and card.licence and card.source
    if card.kind != "rendered":
        assert card.fetch.startswith("Fetch ") and card.fetch.endswith(".")


def test_minicanvas_names_and_splits_are_those_of_the_renderer():
    card = load_card("minicanvas")
    assert tuple(card.style_names) == minicanvas.STYLES
    assert tuple(card.object_names) == minicanvas.OBJECTS
    assert {name: card.split(name) for name in card.splits} == minicanvas.SPLITS


def test_captions_cross_sentences_and_names_the_prompt_first():
    card = load_card("minicanvas")
    seen, held = card.captions("cat", "neon"), card.captions("cat", "neon", held_out=True)
    assert seen[0] == card.prompt("cat", "neon") == "A cat image in neon style."
    assert len(seen) == len(set(seen)) == 7 * 3 * 3
    assert len(held) == len(set(held)) == 10 * 4 * 4 - len(seen)
    assert not set(seen) & set(held)
    assert "a picture of kitten in neon sign style" in seen
    assert "show me kitty the glowing tubes way" in held
    assert not any("kitty" in text or "glowing tubes" in text for text in seen)


def test_captions_of_one_label_alone():
    card = load_card("minicanvas")
    assert card.style_captions("neon")[0] == "neon style"
    assert card.object_captions("cat")[0] == "cat"
    assert "an oak" in card.object_captions("tree")
    assert card.style_captions("neon", held_out=True)[0] == "glowing tubes style"
    assert set(card.object_captions("cat", held_out=True)) >= {"kitty", "a kitty"}


def test_no_held_out_text_is_a_training_caption():
    card = load_card("minicanvas")
    cells = [(o, s) for o in card.objects for s in card.styles]
    seen = {text for cell in cells for text in card.captions(*cell)}
    held = {text for cell in cells for text in card.captions(*cell, held_out=True)}
    assert not seen & held
    # nor may two cells share a caption: a caption that means two pictures teaches nothing
    assert len(seen) == len(cells) * 63


def test_unlearncanvas_is_the_published_taxonomy():
    card = load_card("unlearncanvas")
    assert (len(card.styles), len(card.extra_styles), len(card.objects)) == (51, 10, 20)
    assert card.style_names.index("Seed_Images") == 38
    assert card.style_names == sorted(card.style_names)
    assert card.prompt("Architectures", "Red_Blue_Ink") == (
        "A Architectures image in Red Blue Ink style."
    )
    assert card.prompt("Dogs", "Seed_Images") == "A Dogs image in Photo style."
    assert card.captions("Dogs", "Van_Gogh") == ["A Dogs image in Van Gogh style."]
    assert 61 * 20 * card.per_cell == card.count == 24_400
    assert list(card.split("fid")) == [1, 2, 3, 4, 5]


def test_unknown_names_suggest_the_nearest():
    card = load_card("minicanvas")
    with pytest.raises(UsageError, match=r"no style of MiniCanvas 'neom'. Did you mean 'neon'"):
        card.prompt("cat", "neom")
    with pytest.raises(UsageError, match=r"no object of MiniCanvas 'cats'. Did you mean 'cat'"):
        card.captions("cats", "neon")
    with pytest.raises(UsageError, match="no split of MiniCanvas 'tests'"):
        card.split("tests")
    with pytest.raises(UsageError, match="Did you mean 'minicanvas'"):
        load_card("minicanvs")


def test_a_list_of_names_is_enough(tmp_path):
    card = load_card(write(tmp_path, HEADER))
    assert card.prompt("cat", "Van_Gogh") == "A cat image in Van Gogh style."
    assert card.body == "# Toy"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("licence:", "license:", "'licence'"),
        ("---\nname", "name", "must begin with a YAML header"),
        ("kind: folder", "kind: folders", "'kind' must be one of .*did you mean 'folder'"),
        ("photo_style: Photo", "photo_style: Foto", "'Foto' is not one of the styles"),
        ("{style} style.", "{stile} style.", "must hold {object} and {style}"),
        ("{style} style.", "{style style.", "is not a template"),
        ("[1, 4]", "[4, 1]", "split 'train' must run from"),
        ("names: [cat, kitten]", "names: []", "must not be empty"),
        ("[Van_Gogh, Photo]", "[Van_Gogh, Photo", "not valid YAML"),
        ("source: this test", "body: x\nsource: this test", "not a key in it"),
    ],
)
def test_a_faulty_card_is_one_sentence_that_names_the_file(tmp_path, old, new, message):
    assert old in HEADER
    path = write(tmp_path, HEADER.replace(old, new, 1))
    with pytest.raises(UsageError, match=message) as caught:
        load_card(path)
    assert "toy.md" in str(caught.value)


def test_a_card_that_is_not_text(tmp_path):
    path = tmp_path / "toy.md"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as text"):
        load_card(path)
