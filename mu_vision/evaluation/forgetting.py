"""What a classifier has forgotten and kept, beside one that was retrained without the forget set.

Logits of the forget, retain and test set are computed once a model; every metric reads them. All
values are shares of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.selectors import ForgetRequest
from ..errors import UsageError
from ..metrics import forgetting, membership
from ..metrics.rates import confusion as label_table
from ..models.classifier import Classifier

GAP_KEYS = ("ua", "ra", "ta", "mia")


@dataclass(frozen=True)
class Outputs:
    """Logits [N, K] of one model on the three sets of a request."""

    forget: np.ndarray
    retain: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, model: Classifier, request: ForgetRequest) -> Outputs:
        """Run the model once over each set, in eval mode.

        Raises:
            UsageError: if it gives NaN or infinite logits.
        """
        sets = (request.forget, request.retain, request.test)
        found = [model.logits(data.x).numpy() for data in sets]
        if not all(np.isfinite(array).all() for array in found):
            raise UsageError(
                f"{model.name} gives logits that are not finite after forgetting {request.name};"
                " its weights are ruined: lower the learning rate."
            )
        return cls(*found)


@dataclass(frozen=True)
class Yardstick:
    """What every method is compared with: Retrain's outputs, rates and weights, computed once."""

    outputs: Outputs
    rates: Mapping[str, float]
    weights: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, retrained: Classifier, request: ForgetRequest) -> Yardstick:
        outputs = Outputs.of(retrained, request)
        return cls(outputs, rates(outputs, request), _tensors(retrained))


def measure(
    model: Classifier,
    request: ForgetRequest,
    retrained: Classifier | Yardstick | None = None,
    probe: bool = True,
) -> dict[str, float]:
    """The metrics of one model.

    Args:
        model: what unlearning gave.
        request: what it had to forget.
        retrained: Retrain on the same request, the yardstick, or what was computed of it; None for
            none.
        probe: ask probes on the features: a linear one and, of whole classes, a one-shot one.

    Returns:
        ``ua``, ``ra``, ``ta`` (1 - accuracy on the forget set, accuracy on the retain and the test
        set), ``mia`` (MIA-Efficacy on confidence), ``mia_entropy``, ``sparsity``, ``probe`` and
        ``one_shot``, ``asr`` (success of a backdoor in the data, if there is one); beside a
        retrained model ``gap`` (their mean distance), ``mia_gap`` (that of ``mia``), ``js`` on the
        forget set and ``weight_distance``. Retrain's gaps are 0 by definition.
    """
    out = Outputs.of(model, request)
    found = rates(out, request)
    if request.splits.poison:
        attacked = request.splits.poison.attack_set(request.splits.test)
        found["asr"] = forgetting.accuracy(model.logits(attacked.x), attacked.y)
    found["sparsity"] = forgetting.sparsity(_tensors(model))
    if probe:
        known = Features.of(model, request)
        found["probe"] = linear_probe(known, request)
        if request.whole:
            found["one_shot"] = one_shot_probe(known, request)
    if retrained is not None:
        gold = retrained if isinstance(retrained, Yardstick) else Yardstick.of(retrained, request)
        found["gap"] = forgetting.average_gap(found, gold.rates, GAP_KEYS)
        found["mia_gap"] = forgetting.average_gap(found, gold.rates, ("mia",))
        found["js"] = forgetting.js_divergence(out.forget, gold.outputs.forget, logits=True)
        distance = forgetting.weight_distance(_tensors(model), gold.weights)
        found["weight_distance"] = distance.relative
    return found


def rates(out: Outputs, request: ForgetRequest) -> dict[str, float]:
    """UA, RA, TA and two membership attacks from logits."""
    y_f, y_r, y_t = (
        data.y.cpu().numpy() for data in (request.forget, request.retain, request.test)
    )
    attacked = (out.retain, y_r, out.test, y_t, out.forget, y_f)
    return {
        "ua": forgetting.unlearning_accuracy(out.forget, y_f),
        "ra": forgetting.accuracy(out.retain, y_r),
        "ta": forgetting.accuracy(out.test, y_t),
        "mia": membership.mia_efficacy(*attacked).efficacy,
        "mia_entropy": membership.mia_efficacy(*attacked, feature="entropy").efficacy,
    }


@dataclass(frozen=True)
class Features:
    """What goes into the head of one model, [N, D] each, of the training and the test set."""

    train: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, model: Classifier, request: ForgetRequest) -> Features:
        splits = request.splits
        return cls(*(model.features(data.x).numpy() for data in (splits.train, splits.test)))


