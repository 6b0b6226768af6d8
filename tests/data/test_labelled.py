"""Labelled pictures, the data sets, and augmentation."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from mu_vision.data import minicanvas
from mu_vision.data.cards import load_card
from mu_vision.data.labelled import (
    DATASETS,
    DIGITS_TEST,
    Labelled,
    Splits,
    augmented,
    digits,
    load_splits,
    minicanvas_objects,
)
from mu_vision.errors import UsageError

X = torch.arange(2 * 9, dtype=torch.float32).view(2, 1, 3, 3) / 18


def keys(data: Labelled) -> set[bytes]:
    return {picture.numpy().tobytes() for picture in data.x}


def test_digits_have_one_fixed_split_of_disjoint_sides():
    first, again = digits(), load_splits("digits")
    assert (len(first.train), len(first.test)) == (1197, 600)
    assert first.train.fingerprint == again.train.fingerprint
    assert first.test.fingerprint == again.test.fingerprint
    assert not keys(first.train) & keys(first.test)
    assert first.classes == tuple("0123456789") and not first.augment
    assert first.train.x.shape == (1197, 1, 8, 8) and first.train.x.dtype == torch.float32
    assert (float(first.train.x.min()), float(first.train.x.max())) == (0.0, 1.0)
    assert first.train.y[:4].tolist() == [2, 4, 0, 3]


def test_every_digit_is_on_both_sides():
    whole = digits()
    for side in (whole.train, whole.test):
        assert (torch.bincount(side.y, minlength=10) > 40).all()


def test_the_global_seed_does_not_move_the_split():
    np.random.seed(5)
    torch.manual_seed(5)
    assert digits().train.fingerprint == digits().train.fingerprint
    state = torch.random.get_rng_state()
    digits()
    assert torch.equal(state, torch.random.get_rng_state())


def test_objects_of_minicanvas_have_disjoint_sides(monkeypatch):
    monkeypatch.setattr(minicanvas, "STYLES", minicanvas.STYLES[:2])
    found = minicanvas_objects()
    assert (len(found.train), len(found.test)) == (10 * 2 * 24, 10 * 2 * 8)
    assert found.classes == minicanvas.OBJECTS and found.train.x.shape[1:] == (3, 32, 32)
    assert torch.bincount(found.train.y).tolist() == [48] * 10
    assert not keys(found.train) & keys(found.test)
    assert 0 <= float(found.train.x.min()) and float(found.train.x.max()) <= 1


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:, 0], [0, 1], r"Pictures must be \[N, C, H, W\] with N labels; got \[2, 3, 3\] and \[2\]"),
        (X, [0], r"Pictures must be .*; got \[2, 1, 3, 3\] and \[1\]\."),
        (X, [0, 2], r"Labels go from 0 to 2, but there are 2 classes \(0 to 1\)\."),
        (X, [-1, 1], r"Labels go from -1 to 1, but there are 2 classes"),
    ],
)  # fmt: skip
def test_pictures_and_labels_that_do_not_fit_are_refused(x, y, message):
    with pytest.raises(UsageError, match=message):
        Labelled(x, torch.tensor(y), ("a", "b"))


def test_samples_are_taken_in_the_order_asked_for():
    data = Labelled(X, torch.tensor([0, 1]), ("a", "b"))
    for rows in ([1, 0, 1], np.array([1, 0, 1]), torch.tensor([1, 0, 1])):
        taken = data.take(rows)
        assert taken.y.tolist() == [1, 0, 1] and torch.equal(taken.x[0], X[1])
        assert taken.classes == ("a", "b")
    assert len(data.take([])) == 0
    with pytest.raises(FrozenInstanceError):
        data.y = torch.zeros(2)


def test_a_fingerprint_is_of_pictures_labels_and_classes():
    y = torch.tensor([0, 1])
    one = Labelled(X, y, ("a", "b"))
    assert one.fingerprint == Labelled(X.clone(), y.clone(), ("a", "b")).fingerprint
    others = [
        Labelled(X.flip(3), y, ("a", "b")),
        Labelled(X, y.flip(0), ("a", "b")),
        Labelled(X, y, ("b", "a")),
        Labelled(X.view(2, 1, 1, 9), y, ("a", "b")),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 5


def windows(picture: torch.Tensor, pad: int) -> list[torch.Tensor]:
    """Every crop of a padded picture, and its mirror image."""
    _, height, width = picture.shape
    padded = torch.nn.functional.pad(picture, (pad,) * 4)
    crops = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    ]
    return [*crops, *(crop.flip(2) for crop in crops)]


def test_augmentation_crops_and_mirrors_and_does_nothing_else():
    x = torch.rand(24, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    y = augmented(x, pad=2)
    assert y.shape == x.shape and y.dtype == x.dtype
    places = set()
    for before, after in zip(x, y, strict=True):
        found = [n for n, w in enumerate(windows(before, 2)) if torch.equal(w, after)]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 12 and min(places) < 25 <= max(places)


def test_augmentation_is_a_function_of_the_global_seed():
    x = torch.rand(8, 1, 8, 8)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(augmented(x))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_crops_are_uniform_and_half_are_mirrored():
    x = torch.arange(16.0).view(1, 1, 4, 4).repeat(4000, 1, 1, 1) + 1
    torch.manual_seed(0)
    y = augmented(x, pad=1)
    told = torch.zeros(18)
    for n, window in enumerate(windows(x[0], 1)):
        told[n] = (y == window).flatten(1).all(1).sum()
    assert told.sum() == 4000 and ((told - 4000 / 18).abs() < 70).all()


def test_without_padding_pictures_are_only_mirrored():
    x = torch.rand(20, 1, 4, 4)
    torch.manual_seed(0)
    for before, after in zip(x, augmented(x, pad=0), strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))


def test_unknown_data_sets_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"no data set 'cifar-10'.* Did you mean 'cifar10'\?"):
        load_splits("cifar-10")


PAINTED = {"minicanvas_objects", "minicanvas_cells"}  # the card is minicanvas
FETCHED = sorted(set(DATASETS) - PAINTED - {"digits"})


@pytest.mark.parametrize("name", FETCHED)
def test_a_data_set_that_is_not_there_is_one_sentence_with_what_its_card_says(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    card = load_card(name)
    for root, shown in ((None, Path("data") / name), (tmp_path / "nothing", tmp_path / "nothing")):
        with pytest.raises(UsageError) as caught:
            load_splits(name, root)
        said = str(caught.value)
        assert said.startswith(f"{card.title} cannot be read from {shown}")
        assert said.endswith(card.fetch) and f"data/{name}" in card.fetch
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(set(DATASETS) - PAINTED))
def test_every_data_set_has_a_card_that_is_true(name):
    card = load_card(name)
    assert card.kind == "labelled"
    if name == "digits":
        found = digits()
        assert found.classes == tuple(card.objects)
        assert (len(found.train), len(found.test)) == (len(card.split("train")), DIGITS_TEST)
        assert card.count == len(found.train) + len(found.test)
        assert found.train.x.shape[2:] == card.size
    else:
        mean, std = card.normalize
        assert len(mean) == len(std) == 3 and all(0 < value < 1 for value in (*mean, *std))
    if card.splits:
        assert sum(len(card.split(part)) for part in ("train", "test")) == card.count


def write_cifar(root, fine):
    """The files of torchvision's CIFAR, two pictures a file, without its checksums."""
    made = torchvision.datasets.CIFAR100 if fine else torchvision.datasets.CIFAR10
    place = root / made.base_folder
    place.mkdir(parents=True)
    names = ["apple", "bee"] if fine else ["airplane", "bird"]
    for n, (file, _) in enumerate([*made.train_list, *made.test_list]):
        x = np.full((2, 3072), 0, np.uint8)
        x[1, :1024] = 10 * (n + 1)  # red alone
        key = "fine_labels" if fine else "labels"
        (place / file).write_bytes(pickle.dumps({"data": x, key: [0, 1]}))
    key = made.meta["key"]
    (place / made.meta["filename"]).write_bytes(pickle.dumps({key: names}))
    return names


