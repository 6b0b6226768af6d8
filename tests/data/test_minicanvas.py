import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from mu_vision.data import minicanvas
from mu_vision.data.cards import load_card

DIGEST = "df5d408350fd00c6d15b58ea7a4875882a4a0ad75cecd8797ec9e92a876cb7ac"


def digest() -> str:
    seen = hashlib.sha256()
    for thing in minicanvas.OBJECTS:
        for style in minicanvas.STYLES:
            for index in (0, 1399):
                seen.update(minicanvas.render(thing, style, index).tobytes())
    return seen.hexdigest()


def test_pictures_have_the_same_bytes_everywhere_and_in_any_order():
    assert digest() == DIGEST
    first = minicanvas.render("cat", "neon", 7)
    minicanvas.render("car", "mosaic", 3)
    assert np.array_equal(first, minicanvas.render("cat", "neon", 7))


def test_bytes_do_not_depend_on_the_vector_instructions_of_the_processor():
    code = "from tests.data.test_minicanvas import digest; print(digest())"
    disabled = {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX2 FMA3"}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **disabled},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == DIGEST


def test_every_picture_is_its_own():
    pictures = minicanvas.load(range(4))
    assert pictures.pixels.shape == (10 * 8 * 4, 64, 64, 3)
    assert pictures.pixels.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures.pixels}) == len(pictures)
    assert pictures.objects.tolist() == np.repeat(np.arange(10), 32).tolist()
    assert pictures.styles[:8].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("style", minicanvas.STYLES)
def test_no_style_swallows_an_object(style):
    """Inside its outline a drawing differs from what the same style paints without it."""
    for thing in minicanvas.OBJECTS:
        for index in range(5):
            picture = minicanvas.render(thing, style, index).astype(float)
            drawing = minicanvas.pose(thing, index)
            inside = np.asarray(drawing.labels.reduce(4)) > 0
            edge = np.asarray(drawing.outline(8).point([0] + [255] * 255).reduce(4)) > 60
            light = picture.mean(axis=2)
            assert inside.mean() > 0.08
            spread = abs(light[edge].mean() - light[~inside & ~edge].mean())
            assert spread + light[inside].std() > 15, (thing, index)


def test_splits_are_disjoint_and_those_of_the_card():
    seen = [index for split in minicanvas.SPLITS.values() for index in split]
    assert len(seen) == len(set(seen))
    card = load_card("minicanvas")
    assert {k: (v.start, v.stop) for k, v in minicanvas.SPLITS.items()} == card.splits
    assert list(minicanvas.OBJECTS) == card.object_names
    assert list(minicanvas.STYLES) == card.style_names


def test_styles_share_the_pose_of_an_index():
    first, second = minicanvas.pose("boat", 5), minicanvas.pose("boat", 5)
    assert first.parts == second.parts
    assert first.parts != minicanvas.pose("boat", 6).parts