def linear_probe(known: Features, request: ForgetRequest) -> float:
    """Accuracy on held-out samples of the forget set's classes of a linear probe on the features.

    The probe is a multinomial logistic regression on the features of the whole training set, the
    forget set included: what it finds is what the layers before the head still tell apart.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y, y_test = (side.y.cpu().numpy() for side in (request.splits.train, request.splits.test))
    asked = np.isin(y_test, request.forget.y.cpu().numpy())
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=200))
    probe.fit(known.train, y)
    return float((probe.predict(known.test[asked]) == y_test[asked]).mean())


def one_shot_probe(
    known: Features, request: ForgetRequest, draws: int = 50, seed: int = 0
) -> float:
    """Accuracy on unseen samples of a class that is forgotten whole, from one example of it.

    A sample belongs to the nearest class mean of the standardised features; the forgotten class has
    one training sample for its mean. Averaged over ``draws`` examples, and over the classes if
    several are forgotten. Features that still know the class hold it together, so one example is
    enough; a probe that is fitted on all samples finds the class in the features of Retrain as well.

    Raises:
        UsageError: if no class is forgotten whole.
    """
    if not request.whole:
        raise UsageError("A one-shot probe needs a class that is forgotten whole.")
    splits = request.splits
    labels, y_test = splits.train.y.cpu().numpy(), splits.test.y.cpu().numpy()
    middle, spread = known.train.mean(0), known.train.std(0) + 1e-6
    train, test = (known.train - middle) / spread, (known.test - middle) / spread
    there = np.unique(labels)
    everyone = np.stack([train[labels == label].mean(0) for label in there])
    right = []
    for name in request.whole:
        forgotten = splits.classes.index(name)
        own, asked = train[labels == forgotten], test[y_test == forgotten]
        place, means = int(np.searchsorted(there, forgotten)), everyone.copy()
        for row in np.random.default_rng(seed).integers(len(own), size=draws):
            means[place] = own[row]
            distance = ((asked[:, None] - means) ** 2).sum(2)
            right.append((distance.argmin(1) == place).mean())
    return float(np.mean(right))


def relearn_curve(
    model: Classifier, request: ForgetRequest, epochs: int, lr: float = 0.01, seed: int = 0
) -> list[float]:
    """Accuracy on the forget set after 0, 1, ..., ``epochs`` epochs of fine-tuning on it."""
    from ..train.classifier import ClassifierTrainer

    def right(net: Classifier) -> float:
        return forgetting.accuracy(net.logits(request.forget.x), request.forget.y)

    trainer = ClassifierTrainer(epochs=1, lr=lr, schedule="constant", seed=seed)
    curve, net = [right(model)], model
    for _ in range(epochs):
        net, _ = trainer.fit(request.splits, model=net, rows=request.rows)
        curve.append(right(net))
    return curve


def compare_relearning(rows: Sequence[dict[str, Any]]) -> None:
    """Add ``relearn_time`` and ``ain`` to the rows of one forget set that have a curve, in place.

    Relearn time is the number of epochs, in a straight line between them, until accuracy on the
    forget set is back within 5 % of the original's (``metrics.forgetting.ain``). A model that is not
    back within the epochs of its curve has neither.

    Args:
        rows: with ``method`` and ``relearn``, a curve; those of the original and of Retrain among
            them, or nothing is added.
    """
    curves = {row["method"]: row["relearn"] for row in rows}
    if not {"original", "retrain"} <= curves.keys():
        return
    level = 0.95 * curves["original"][0]
    times = {m: forgetting.steps_to(level, range(len(c)), c) for m, c in curves.items()}
    for row in rows:
        time, gold = times[row["method"]], times["retrain"]
        if time is not None:
            row["relearn_time"] = time
        if time is not None and gold is not None:
            row["ain"] = forgetting.ain(time, gold)


def confidences(out: Outputs, request: ForgetRequest, bins: int = 20) -> dict[str, list[float]]:
    """Shares of samples by the probability of their label: members, forgotten and unseen ones."""
    sets = {
        "members": (out.retain, request.retain), "forgotten": (out.forget, request.forget),
        "unseen": (out.test, request.test),
    }  # fmt: skip
    edges, found = np.linspace(0, 1, bins + 1), {}
    for name, (logits, data) in sets.items():
        counts, _ = np.histogram(membership.confidence(logits, data.y.cpu().numpy()), edges)
        found[name] = (counts / counts.sum()).tolist()
    return found


def confusion(model: Classifier, request: ForgetRequest) -> list[list[int]]:
    """[K, K] counts on the test set: row the label, column what the model says."""
    test = request.splits.test
    said = model.logits(test.x).argmax(1).numpy()
    return label_table(test.y.cpu().numpy(), said, len(model.classes), len(model.classes)).tolist()


def _tensors(model: Classifier) -> Mapping[str, torch.Tensor]:
    return {name: p.detach().cpu() for name, p in model.named_parameters().items()}
