from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mu_vision.data.cards import load_card
from mu_vision.data.folders import (
    PictureFolder,
    answer_name,
    number_captions,
    parse_answer_name,
    parse_caption,
    read_picture,
)
from mu_vision.errors import CountMismatch, UsageError

CARD = load_card("unlearncanvas")


@pytest.fixture
def root(tmp_path):
    """Three themes, two objects, indices 1..3 and 10, pictures of 12x8 with one colour each."""
    for t, theme in enumerate(("Van_Gogh", "Seed_Images", "Rainwash")):
        for o, thing in enumerate(("Dogs", "Cats")):
            folder = tmp_path / "data" / theme / thing
            folder.mkdir(parents=True)
            for index in (1, 2, 3, 10):
                colour = (40 * t, 100 * o, 10 * index)
                Image.new("RGB", (12, 8), colour).save(folder / f"{index}.jpg", quality=95)
    (tmp_path / "data" / "README.txt").write_text("a file beside the themes")
    return tmp_path / "data"


def test_pictures_come_with_labels_in_the_order_of_the_card(root):
    folder = PictureFolder(root, CARD)
    assert folder.themes == ["Seed_Images", "Van_Gogh", "Rainwash"]
    assert folder.objects == ["Cats", "Dogs"]
    assert len(folder) == 3 * 2 * 4
    pictures = list(folder)
    assert [(p.theme, p.object, p.index) for p in pictures[:5]] == [
        ("Seed_Images", "Cats", 1),
        ("Seed_Images", "Cats", 2),
        ("Seed_Images", "Cats", 3),
        ("Seed_Images", "Cats", 10),
        ("Seed_Images", "Dogs", 1),
    ]
    assert pictures[0].pixels.shape == (8, 12, 3) and pictures[0].pixels.dtype == np.uint8
    assert np.abs(pictures[3].pixels.astype(int) - [40, 100, 100]).max() <= 3


def test_any_names_without_a_card(root):
    (root / "Van_Gogh").rename(root / "My own style")
    assert PictureFolder(root).themes == ["My own style", "Rainwash", "Seed_Images"]


def test_choice_by_index_theme_and_object(root):
    folder = PictureFolder(root, CARD, CARD.split("unlearn"), themes=["Van_Gogh"], objects=["Dogs"])
    assert [e.index for e in folder.entries] == [1, 2, 3]
    folder.require(3)
    with pytest.raises(CountMismatch, match="should have 20 pictures of Van_Gogh/Dogs and has 3"):
        folder.require(20)


def test_size_crops_the_centre_square(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    Image.fromarray(pixels).save(tmp_path / "1.png")
    picture = read_picture(tmp_path / "1.png", size=5)
    assert picture.shape == (5, 5, 3) and (picture == 200).all()


def test_grey_and_transparent_pictures_become_rgb(tmp_path):
    Image.new("LA", (4, 4), (90, 255)).save(tmp_path / "1.png")
    assert read_picture(tmp_path / "1.png").shape == (4, 4, 3)


def test_faults_of_a_folder_are_one_sentence(root, tmp_path):
    with pytest.raises(UsageError, match=r"There is no folder .*nowhere. Fetch the pictures"):
        PictureFolder(tmp_path / "nowhere", CARD)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no picture; pictures must lie at"):
        PictureFolder(tmp_path / "empty", CARD)
    with pytest.raises(UsageError, match="has no picture for this choice"):
        PictureFolder(root, CARD, indices=[19, 20])
    with pytest.raises(UsageError, match=r"no theme folder .* 'Van_Gog'. Did you mean 'Van_Gogh'"):
        PictureFolder(root, CARD, themes=["Van_Gog"])
    (root / "Van_Gogh").rename(root / "Van_Gogh1")
    with pytest.raises(UsageError, match=r"'Van_Gogh1'. Did you mean 'Van_Gogh'"):
        PictureFolder(root, CARD)


def test_unknown_object_and_stray_file(root):
    (root / "Rainwash" / "Dogs" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"notes.txt does not fit the layout"):
        PictureFolder(root, CARD)
    (root / "Rainwash" / "Dogs").rename(root / "Rainwash" / "Dog")
    with pytest.raises(UsageError, match=r"no object of UnlearnCanvas 'Dog'. Did you mean 'Dogs'"):
        PictureFolder(root, CARD)


@pytest.mark.parametrize("keep", [0, 300])
def test_an_unreadable_picture_is_named(root, keep):
    path = root / "Van_Gogh" / "Dogs" / "2.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:keep] if keep else b"not a picture")
    folder = PictureFolder(root, CARD, themes=["Van_Gogh"], objects=["Dogs"])
    with pytest.raises(UsageError, match=r"Dogs/2.jpg cannot be read"):
        list(folder)


def test_answer_names_go_back_and_forth_for_every_name():
    for theme in (*CARD.styles, *CARD.extra_styles):
        for thing in CARD.objects:
            name = answer_name(theme, thing, 188)
            assert parse_answer_name(name, CARD) == (theme, thing, 188)
    assert parse_answer_name("Red_Blue_Ink_Sea_seed188.jpg", CARD) == ("Red_Blue_Ink", "Sea", 188)


@pytest.mark.parametrize("name", ["Van_Gogh_Dog_seed1.jpg", "Van_Gogh_Dogs_1.jpg", "x.txt"])
def test_a_foreign_answer_name_is_refused(name):
    with pytest.raises(UsageError, match=r"is not <Theme>_<Object>_seed<seed>.jpg"):
        parse_answer_name(name, CARD)


def test_the_caption_parser_inverts_every_hub_caption():
    for theme in (*CARD.styles, *CARD.extra_styles):
        for thing in CARD.objects:
            style = "photo" if theme == "Seed_Images" else theme.replace("_", " ")
            article = "An" if thing == "Architectures" else "A"
            caption = f"{article} {thing} image in {style} style"
            assert parse_caption(caption, CARD) == (theme, thing)


@pytest.mark.parametrize(
    "caption",
    [
        "A Architectures image in Red Blue Ink style",
        "A Dogs image in Van Gogh style.",
        "A Dogs image in Van_Gogh style",
        "A Dogs image in van gogh style",
        "A Unicorns image in Van Gogh style",
        "",
    ],
)
def test_a_caption_that_is_not_the_hubs_is_refused(caption):
    with pytest.raises(UsageError, match="does not say a style and an object of UnlearnCanvas"):
        parse_caption(caption, CARD)


def test_rows_are_numbered_in_row_order_and_counted():
    captions = ["A Dogs image in Van Gogh style", "A Cats image in photo style"] * 2
    rows = number_captions(captions, CARD, per_cell=2)
    assert rows == [
        ("Van_Gogh", "Dogs", 1),
        ("Seed_Images", "Cats", 1),
        ("Van_Gogh", "Dogs", 2),
        ("Seed_Images", "Cats", 2),
    ]
    with pytest.raises(CountMismatch, match="should have 20 rows of Van_Gogh/Dogs, there are 2"):
        number_captions(captions, CARD)
