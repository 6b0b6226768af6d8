"""Pictures with one label each, in memory as one tensor, for classifiers and what they forget.

Data that fits lives on the device as a whole: a batch is an index, an augmentation one operation on
the batch. Values are float32 in [0, 1]; normalisation belongs to the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import MissingFiles, UsageError, unknown
from .cards import load_card
from .samples import Samples, Splits, read_splits


@dataclass(frozen=True)
class Labelled(Samples):
    """N pictures with their labels.

    Attributes:
        x: [N, C, H, W] float32 in [0, 1].
        y: [N] int64, each below the number of classes.
        classes: names of the classes.
    """

    classes: tuple[str, ...]

    def __post_init__(self):
        if self.x.ndim != 4 or len(self.x) != len(self.y):
            raise UsageError(
                f"Pictures must be [N, C, H, W] with N labels; got {list(self.x.shape)} and"
                f" {list(self.y.shape)}."
            )
        if len(self.y) and not 0 <= int(self.y.min()) <= int(self.y.max()) < len(self.classes):
            raise UsageError(
                f"Labels go from {int(self.y.min())} to {int(self.y.max())}, but there are"
                f" {len(self.classes)} classes (0 to {len(self.classes) - 1})."
            )


DIGITS_TEST = 600


def digits(root: Path | None = None) -> Splits:
    """scikit-learn's handwritten digits: 1,197 to train on and 600 to test, 8x8, one channel."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(found.target).long()
    # one fixed split: a data set that moves with a seed lets one model's test be another's training
    order = np.random.default_rng(0).permutation(len(y))
    everything = Labelled(x, y, tuple(str(n) for n in range(10)))
    return Splits(
        "digits", everything.take(order[DIGITS_TEST:]), everything.take(order[:DIGITS_TEST])
    )


def minicanvas_objects(root: Path | None = None) -> Splits:
    """MiniCanvas by object, 10 classes, 32x32 RGB: 24 training and 8 test pictures a cell."""
    from . import minicanvas

    def part(indices: range) -> Labelled:
        rows = [
            (minicanvas.render(thing, style, index), label)
            for label, thing in enumerate(minicanvas.OBJECTS)
            for style in minicanvas.STYLES
            for index in indices
        ]
        pixels = torch.from_numpy(np.stack([picture for picture, _ in rows]))
        x = torch.nn.functional.avg_pool2d(pixels.permute(0, 3, 1, 2).float() / 255, 2)
        return Labelled(x, torch.tensor([label for _, label in rows]), minicanvas.OBJECTS)

    return Splits("minicanvas_objects", part(range(24)), part(range(100_000, 100_008)))


CELL_OBJECTS = ("tree", "cat", "boat", "mushroom", "car")
CELL_STYLES = ("photo", "sketch", "neon")
CELLS_TRAIN, CELLS_TEST = 300, 60


def minicanvas_cells(root: Path | None = None) -> Splits:
    """MiniCanvas for small GANs: 5 objects in 3 styles, a class each ("neon cat"), 32x32 RGB.

    300 training and 60 test pictures a class, of the splits that the judges never saw.
    """
    from . import minicanvas

    cells = [(style, thing) for thing in CELL_OBJECTS for style in CELL_STYLES]
    names = tuple(" ".join(cell) for cell in cells)

    def part(split: str, count: int) -> Labelled:
        indices = minicanvas.SPLITS[split][:count]
        pixels = np.stack([minicanvas.render(o, s, k) for s, o in cells for k in indices])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        labels = torch.arange(len(cells)).repeat_interleave(count)
        return Labelled(torch.nn.functional.avg_pool2d(x, 2), labels, names)

    return Splits("minicanvas_cells", part("generator", CELLS_TRAIN), part("test", CELLS_TEST))


def _missing(name: str, root: Path, fault: str = "") -> MissingFiles:
    """That a data set is not there; its card says what to fetch and where to put it."""
    card = load_card(name)
    return MissingFiles(f"{card.title} cannot be read from {root}{fault}. {card.fetch}")


def _torchvision(name: str, kind: str) -> Callable[[Path], Splits]:
    """CIFAR and SVHN as torchvision reads them from a local folder; nothing is downloaded."""

    def read(root: Path) -> Splits:
        import torchvision

        try:
            if kind == "SVHN":
                parts = [torchvision.datasets.SVHN(str(root), split=s) for s in ("train", "test")]
            else:
                made = getattr(torchvision.datasets, kind)
                parts = [made(str(root), train=train) for train in (True, False)]
        except RuntimeError as error:
            raise _missing(name, root) from error
        sides = []
        for part in parts:
            x = torch.from_numpy(np.asarray(part.data))
            x = (x if kind == "SVHN" else x.permute(0, 3, 1, 2)).float() / 255
            y = torch.as_tensor(np.asarray(part.labels if kind == "SVHN" else part.targets)).long()
            names = getattr(part, "classes", [str(n) for n in range(10)])
            sides.append(Labelled(x, y, tuple(names)))
        return Splits(name, *sides, augment=kind != "SVHN")

    return read


