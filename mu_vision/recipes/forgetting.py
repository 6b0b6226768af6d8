"""Recipes about samples, classes and ranges of values that classifiers and regressors forget."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, field_validator

from ..errors import UsageError
from ..validation import validated
from .base import Label, Recipe, Settings, Strict, blank_to_empty, unlearners

if TYPE_CHECKING:
    from ..data.poison import Poison
    from ..data.samples import Splits
    from ..data.selectors import ForgetRequest, Selector
    from ..evaluation.regression import Relearning
    from ..pruning import Pruning
    from ..selection import WorstCase
    from ..train.samples import SampleTrainer
    from ..unlearn.base import Unlearner

YARDSTICK = "retrain"


class ForgetGroup(Strict):
    """One forget set, and the methods that have to forget it.

    Attributes:
        forget: a selector; or ``search: worst`` or ``search: easiest`` with settings of
            ``selection.WorstCase``, to find the set on each original.
        then: selectors of further requests; every method forgets one after the other, and stands
            beside Retrain of all together.
        prune: settings of ``pruning.Pruning``: the original, and Retrain, are sparse.
    """

    forget: Settings
    then: tuple[Settings, ...] = ()
    prune: Settings | None = None
    methods: dict[Label, Settings] = Field(min_length=1)

    @field_validator("methods", mode="before")
    @classmethod
    def _no_settings(cls, value: Any) -> Any:
        return blank_to_empty(value)


class Lira(Strict):
    """The attack U-LiRA on every method (``shadows.Shadows``).

    Attributes:
        shadows: originals that are trained for it, and unlearned by every method; as many are
            retrained for each forget set.
    """

    shadows: int = Field(8, ge=6)


class ForgetRecipe(Recipe):
    """Train classifiers or regressors, make them forget, and set every method beside Retrain.

    Attributes:
        family: ``classifier`` or ``regressor``.
        model: settings of the trainer of that name: data, architecture, epochs, lr.
        poison: settings of ``data.poison.Poison``: a backdoor in the training set, to be cleaned.
        groups: forget sets with their methods. ``retrain`` with the original's training settings is
            always the first: it is the yardstick.
        seeds: one original, one split and one run of every method for each.
        probe: also ask a linear probe what the features still know.
        relearn: epochs of fine-tuning on the forget set, to see how soon it is back; 0 for none.
            Of classifiers.
        lira: attack every method by U-LiRA, with so many shadow models; None for not at all. Of
            classifiers.
        anamnesis: settings of ``evaluation.regression.Relearning``: how long it takes to learn the
            forgotten again, beside Retrain. Of regressors.
    """

    kind: Literal["forget"]
    family: Literal["classifier", "regressor"] = "classifier"
    model: Settings = Field(default_factory=dict)
    poison: Settings | None = None
    groups: dict[Label, ForgetGroup] = Field(min_length=1)
    seeds: tuple[NonNegativeInt, ...] = (0,)
    probe: bool = True
    relearn: int = Field(0, ge=0)
    lira: Lira | None = None
    anamnesis: Settings | None = None

    def trainer(self, seed: int) -> SampleTrainer:
        """The trainer of the original with this seed."""
        from .. import registry

        trainer = registry.get("trainer", self.family)
        return validated(trainer, {**self.model, "seed": seed}, f"recipe {self.name}, model")

    def relearning(self, seed: int) -> Relearning | None:
        """How regressors relearn; None for not at all."""
        from ..evaluation.regression import Relearning

        if self.anamnesis is None:
            return None
        settings = {"seed": seed, **self.anamnesis}
        return validated(Relearning, settings, f"recipe {self.name}, anamnesis")

    def methods(self, group: str, seed: int) -> dict[str, Unlearner]:
        """Label -> method of a group; Retrain comes first."""
        trainer = self.trainer(seed)
        shared = {"epochs", "lr", "schedule", "weight_decay", "batch"}
        settings = {YARDSTICK: trainer.model_dump(include=shared), **self.groups[group].methods}
        where = f"recipe {self.name}, groups.{group}.methods"
        return unlearners(settings, self.family, seed, where)

    def forget_set(self, group: str, seed: int) -> Selector | WorstCase:
        """How the forget set of a group is chosen: by a selector, or by a search."""
        from ..data.selectors import Selector
        from ..selection import WorstCase

        where, settings = f"recipe {self.name}, groups.{group}.forget", self.groups[group].forget
        if "search" not in settings:
            return validated(Selector, settings, where)
        kind = settings["search"]
        if kind not in ("worst", "easiest"):
            raise UsageError(f"{where}: 'search' must be worst or easiest, not {kind!r}.")
        rest = {key: value for key, value in settings.items() if key != "search"}
        return validated(WorstCase, {"seed": seed, **rest, "easiest": kind == "easiest"}, where)

    def later_sets(self, group: str) -> list[Selector]:
        """Selectors of the requests that follow the first one."""
        from ..data.selectors import Selector

        where, spec = f"recipe {self.name}, groups.{group}", self.groups[group]
        if spec.then and "search" in spec.forget:
            raise UsageError(f"{where}: a searched forget set cannot be followed by `then`.")
        return [validated(Selector, s, f"{where}.then.{n}") for n, s in enumerate(spec.then)]

    def pruning(self, group: str) -> Pruning | None:
        """How the original of a group is made sparse; None for a dense one."""
        from ..pruning import Pruning

        settings = self.groups[group].prune
        if settings is None:
            return None
        return validated(Pruning, settings, f"recipe {self.name}, groups.{group}.prune")

    def axis(self) -> dict[str, Any] | None:
        """The one number in which all groups differ: their sparsity, or the share that is forgotten.

        Returns:
            Its ``name``, and ``places``, the number of each group; None with fewer than three
            groups, or if they differ in anything else.
        """
        specs = self.groups.values()
        sparsity = [p.sparsity if (p := self.pruning(g)) else 0.0 for g in self.groups]
        ways = [{**spec.prune, "sparsity": None} for spec in specs if spec.prune is not None]
        shares = [spec.forget.get("share") for spec in specs]
        sets = [{**spec.forget, "share": None} for spec in specs]
        rest = [(spec.then, spec.methods) for spec in specs]
        for name, numbers, others in (
            ("sparsity", sparsity, (ways, [spec.forget for spec in specs], rest)),
            ("share forgotten", shares, (sets, [spec.prune for spec in specs], rest)),
        ):
            apart = None not in numbers and len(set(numbers)) == len(numbers) >= 3
            if apart and all(some.count(some[0]) == len(some) for some in others if some):
                return {"name": name, "places": dict(zip(self.groups, numbers, strict=True))}
        return None

    def backdoor(self) -> Poison | None:
        """The backdoor that the training set is given; None for none."""
        from ..data.poison import Poison

        if self.poison is None:
            return None
        return validated(Poison, {"seed": self.seed, **self.poison}, f"recipe {self.name}, poison")

    def splits(self) -> Splits:
        """The data set of the originals, with its backdoor if it is given one.

        Raises:
            MissingFiles: if it has to be fetched first.
            UsageError: if it cannot be read, or given this backdoor.
        """
        splits, poison = self.trainer(self.seed).splits(), self.backdoor()
        return poison.apply(splits) if poison else splits

    def requests(self, splits: Splits) -> dict[tuple[int, str], ForgetRequest]:
        """(seed, group) -> every forget set that can be known before anything is trained.

        Raises:
            UsageError: if the network cannot read the samples; if a class, a subject or a value does
                not exist; if nothing or everything is to be forgotten; or if a method cannot do it.
        """
        from ..data.selectors import Selector
        from ..unlearn.samples import check_request

        self.trainer(self.seed).untrained(splits)
        found = {}
        for seed, group in product(self.seeds, self.groups):
            first = self.forget_set(group, seed)
            if isinstance(first, Selector):
                request = self._selected([first, *self.later_sets(group)], splits, seed)
                for method in self.methods(group, seed).values():
                    check_request(method, request)
                found[seed, group] = request
        return found

    def _selected(self, selectors: list[Selector], splits: Splits, seed: int) -> ForgetRequest:
        """The request of selectors whose sets are forgotten one after the other."""
        from ..data.selectors import in_turn

        # another seed for each: a second random set should not be the first one again
        found = [s.select(splits, seed + 1000 * n) for n, s in enumerate(selectors)]
        return in_turn(*found) if len(found) > 1 else found[0]

    def check(self) -> None:
        from ..data.labelled import DATASETS as LABELLED
        from ..data.regression import DATASETS as MEASURED
        from ..data.samples import check_known

        known = LABELLED if self.family == "classifier" else MEASURED
        check_known(known, self.trainer(self.seed).data)
        if not self.seeds:
            raise UsageError(f"Recipe {self.name} has no seed: give seeds=[0].")
        self._fits_family()
        self.backdoor()
        self.relearning(self.seed)
        for group in self.groups:
            self.methods(group, self.seed)
            self.forget_set(group, self.seed)
            self.later_sets(group)
            self.pruning(group)

    def _fits_family(self) -> None:
        """Raise UsageError for what only the other family has."""
        groups = self.groups.values()
        asked = {
            "poison": self.poison, "relearn": self.relearn, "prune": any(g.prune for g in groups),
            "search": any("search" in g.forget for g in groups),
        }  # fmt: skip
        if self.family == "classifier":
            asked = {"anamnesis": self.anamnesis}
        for name, value in asked.items():
            if value:
                raise UsageError(
                    f"Recipe {self.name}: {name!r} is not for a {self.family}; leave it out."
                )
