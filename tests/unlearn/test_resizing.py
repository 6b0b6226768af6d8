"""Pictures at other sizes: what is drawn, what is seen, and where the loss counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.unlearn.diffusion.resizing import FAR, NEAR, WORDS, Resizing, check, masked_mean


def drawn(n: int, size: int = 64, cell: int = 4) -> Resizing:
    with seeding.seeded("resizing"):
        return Resizing.draw(n, size, cell)


def test_sizes_and_words_are_drawn_as_published():
    n, size = 20_000, 60
    made = drawn(n, size, 2)
    small, large = made.scale <= size, made.scale > size
    assert small.float().mean() == pytest.approx(0.66, abs=0.015)
    for part, low, high in ((small, 20, 60), (large, 72, 84)):
        counts = torch.bincount(made.scale[part])[low:]
        assert len(counts) == high - low + 1
        assert (counts / counts.float().mean() - 1).abs().max() < 0.25
    assert made.mirrored.float().mean() == pytest.approx(0.5, abs=0.015)
    for part, words in (
        (made.scale < 36, {WORDS.index(word) for word in FAR}),
        (large, {WORDS.index(word) for word in NEAR}),
        (small & (made.scale >= 36), {-1}),
    ):
        assert set(made.words[part].tolist()) == words
        for word in words:
            share = (made.words[part] == word).float().mean()
            assert share == pytest.approx(1 / len(words), abs=0.03)


def test_places_are_all_that_there_are():
    made = drawn(20_000, 60, 2)
    for scale in (50, 75):
        corners = made.corner[made.scale == scale]
        low, high = sorted((0, 60 - scale))
        for axis in (0, 1):
            assert set(corners[:, axis].tolist()) == set(range(low, high + 1))


def test_a_resized_picture_is_the_antialiased_one_pasted_or_cut():
    made = drawn(40, 24, 2)
    with seeding.seeded("pictures"):
        pictures = torch.randint(256, (40, 24, 24, 3), dtype=torch.uint8)
    shown = torch.from_numpy(made.show(pictures))
    assert shown.shape == pictures.shape and shown.dtype == torch.uint8
    for row, (scale, mirrored) in enumerate(zip(made.scale.tolist(), made.mirrored.tolist())):
        x = pictures[row].permute(2, 0, 1).float()
        x = x.flip(2) if mirrored else x
        x = F.interpolate(x[None], (scale, scale), mode="bilinear", antialias=True)[0]
        expected = torch.zeros(3, 24, 24)
        top, left = made.corner[row].tolist()
        if scale <= 24:
            expected[:, top : top + scale, left : left + scale] = x
        else:
            expected = x[:, -top : 24 - top, -left : 24 - left]
        assert (shown[row].permute(2, 0, 1) - expected).abs().max() <= 0.51
    assert made.scale.min() < 10 and made.scale.max() > 28, "both sorts were looked at"


@pytest.mark.parametrize(("size", "cell"), [(16, 2), (64, 4), (64, 8)])
def test_the_mask_is_the_resized_picture_but_for_a_cell_of_margin(size, cell):
    made, cells = drawn(60, size, cell), size // cell
    white = torch.full((60, size, size, 3), 255, dtype=torch.uint8)
    lit = torch.from_numpy(made.show(white))[..., 0] == 255
    mask = made.mask(cells)
    assert mask.shape == (60, 1, cells, cells) and mask.flatten(1).sum(1).min() >= 1
    # a lit cell is wholly within the picture; a cell of margin is taken off on each side
    whole = 1 - F.max_pool2d((~lit).float().unsqueeze(1), cell)
    for row in range(60):
        if made.scale[row] > size:
            assert mask[row].all() and lit[row].all()
            continue
        assert not (mask[row].bool() & ~whole[row].bool()).any()
        for axis in (0, 1):
            along = mask[row, 0].amax(1 - axis).nonzero().flatten()
            first, end = made.corner[row, axis], made.corner[row, axis] + made.scale[row]
            assert along.tolist() == list(range(first // cell + 1, end // cell - 1))


def test_the_mean_under_a_mask():
    with seeding.seeded("mean"):
        square = torch.rand(3, 4, 8, 8)
    mask = torch.zeros(3, 1, 8, 8)
    assert masked_mean(square, 1 + mask).item() == pytest.approx(square.mean().item(), rel=1e-6)
    mask[0, :, 2:5, 1:3], mask[1], mask[2, :, 7, 7] = 1, 1, 1
    by_hand = (square[0, :, 2:5, 1:3].mean() + square[1].mean() + square[2, :, 7, 7].mean()) / 3
    assert masked_mean(square, mask).item() == pytest.approx(by_hand.item(), rel=1e-6)
    elsewhere = torch.where(mask == 1, square, torch.full_like(square, 99.0))
    assert masked_mean(elsewhere, mask) == masked_mean(square, mask)


def test_what_cannot_be_resized_is_refused_in_a_sentence(sd, label_model, monkeypatch):
    check(sd, ["a far away cat"])
    check(label_model, ["a far away cat " * 99])
    with pytest.raises(UsageError, match=r"'very small a+' is longer than .* use augment=off"):
        check(sd, ["very small " + "a" * 60])
    monkeypatch.setattr(type(sd), "picture_size", (16, 32))
    with pytest.raises(UsageError, match="are 16 x 32; resizing is for square ones"):
        check(sd, [])
