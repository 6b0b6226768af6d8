"""Recipes about what a GAN draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt, field_validator

from ..errors import UsageError
from ..validation import validated
from .base import Label, Recipe, Settings, Strict, blank_to_empty, unlearners

if TYPE_CHECKING:
    from ..evaluation.latent_search import LatentSearch
    from ..train.classifier import ClassifierTrainer
    from ..unlearn.base import Unlearner

ADAPTED = "adapted"


class GanGroup(Strict):
    """One target, and the methods that have to forget it.

    Attributes:
        target: a class of the oracle and the scorer, or a word of several of their classes.
        kind: ``class`` or ``feature``.
        threshold: probability from which the oracle says yes.
        scored: probability from which the scorer does.
        marks: file of a person's marks, in the place of the oracle.
        retrained: GAN that never saw the target; None if there is none.
        adapt: settings of stage 1, shared by all methods that need it: steps, models, ewc, ...
        methods: label -> settings.
    """

    target: str
    kind: Literal["class", "feature"] = "class"
    threshold: float = Field(0.5, gt=0, lt=1)
    scored: float = Field(0.5, gt=0, lt=1)
    marks: str | None = None
    retrained: str | None = None
    adapt: Settings = Field(default_factory=dict)
    methods: dict[Label, Settings] = Field(min_length=1)

    @field_validator("methods", mode="before")
    @classmethod
    def _no_settings(cls, value):
        return blank_to_empty(value)


class GanRecipe(Recipe):
    """Make a GAN forget, by feedback on what it draws, and set every method beside the original.

    Attributes:
        model: an embedded GAN (``minicanvas/gan``) or a GAN folder.
        data: name of the data set that it was trained on, for real pictures and for judges.
        root: its folder, if it is read from one.
        oracle: settings of the trainer ``classifier`` of the network that gives feedback.
        scorer: the same for the network that scores; another seed is another network.
        groups: targets with their methods.
        seeds: one run of every method for each; the GAN is one and the same.
        latents: how many pictures of each GAN are measured.
        search: settings of ``evaluation.latent_search.LatentSearch``; None for no attack.
        walk: steps along the adapted direction that the report shows.
    """

    kind: Literal["gan"]
    model: str
    data: str
    root: str | None = None
    oracle: Settings = Field(default_factory=lambda: {"seed": 101})
    scorer: Settings = Field(default_factory=lambda: {"seed": 202})
    groups: dict[Label, GanGroup] = Field(min_length=1)
    seeds: tuple[NonNegativeInt, ...] = (0,)
    latents: int = Field(2048, ge=2)
    search: Settings | None = Field(default_factory=dict)
    walk: tuple[float, ...] = (-1.5, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)

    def judge(self, which: Literal["oracle", "scorer"]) -> ClassifierTrainer:
        """The trainer of one of the two judges."""
        from ..train.classifier import ClassifierTrainer

        settings = {"data": self.data, "root": self.root, **getattr(self, which)}
        return validated(ClassifierTrainer, settings, f"recipe {self.name}, {which}")

    def methods(self, group: str, seed: int) -> dict[str, Unlearner]:
        """Label -> method of a group."""
        where = f"recipe {self.name}, groups.{group}.methods"
        return unlearners(self.groups[group].methods, "gan", seed, where)

    def stage_one(self, group: str, seed: int) -> Unlearner:
        """The settings of stage 1."""
        where = f"recipe {self.name}, groups.{group}.adapt"
        settings = {ADAPTED: {"method": "extrapolation", **self.groups[group].adapt}}
        return unlearners(settings, "gan", seed, where)[ADAPTED]

    def attack(self) -> LatentSearch | None:
        """The search for the target in the latent space; None for none."""
        from ..evaluation.latent_search import LatentSearch

        if self.search is None:
            return None
        return validated(LatentSearch, self.search, f"recipe {self.name}, search")

    def check(self) -> None:
        from ..data.labelled import DATASETS
        from ..data.samples import check_known

        check_known(DATASETS, self.data)
        if not self.seeds:
            raise UsageError(f"Recipe {self.name} has no seed: give seeds=[0].")
        judges = [self.judge(which) for which in ("oracle", "scorer")]
        if judges[0] == judges[1]:
            raise UsageError(
                f"recipe {self.name}: oracle and scorer are one and the same network, so the score would"
                " be the feedback's own; give them different seeds."
            )
        self.attack()
        for group in self.groups:
            self.methods(group, self.seed)
            self.stage_one(group, self.seed)