@pytest.mark.parametrize(("name", "files"), [("cifar10", 5), ("cifar100", 1)])
def test_cifar_is_read_as_torchvision_has_it(name, files, tmp_path, monkeypatch):
    names = write_cifar(tmp_path, name == "cifar100")
    for kind in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
        meta = {**kind.meta, "md5": None}
        monkeypatch.setattr(kind, "meta", meta)
    found = load_splits(name, tmp_path)
    assert found.classes == tuple(names) and found.augment and found.name == name
    assert (
        found.train.x.shape == (2 * files, 3, 32, 32) and found.train.y.tolist() == [0, 1] * files
    )
    assert float(found.train.x[1, 0].mean()) == pytest.approx(10 / 255)
    assert not found.train.x[1, 1:].any()
    assert float(found.test.x[1].max()) == pytest.approx(10 * (files + 1) / 255)


def test_svhn_is_read_as_torchvision_has_it(tmp_path, monkeypatch):
    from scipy.io import savemat

    x = np.zeros((32, 32, 3, 2), np.uint8)
    x[..., 2, 1] = 51  # blue
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": x, "y": np.array([[10], [3]])})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    found = load_splits("svhn", tmp_path)
    assert found.train.y.tolist() == [0, 3] and not found.augment
    assert found.train.x.shape == (2, 3, 32, 32)
    assert found.test.x[1, 2].eq(0.2).all() and not found.test.x[1, :2].any()


