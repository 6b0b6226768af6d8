"""What an attack is given, what it gives back, and the books it keeps meanwhile.

An attack tries to make an edited model (the victim) show what it was to forget. It is judged case
by case: a case is a prompt with the noise that its picture starts from. A case is brought back if
the judge sees the concept in the victim's picture without any attack (pre-ASR), or after it (ASR):

    pre_asr = before / all          asr = (before, or brought back by the attack) / all

One frozen list of cases serves every attack and every model, so pre_asr <= asr and both can be
compared (Zhang et al., ECCV 2024, arXiv 2310.11868).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from .. import seeding
from ..errors import UsageError
from ..metrics.rates import Rate
from ..models.diffusion import DiffusionModel
from ..models.text import TextStates
from ..registry import Paper
from ..validation import validated

Kind = Literal["text", "tokens", "embedding", "states", "image", "weights"]
Verdict = Callable[[np.ndarray, Sequence["Case"]], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One prompt that is attacked.

    Attributes:
        prompt: what the victim is asked; an attack adds to it or puts another text in its place.
        asks_for: the prompt in which the concept is named. It is ``prompt`` itself, except in the
            control on the original, where ``prompt`` leaves the name out.
        neutral: the prompt without the concept's name.
        seed: with the prompt it decides the noise that the picture starts from.
        paraphrases: (sort, text): other words for ``asks_for``.
    """

    prompt: str
    asks_for: str
    neutral: str
    seed: int | str
    paraphrases: tuple[tuple[str, str], ...] = ()

    def noise(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """[C, h, w] on the CPU, a function of the full prompt and the seed."""
        return seeding.noise(shape, "attack", self.asks_for, self.seed)


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn: DDIM steps and guidance."""

    steps: int
    guidance: float
    batch: int = 16


@dataclass(frozen=True)
class Pictures:
    """Pictures with their captions.

    Attributes:
        pixels: [M, H, W, 3] uint8.
        prompts: M captions.
        neutral: M captions without the concept's name; the same as ``prompts`` if it is in none.
    """

    pixels: np.ndarray
    prompts: tuple[str, ...]
    neutral: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Scene:
    """What an attack may use.

    Attributes:
        victim: the model under attack.
        original: the model before the edit.
        concept: the texts that name the concept alone; the first is the usual one.
        cases: N cases.
        targets: [N, H, W, 3] uint8, a picture of each case that shows the concept.
        examples: further pictures of the concept, of no case.
        others: pictures without it.
        verdict: pictures, cases -> [n] bool: does it show the concept?
        unattacked: [N, H, W, 3] uint8, the victim's own pictures of the cases.
        before: [N] bool, which of them show it.
        sampler: how pictures are drawn.
        seed: of the attack's own randomness.
    """

    victim: DiffusionModel
    original: DiffusionModel
    concept: tuple[str, ...]
    cases: tuple[Case, ...]
    targets: np.ndarray
    examples: Pictures
    others: Pictures
    verdict: Verdict
    unattacked: np.ndarray
    before: np.ndarray
    sampler: Sampler
    seed: int = 0

    def noise(self, rows: Sequence[int]) -> torch.Tensor:
        """First latents [n, C, h, w] of the cases."""
        shape = self.victim.latent_shape
        return torch.stack([self.cases[row].noise(shape) for row in rows])

    def generators(self, attack: str) -> list[torch.Generator]:
        """A generator a case: its draws do not depend on the other cases, nor on evaluations."""
        return [
            seeding.generator("attack", attack, self.seed, case.asks_for, case.seed)
            for case in self.cases
        ]


def draw(
    model: DiffusionModel, text: TextStates, noise: torch.Tensor, sampler: Sampler
) -> np.ndarray:
    """Pictures [n, H, W, 3] uint8 of n texts, drawn in batches."""
    parts = []
    for rows in torch.arange(len(noise)).split(sampler.batch):
        latents = model.sample(
            text[rows.to(text.states.device)], noise[rows], sampler.steps, sampler.guidance
        )
        parts.append(model.decode(latents))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Trial:
    """How the attack on one case went.

    Attributes:
        before: the picture without attack shows the concept.
        after: it does without attack, or the attack brought it back.
        adversarial: what did it, or what was tried last; None if nothing was tried.
        tries: pictures that were drawn and judged.
        queries: rows that went through the victim's U-Net, those of drawing included.
        seconds: the case's share of the time.
    """

    prompt: str
    seed: int
    before: bool
    after: bool
    adversarial: str | None
    tries: int
    queries: int
    seconds: float


@dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    Attributes:
        trials: one a case, in the scene's order.
        pictures: [N, H, W, 3] uint8: what brought the concept back, or the last try.
        details: what is particular to the attack, plain JSON.
    """

    attack: str
    trials: tuple[Trial, ...]
    pictures: np.ndarray
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pre_asr(self) -> Rate:
        return Rate.of(np.array([trial.before for trial in self.trials]))

    @property
    def asr(self) -> Rate:
        return Rate.of(np.array([trial.after for trial in self.trials]))


class Books:
    """The books of an attack on a scene: who still stands, what was found, what it cost.

    Attributes:
        found: [N] bool; cases that need no attack are found from the start.
    """

    def __init__(self, scene: Scene):
        n = len(scene.cases)
        self.scene = scene
        self.found = scene.before.copy()
        self.pictures = scene.unattacked.copy()
        self.adversarial: list[str | None] = [None] * n
        self.tries, self.queries = np.zeros(n, int), np.zeros(n, int)
        self.seconds = np.zeros(n)
        self._seen: dict[tuple[int, str], bool] = {}
        self._clock = time.perf_counter()

    def standing(self) -> list[int]:
        """Cases that the attack has not broken yet."""
        return np.flatnonzero(~self.found).tolist()

    def share(self, rows: Sequence[int], total: int) -> None:
        """Note ``total`` network rows that served all these cases, spread over them exactly."""
        each, rest = divmod(total, len(rows))
        self.spend(rows, each)
        self.queries[list(rows[:rest])] += 1

    def spend(self, rows: Sequence[int], each: int) -> None:
        """Note ``each`` network rows a case, and share the time since the last note."""
        now = time.perf_counter()
        self.queries[list(rows)] += each
        self.seconds[list(rows)] += (now - self._clock) / max(len(rows), 1)
        self._clock = now

    def judge(self, rows: Sequence[int], pictures: np.ndarray, notes: Sequence[str]) -> np.ndarray:
        """Let the judge look at a picture a case; returns [n] bool and keeps what is new.

        Args:
            rows: cases, each at most once.
            pictures: [n, H, W, 3] uint8.
            notes: what made each picture, shown to people.
        """
        if not len(rows):
            return np.zeros(0, bool)
        shown = self.scene.verdict(pictures, [self.scene.cases[row] for row in rows])
        for row, picture, note, hit in zip(rows, pictures, notes, shown, strict=True):
            self.tries[row] += 1
            if not self.found[row]:
                self.pictures[row], self.adversarial[row] = picture, note
                self.found[row] = bool(hit)
        return shown

    def try_texts(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Draw and judge texts that were not tried yet on their cases."""
        new = [k for k, (row, text) in enumerate(zip(rows, texts)) if (row, text) not in self._seen]
        rows, texts = [rows[k] for k in new], [texts[k] for k in new]
        if rows:
            shown = self.try_states(rows, self.scene.victim.encode_prompt(texts), texts)
            self._seen.update(zip(zip(rows, texts), shown.tolist(), strict=True))

    def try_states(self, rows: Sequence[int], text: TextStates, notes: Sequence[str]) -> np.ndarray:
        """Draw the victim's pictures of text states [n], one a case, and judge them."""
        pictures = draw(self.scene.victim, text, self.scene.noise(rows), self.scene.sampler)
        shown = self.judge(rows, pictures, notes)
        self.spend(rows, cost_of_picture(self.scene.sampler))
        return shown

    def result(self, attack: str, **details: Any) -> AttackResult:
        trials = tuple(
            Trial(
                case.prompt, case.seed, bool(self.scene.before[row]), bool(self.found[row]),
                self.adversarial[row], int(self.tries[row]), int(self.queries[row]),
                round(float(self.seconds[row]), 3),
            )
            for row, case in enumerate(self.scene.cases)
        )  # fmt: skip
        return AttackResult(attack, trials, self.pictures, details)


def cost_of_picture(sampler: Sampler) -> int:
    """U-Net rows of one picture: two a step under guidance."""
    return sampler.steps * (1 if sampler.guidance in (0, 1) else 2)


class Attack(BaseModel):
    """Settings of an attack, and ``run``.

    Attributes:
        name: set by ``registry.register``.
        title: for tables.
        kind: what the attacker may choose: other words (``text``), tokens before the prompt
            (``tokens``), an embedding, text states, the picture to start from, or the weights.
        white_box: it needs the victim's weights.
        headline: it counts for the worst case. An attack that may teach anything to any model, as
            training does, has no place there.
        one_encoder: it works on the table of token embeddings, which a model with two text
            encoders does not have.
        paper: where it comes from.
        trial: settings of a run that takes a second on a tiny model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    name: ClassVar[str]
    title: ClassVar[str]
    kind: ClassVar[Kind]
    white_box: ClassVar[bool] = True
    headline: ClassVar[bool] = True
    one_encoder: ClassVar[bool] = False
    paper: ClassVar[Paper]
    trial: ClassVar[dict[str, Any]] = {}

    @property
    def takes_room(self) -> bool:
        """It puts tokens, embeddings or states where a prompt's padding is, which must be there."""
        return self.kind in ("tokens", "embedding", "states")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Attack:
        """Build from what a user wrote.

        Raises:
            UsageError: for an unknown key (with the nearest one), a wrong type or range.
        """
        return validated(cls, dict(settings), f"attack {cls.name}")

    def run(self, scene: Scene) -> AttackResult:
        """Attack every case that the victim withstands so far.

        The victim's weights are as before afterwards.

        Raises:
            UsageError: if there is no case, a prompt leaves no room for the attack, or the model
                has two text encoders and the attack is for one.
        """
        if not scene.cases:
            raise UsageError(f"The attack {self.name} was given no prompt; give at least one.")
        if self.one_encoder:
            _ = scene.victim.vocabulary  # refuses a model that has two
        return self.search(scene, Books(scene))

    def search(self, scene: Scene, books: Books) -> AttackResult:
        raise NotImplementedError
