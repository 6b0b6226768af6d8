"""Recipes that train models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ..errors import UsageError
from ..validation import validated
from .base import Recipe, Settings


class TrainRecipe(Recipe):
    """Run trainers one after another into ``runs/<name>/model``."""

    kind: Literal["train"]
    trainers: list[Settings] = Field(min_length=1)

    def check(self) -> None:
        self.jobs()

    def jobs(self) -> list[tuple[str, Any]]:
        """(name of the trainer, the trainer) in order."""
        from .. import registry

        jobs = []
        for number, settings in enumerate(self.trainers):
            where = f"recipe {self.name}, trainers.{number}"
            settings = {"seed": self.seed, **settings}
            name = settings.pop("trainer", None)
            if not isinstance(name, str):
                raise UsageError(f"{where}: 'trainer' is missing; name one of them.")
            jobs.append((name, validated(registry.get("trainer", name), settings, where)))
        return jobs