def draw(folder, colour, size=(12, 9)):
    folder.mkdir(parents=True)
    Image.new("RGB", size, colour).save(folder / "one.png")


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_an_image_folder_is_read_by_class(held_out, tmp_path):
    draw(tmp_path / "train" / "blue", (0, 0, 255))
    draw(tmp_path / "train" / "red", (255, 0, 0))
    draw(tmp_path / held_out / "blue", (0, 0, 128))
    draw(tmp_path / held_out / "red", (128, 0, 0))
    found = load_splits("image_folder", tmp_path)
    assert found.classes == ("blue", "red") and found.augment
    assert isinstance(found, Splits) and found.name == tmp_path.name
    assert found.train.x.shape == (2, 3, 64, 64) and found.train.y.tolist() == [0, 1]
    assert found.train.x[1, 0].eq(1).all() and found.train.x[1, 1:].eq(0).all()
    assert float(found.test.x[0, 2].mean()) == pytest.approx(128 / 255)


def test_an_image_folder_that_is_not_one_is_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"An image folder cannot be .*, which has no val/ or test/"
    ):
        load_splits("image_folder", tmp_path)
    draw(tmp_path / "train" / "blue", (0, 0, 255))
    with pytest.raises(UsageError, match=r", which has no val/ or test/\. Fetch or make pictures"):
        load_splits("image_folder", tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(UsageError, match=r"/val cannot be read \(.*class folder.*\)\."):
        load_splits("image_folder", tmp_path)
    draw(tmp_path / "val" / "red", (255, 0, 0))
    with pytest.raises(UsageError, match=r"/train and .*/val do not hold the same classes\."):
        load_splits("image_folder", tmp_path)
    (tmp_path / "train" / "blue" / "two.png").write_text("no picture")
    with pytest.raises(UsageError, match=r"two\.png cannot be read \(cannot identify image file"):
        load_splits("image_folder", tmp_path)
    (tmp_path / "train").rename(tmp_path / "training")
    with pytest.raises(UsageError, match=r"which has no train/\."):
        load_splits("image_folder", tmp_path)


def test_tiny_imagenet_is_read_as_it_is_unpacked(tmp_path):
    for name, colour in (("n01", (255, 0, 0)), ("n02", (0, 255, 0))):
        draw(tmp_path / "train" / name / "images", colour, (64, 64))
    draw(tmp_path / "val" / "images", (0, 255, 0), (64, 64))
    told = tmp_path / "val" / "val_annotations.txt"
    told.write_text("one.png\tn02\t0\t0\t62\t62\n")
    found = load_splits("tiny_imagenet", tmp_path)
    assert found.classes == ("n01", "n02") and found.train.y.tolist() == [0, 1]
    assert found.test.y.tolist() == [1] and found.test.x[0, 1].eq(1).all()
    told.write_text("one.png\tn03\n")
    with pytest.raises(UsageError, match=r"names the class 'n03', which train/ lacks"):
        load_splits("tiny_imagenet", tmp_path)
