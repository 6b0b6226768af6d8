"""U-LiRA in the lab: can one tell "trained on and unlearned" from "never seen" by single samples?

For one forget set, S other originals are trained on all data and unlearn it by every method; S others
are retrained without it. Each of them is attacked by Gaussians of the others (``metrics.lira``).
Originals are shared by all forget sets, retrained models by all methods of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import RunError
from .metrics.lira import ulira_left_out
from .metrics.membership import logit_scaled_confidence
from .recipes.forgetting import YARDSTICK
from .runs import ORIGINAL
from .unlearn.samples import forget_in_turn

if TYPE_CHECKING:
    from .data.selectors import ForgetRequest
    from .lab import Lab
    from .models.classifier import Classifier
    from .unlearn.base import Unlearner

FIRST = 10_000  # seeds of shadow models, far from those that recipes name


class Shadows:
    """The shadow models of a lab; only their confidences on the forget sets are kept."""

    def __init__(self, lab: Lab):
        self.lab, self.recipe = lab, lab.recipe
        self._originals: dict[str, list[Classifier]] = {}

    def attack(
        self, seed: int, group: str, request: ForgetRequest
    ) -> dict[str, dict[str, float | str]]:
        """What U-LiRA finds on one forget set.

        Returns:
            {method: {``lira``: accuracy, ``lira_auc``: area under the curve}}, 0.5 is ideal; Retrain's
            is one half of its shadow models against the other, a control. A method that failed on
            a shadow original has ``lira_failed``, the reason, instead.
        """
        originals = self.originals(group)
        phi: dict[str, np.ndarray] = {ORIGINAL: np.stack([_phi(m, request) for m in originals])}
        found: dict[str, dict[str, float | str]] = {}
        # all methods of one shadow original share its seed, as those of the lab share theirs
        methods = [self.recipe.methods(group, FIRST + k) for k in range(len(originals))]
        for label in methods[0]:
            rows = [
                self.forgotten(seed, group, label, k, methods[k][label], originals[k], request)
                for k in range(len(originals))
            ]
            failed = [row["failed"] for row in rows if "failed" in row]
            if failed and label == YARDSTICK:
                raise RunError(f"Retrain failed for a shadow model of {request.name}: {failed[0]}")
            if failed:
                found[label] = {"lira_failed": failed[0]}
            else:
                phi[label] = np.array([row["phi"] for row in rows])
        unseen = phi.pop(YARDSTICK)
        half = len(unseen) // 2
        for label, own in {**phi, YARDSTICK: unseen[:half]}.items():
            told = ulira_left_out(own, unseen[half:] if label == YARDSTICK else unseen)
            found[label] = {"lira": told.accuracy, "lira_auc": told.auc}
        return found

    def originals(self, group: str) -> list[Classifier]:
        """The shadow originals of a group, pruned as the group says."""
        pruning = self.recipe.pruning(group)
        key = repr(pruning)
        if key not in self._originals:
            count = self.recipe.lira.shadows
            self._originals[key] = [self.lab.original(FIRST + k, pruning) for k in range(count)]
        return self._originals[key]

    def forgotten(
        self, seed: int, group: str, label: str, k: int, method: Unlearner, original: Classifier,
        request: ForgetRequest,
    ) -> dict[str, Any]:  # fmt: skip
        """``phi``, the confidences of one shadow model on the forget set; or ``failed``."""
        inputs = {
            "method": [method.name, method.model_dump(mode="json")],
            "original": original.fingerprint(), "request": request.model_dump(),
        }  # fmt: skip

        def work() -> dict[str, Any]:
            try:
                model, _ = forget_in_turn(method, original, request)
            except RunError as error:
                return {"failed": str(error)}
            return {"phi": _phi(model, request).tolist()}

        return self.lab.stages.run(f"shadow{k}-seed{seed}-{group}-{label}", inputs, work).result


def _phi(model: Classifier, request: ForgetRequest) -> np.ndarray:
    """[n] logit-scaled confidences on the forget set."""
    return logit_scaled_confidence(model.logits(request.forget.x), request.forget.y)