def image_folder(root: Path, size: int = 64) -> Splits:
    """Folders ``train/CLASS/*.png`` and ``val/CLASS/*.png`` (or ``test``), as ImageNet has them."""
    import torchvision

    held_out = next((n for n in ("val", "test") if (root / n).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        lacks = "train/" if held_out else "val/ or test/"
        raise _missing("image_folder", root, f", which has no {lacks}")
    sides = []
    for part in ("train", held_out):
        try:
            found = torchvision.datasets.ImageFolder(str(root / part))
        except OSError as error:
            raise UsageError(f"{root}/{part} cannot be read ({error}).") from error
        sides.append(_read_pictures(found.samples, tuple(found.classes), size))
    if sides[0].classes != sides[1].classes:
        raise UsageError(f"{root}/train and {root}/{held_out} do not hold the same classes.")
    return Splits(root.name, *sides, augment=True)


def tiny_imagenet(root: Path, size: int = 64) -> Splits:
    """Tiny-ImageNet as it is unpacked: its validation pictures are not sorted into classes."""
    import torchvision

    told = root / "val" / "val_annotations.txt"
    if not (root / "train").is_dir() or not told.is_file():
        raise _missing("tiny_imagenet", root)
    train = torchvision.datasets.ImageFolder(str(root / "train"))
    rows = [line.split("\t")[:2] for line in told.read_text(encoding="utf-8").splitlines()]
    unknown_classes = sorted({name for _, name in rows} - set(train.classes))
    if unknown_classes:
        raise UsageError(f"{told} names the class {unknown_classes[0]!r}, which train/ lacks.")
    places = [
        (str(root / "val" / "images" / file), train.class_to_idx[name]) for file, name in rows
    ]
    classes = tuple(train.classes)
    sides = (_read_pictures(some, classes, size) for some in (train.samples, places))
    return Splits("tiny_imagenet", *sides, augment=True)


def _read_pictures(
    places: Sequence[tuple[str, int]], classes: tuple[str, ...], size: int
) -> Labelled:
    """Pictures [N, 3, size, size] of files with their labels: resized, the centre cut out.

    Raises:
        UsageError: for the first that cannot be read.
    """
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms import v2

    ready = v2.Compose(
        [v2.ToImage(), v2.Resize(size, antialias=True), v2.CenterCrop(size),
         v2.ToDtype(torch.float32, scale=True)]
    )  # fmt: skip
    # filled in place: a list of pictures to stack would need twice the memory
    x = torch.empty(len(places), 3, size, size)
    for n, (file, _) in enumerate(places):
        try:
            x[n] = ready(pil_loader(file))
        except OSError as error:
            raise UsageError(f"{file} cannot be read ({error}).") from error
    return Labelled(x, torch.tensor([label for _, label in places]), classes)


DATASETS: dict[str, Callable[[Path], Splits]] = {
    "digits": digits,
    "minicanvas_objects": minicanvas_objects,
    "minicanvas_cells": minicanvas_cells,
    "cifar10": _torchvision("cifar10", "CIFAR10"),
    "cifar100": _torchvision("cifar100", "CIFAR100"),
    "svhn": _torchvision("svhn", "SVHN"),
    "tiny_imagenet": tiny_imagenet,
    "image_folder": image_folder,
}


def load_splits(name: str, root: Path | str | None = None) -> Splits:
    """A data set by name.

    Args:
        name: one of ``DATASETS``.
        root: its folder, ``data/NAME`` by default; those that need none ignore it.

    Raises:
        UsageError: unknown name (the nearest is suggested), or its files are missing: the sentence
            ends with what its card says to fetch.
    """
    return read_splits(DATASETS, name, root)


def named(classes: Sequence[str], name: str) -> list[int]:
    """Positions of the classes that a name means: that class, or all that have it as a word.

    "cat" means "photo cat" and "neon cat".

    Raises:
        UsageError: if it means none.
    """
    found = [k for k, one in enumerate(classes) if name == one or name in one.split()]
    if not found:
        words = {word for one in classes for word in one.split()}
        raise unknown("class", name, words | set(classes))
    return found


def augmented(x: torch.Tensor, pad: int = 4) -> torch.Tensor:
    """Random crops of the padded pictures and random mirror images, a batch at once.

    Draws from torch's global generator; [B, C, H, W] in and out.
    """
    n, _, height, width = x.shape
    padded = torch.nn.functional.pad(x, (pad,) * 4)
    rows = torch.randint(2 * pad + 1, (n, 1), device="cpu") + torch.arange(height)
    columns = torch.randint(2 * pad + 1, (n, 1), device="cpu") + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    index = (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])
    picked = padded.permute(0, 2, 3, 1)[tuple(part.to(x.device) for part in index)]
    return picked.permute(0, 3, 1, 2)
