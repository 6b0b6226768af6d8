"""Pictures with one label each, in memory as one tensor, for classifiers and what they forget.

Data that fits lives on the device as a whole: a batch is an index, an augmentation one operation on
the batch. Values are float32 in [0, 1]; normalisation belongs to the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UsageError, unknown

if TYPE_CHECKING:
    from .poison import Poisoned


@dataclass(frozen=True)
class Labelled:
    """N pictures with their labels.

    Attributes:
        x: [N, C, H, W] float32 in [0, 1].
        y: [N] int64, each below the number of classes.
        classes: names of the classes.
    """

    x: torch.Tensor
    y: torch.Tensor
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

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray | torch.Tensor | Sequence[int]) -> Labelled:
        """The pictures at these positions, in this order."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        return Labelled(
            self.x[rows.to(self.x.device)], self.y[rows.to(self.y.device)], self.classes
        )

    def to(self, device: torch.device | str) -> Labelled:
        return Labelled(self.x.to(device), self.y.to(device), self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of pictures and labels."""
        digest = hashlib.sha256(repr((tuple(self.x.shape), self.classes)).encode())
        digest.update(np.ascontiguousarray(self.x.cpu().numpy()).tobytes())
        digest.update(self.y.cpu().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Splits:
    """What a model learns from and what nobody may learn from.

    Attributes:
        name: of the data set.
        augment: crop and flip training batches, as is usual for CIFAR; digits have neither.
        poison: the backdoor in the training set, if there is one.
    """

    name: str
    train: Labelled
    test: Labelled
    augment: bool = False
    poison: Poisoned | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes


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


def _torchvision(kind: str) -> Callable[[Path | None], Splits]:
    """CIFAR and SVHN as torchvision reads them from a local folder; nothing is downloaded."""

    def read(root: Path | None) -> Splits:
        import torchvision

        if root is None:
            raise UsageError(
                f"The data set {kind} is read from a local folder: give its root, e.g. root=data/{kind}."
            )
        try:
            if kind == "SVHN":
                parts = [torchvision.datasets.SVHN(str(root), split=s) for s in ("train", "test")]
            else:
                made = getattr(torchvision.datasets, kind)
                parts = [made(str(root), train=train) for train in (True, False)]
        except RuntimeError as error:
            start = f"torchvision.datasets.{kind}('{root}', "
            calls = [f"split='{s}', " for s in ("train", "test")] if kind == "SVHN" else [""]
            download = "; ".join(f"{start}{call}download=True)" for call in calls)
            raise UsageError(
                f"No {kind} in {root}: put the files of torchvision.datasets.{kind} there, or run"
                f' `python -c "import torchvision; {download}"`.'
            ) from error
        sides = []
        for part in parts:
            x = torch.from_numpy(np.asarray(part.data))
            x = (x if kind == "SVHN" else x.permute(0, 3, 1, 2)).float() / 255
            y = torch.as_tensor(np.asarray(part.labels if kind == "SVHN" else part.targets)).long()
            names = getattr(part, "classes", [str(n) for n in range(10)])
            sides.append(Labelled(x, y, tuple(names)))
        return Splits(kind.lower(), *sides, augment=kind != "SVHN")

    return read


def image_folder(root: Path | None, size: int = 64) -> Splits:
    """Folders ``train/CLASS/*.png`` and ``val/CLASS/*.png`` (or ``test``), as ImageNet has them.

    Tiny-ImageNet's training folders fit as they are; its ``val`` must be sorted into classes.
    """
    if root is None or not (Path(root) / "train").is_dir():
        raise UsageError(
            f"An image folder needs {root or 'ROOT'}/train/CLASS/ and {root or 'ROOT'}/val/CLASS/ with"
            " pictures; give its root."
        )
    import torchvision
    from torchvision.transforms import v2

    held_out = next((n for n in ("val", "test") if (Path(root) / n).is_dir()), None)
    if held_out is None:
        raise UsageError(
            f"{root} has train/ but neither val/ nor test/: put held-out pictures there."
        )
    ready = v2.Compose(
        [v2.ToImage(), v2.Resize(size, antialias=True), v2.CenterCrop(size),
         v2.ToDtype(torch.float32, scale=True)]
    )  # fmt: skip
    sides = []
    for part in ("train", held_out):
        try:
            found = torchvision.datasets.ImageFolder(str(Path(root) / part), ready)
            pairs = [found[n] for n in range(len(found))]
        except OSError as error:
            raise UsageError(f"{root}/{part} cannot be read ({error}).") from error
        x, y = torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs])
        sides.append(Labelled(x, y, tuple(found.classes)))
    if sides[0].classes != sides[1].classes:
        raise UsageError(f"{root}/train and {root}/{held_out} do not hold the same classes.")
    return Splits(Path(root).name, *sides, augment=True)


DATASETS: dict[str, Callable[[Path | None], Splits]] = {
    "digits": digits,
    "minicanvas_objects": minicanvas_objects,
    "minicanvas_cells": minicanvas_cells,
    "cifar10": _torchvision("CIFAR10"),
    "cifar100": _torchvision("CIFAR100"),
    "svhn": _torchvision("SVHN"),
    "image_folder": image_folder,
}


def load_splits(name: str, root: Path | str | None = None) -> Splits:
    """A data set by name.

    Args:
        name: one of ``DATASETS``.
        root: folder of those that are read from a local folder.

    Raises:
        UsageError: unknown name (the nearest is suggested), or its files are missing.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name](Path(root) if root else None)


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
