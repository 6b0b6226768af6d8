"""What a GAN has to forget: generated pictures that an oracle marked, and the request for it.

An oracle says of a generated picture whether it shows what is to be forgotten (negative) or not
(positive). It is a network with a threshold, or the file of a person's marks. No real picture is
needed: all come from the GAN itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from .. import files
from ..errors import UsageError

if TYPE_CHECKING:
    from ..models.gan import Gan

Kind = Literal["class", "feature"]


class Oracle(Protocol):
    """Says yes where a picture shows what is to be forgotten.

    Attributes:
        name: for messages and reports.
        fingerprint: of whatever decides.
    """

    name: str
    fingerprint: str

    def shows(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N] bool for pictures [N, C, S, S] in [-1, 1]."""
        ...


def ask(oracle: Oracle, pictures: torch.Tensor) -> torch.Tensor:
    """[N] bool: what an oracle says of pictures, checked.

    Raises:
        UsageError: if it answers anything but yes or no, or not once a picture.
    """
    answers = torch.as_tensor(oracle.shows(pictures)).cpu()
    if answers.shape != (len(pictures),):
        raise UsageError(
            f"The oracle {oracle.name} gave {list(answers.shape)} answers for {len(pictures)} pictures;"
            " it must answer once a picture."
        )
    if answers.dtype != torch.bool:
        strange = answers[(answers != 0) & (answers != 1)]
        seen = strange[0].item() if len(strange) else answers[0].item() if len(answers) else "none"
        raise UsageError(
            f"The oracle {oracle.name} answered {seen!r}; it must answer yes or no (bool)."
        )
    return answers


@dataclass(frozen=True)
class Feedback:
    """Generated pictures, sorted by an oracle.

    Attributes:
        negatives: [n, C, S, S] uint8, pictures of what is to be forgotten.
        positives: [p, C, S, S] uint8, all others.
    """

    negatives: torch.Tensor
    positives: torch.Tensor

    @property
    def share(self) -> float:
        """Share of negatives."""
        return len(self.negatives) / (len(self.negatives) + len(self.positives))


def quantised(pictures: torch.Tensor) -> torch.Tensor:
    """[-1, 1] to uint8: what an oracle sees, at a quarter of the memory."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).byte()


def restored(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 to [-1, 1] float32."""
    return pixels.float() / 127.5 - 1


@dataclass(frozen=True)
class GanRequest:
    """What a GAN has to forget.

    Attributes:
        name: in words.
        oracle: the feedback; None if a person's marks are all there is.
        marks: a person's marks; None if an oracle answers.
        kind: a class of pictures, or a feature that goes across classes.
    """

    name: str
    oracle: Oracle | None = None
    marks: Marks | None = None
    kind: Kind = "class"

    def __post_init__(self):
        if (self.oracle is None) == (self.marks is None):
            raise UsageError(f"The request {self.name!r} needs an oracle or marks, one of them.")

    def sheet(self, gan: Gan, samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [N, C, S, S] in [-1, 1] and [N] bool, True for negatives."""
        if self.marks is not None:
            self.marks.check(gan)
            pictures = gan.draw(self.marks.count, *SHEET, self.marks.seed)
            return pictures, self.marks.negative
        pictures = restored(quantised(gan.draw(samples, *SHEET, seed)))
        return pictures, ask(self.oracle, pictures)

    def model_dump(self, mode: str = "json") -> dict[str, Any]:
        """What checkpoints and reports keep of it."""
        source = self.marks if self.oracle is None else self.oracle
        return {
            "kind": self.kind, "name": self.name, "oracle": source.name,
            "oracle_sha256": source.fingerprint,
        }  # fmt: skip


SHEET = ("feedback",)


def collect(gan: Gan, requests: Sequence[GanRequest], samples: int, seed: int) -> Feedback:
    """Draw pictures and let the oracles sort them; with several requests any yes is a negative.

    Args:
        gan: the original.
        requests: on one and the same sheet, so marks do not go together with an oracle's answers.
        samples: pictures to draw; marks bring their own number.
        seed: of the sheet.

    Raises:
        UsageError: if no picture is negative, or every one is, or sheets differ.
    """
    sheets = [request.sheet(gan, samples, seed) for request in requests]
    pictures, negative = sheets[0]
    for request, (other, more) in zip(requests[1:], sheets[1:], strict=True):
        if other.shape != pictures.shape or not torch.equal(other, pictures):
            raise UsageError(
                f"The marks of {request.name} are of another sheet than those of {requests[0].name};"
                " mark one sheet for what is forgotten together."
            )
        negative = negative | more
    name, count = " and ".join(request.name for request in requests), len(pictures)
    if not negative.any():
        raise UsageError(
            f"None of the {count:,} pictures that {gan.name} drew shows {name}, so there is nothing to"
            " forget: check the target, or draw more pictures (samples=...)."
        )
    if negative.all():
        raise UsageError(
            f"Every one of the {count:,} pictures that {gan.name} drew shows {name}, so nothing would be"
            " kept: check the target and the oracle."
        )
    pixels = quantised(pictures)
    return Feedback(pixels[negative], pixels[~negative])


@dataclass(frozen=True)
class Marks:
    """A person's marks on a sheet of generated pictures.

    Attributes:
        gan: fingerprint of the GAN that drew the sheet.
        seed: of the sheet.
        count: pictures on the sheet.
        marked: positions of the pictures that show what is to be forgotten, ascending.
        name: of the file, for messages.
    """

    gan: str
    seed: int
    count: int
    marked: tuple[int, ...]
    name: str = "marks"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that they say."""
        from ..stages import fingerprint

        return fingerprint(self.gan, self.seed, self.count, self.marked)

    @property
    def negative(self) -> torch.Tensor:
        """[count] bool."""
        negative = torch.zeros(self.count, dtype=torch.bool)
        negative[list(self.marked)] = True
        return negative

    def check(self, gan: Gan) -> None:
        """See that the marks are of this GAN's pictures.

        Raises:
            UsageError: if another GAN drew the sheet.
        """
        if gan.fingerprint() != self.gan:
            raise UsageError(
                f"{self.name} marks pictures of another GAN ({self.gan[:12]}) than {gan.name}"
                f" ({gan.fingerprint()[:12]}): make a new sheet with mu-vision mark."
            )

    def save(self, path: Path | str) -> Path:
        """Write the JSON file that the page of ``mu-vision mark`` writes too."""
        kept = {"seed": self.seed, "count": self.count, "marked": list(self.marked)}
        files.write_json(path, {"gan": self.gan, **kept})
        return Path(path)


def load_marks(path: Path | str) -> Marks:
    """Read the marks of a person.

    Raises:
        UsageError: if the file cannot be read, or marks what is not on the sheet.
    """
    path = Path(path)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        marked = tuple(sorted(set(kept["marked"])))
        gan, seed, count = str(kept["gan"]), int(kept["seed"]), int(kept["count"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} holds no marks ({type(error).__name__}: {error}); save them from the page that"
            " mu-vision mark wrote."
        ) from error
    strange = [k for k in marked if type(k) is not int or not 0 <= k < count]
    if strange:
        raise UsageError(
            f"{path} marks {strange[0]!r}, but its sheet has the pictures 0 to {count - 1}."
        )
    return Marks(gan, seed, count, marked, path.name)
