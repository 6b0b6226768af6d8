r"""Time the parts of classifier unlearning that are batched here against the plain way.

Every pair computes the same numbers, and the largest difference is printed beside the ratio. Times are
processor seconds of one thread.

    python benchmarks/classifier.py                  # digits and the small network, about a minute
    python benchmarks/classifier.py --samples 1197

- SSD: squared gradients of single samples, layer by layer from one backward of a batch, against one
  backward a sample.
- FF: the exact Fisher diagonal, K gradients a sample, likewise.
- IU: (I + G^T G / N)^-1 v by conjugate gradients on products with G, against Woodbury's identity on
  stored gradients: it saves memory, N times the size of the network, and not always time.
- MIA: the support vector attack on 50,000 rows, against scikit-learn's SVC on 5,000.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mu_vision.data.labelled import Labelled, load_splits
from mu_vision.metrics.membership import mia_efficacy
from mu_vision.models.classifier import Classifier
from mu_vision.models.predictor import PREFIX
from mu_vision.train.classifier import ClassifierTrainer
from mu_vision.unlearn.classifier.influence import inverse_hessian_product, mean_gradient
from mu_vision.unlearn.per_sample import fisher_diagonal, mean_square_gradients

Tensors = dict[str, torch.Tensor]


def timed(work: Callable[[], Any], repeats: int = 3) -> tuple[Any, float]:
    """The result, and the shortest of several processor times: other jobs change wall times."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
    return result, min(seconds)


def gradients(model: Classifier, losses: torch.Tensor, keep: bool = False) -> Tensors:
    parameters = {n.removeprefix(f"{PREFIX}."): p for n, p in model.named_parameters().items()}
    found = torch.autograd.grad(losses, list(parameters.values()), retain_graph=keep)
    return dict(zip(parameters, found, strict=True))


def plain_squares(model: Classifier, data: Labelled) -> Tensors:
    """One backward a sample."""
    total: Tensors = {}
    for x, y in zip(data.x, data.y, strict=True):
        loss = F.cross_entropy(model.network(x[None]), y[None])
        for name, grad in gradients(model, loss).items():
            total[name] = total.get(name, 0) + grad.square() / len(data)
    return total


def plain_fisher(model: Classifier, data: Labelled) -> Tensors:
    """K backwards a sample."""
    total: Tensors = {}
    for x in data.x:
        log_p = F.log_softmax(model.network(x[None])[0], dim=0)
        for value in log_p:
            found = gradients(model, value, keep=True)
            for name, grad in found.items():
                part = value.exp().detach() * grad.square() / len(data)
                total[name] = total.get(name, 0) + part
    return total


def plain_inverse(model: Classifier, data: Labelled, v: Tensors) -> Tensors:
    """Woodbury on the stored gradients of all samples: (I + G^T G / N)^-1 v."""
    rows = []
    for x, y in zip(data.x, data.y, strict=True):
        grad = gradients(model, F.cross_entropy(model.network(x[None]), y[None]))
        rows.append(torch.cat([grad[name].flatten() for name in v]))
    G, flat = torch.stack(rows), torch.cat([t.flatten() for t in v.values()])
    n = len(G)
    solved = torch.linalg.solve(n * torch.eye(n) + G @ G.T, G @ flat)
    step = flat - G.T @ solved
    parts = step.split([t.numel() for t in v.values()])
    return {name: part.view_as(v[name]) for name, part in zip(v, parts, strict=True)}


def difference(a: Tensors, b: Tensors) -> float:
    """Largest difference, relative to the largest value."""
    top = max(float(t.abs().max()) for t in b.values())
    return max(float((a[name] - b[name]).abs().max()) for name in b) / top


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=400, help="samples of the gradients")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # the time of a process is that of all its threads
    splits = load_splits("digits")
    model, _ = ClassifierTrainer(epochs=5).fit(splits)
    learning = model.clone()
    learning.network.eval()
    data = splits.train.take(range(min(chosen.samples, len(splits.train))))

    def compare(name: str, ours: Callable[[], Tensors], plain: Callable[[], Tensors]) -> None:
        fast, quick = timed(ours, chosen.repeats)
        slow, long = timed(plain, min(2, chosen.repeats))
        print(
            f"{name}: {len(data)} samples, plain {long:.2f} s, here {quick:.3f} s, ratio"
            f" {long / quick:.1f}, largest difference {difference(fast, slow):.1e}"
        )

    compare(
        "SSD importances",
        lambda: mean_square_gradients(model, data),
        lambda: plain_squares(learning, data),
    )
    compare(
        "FF Fisher diagonal",
        lambda: fisher_diagonal(model, data),
        lambda: plain_fisher(learning, data),
    )
    v = mean_gradient(model, data.take(range(50)))
    compare(
        "IU inverse Hessian product",
        lambda: inverse_hessian_product(model, data, v, 1e-6)[0],
        lambda: plain_inverse(learning, data, v),
    )
    rows = membership_rows()
    _, plain = timed(lambda: plain_svc(*(part[:2500] for part in rows[:4])), 1)
    found, ours = timed(lambda: mia_efficacy(*rows), 1)
    print(
        f"MIA: scikit-learn's SVC on 5,000 rows {plain:.2f} s; here on {found.members + found.non_members:,}"
        f" rows {ours:.2f} s"
    )


def membership_rows() -> tuple[np.ndarray, ...]:
    """Logits and labels of 25,000 members, 25,000 others and 5,000 forgotten samples."""
    rng = np.random.default_rng(0)
    sides = []
    for count, margin in ((25_000, 6.0), (25_000, 4.0), (5_000, 5.0)):
        labels = rng.integers(0, 10, count)
        logits = rng.normal(size=(count, 10))
        logits[np.arange(count), labels] += margin
        sides += [logits, labels]
    return tuple(sides)


def plain_svc(retain: np.ndarray, y_r: np.ndarray, test: np.ndarray, y_t: np.ndarray) -> None:
    from sklearn.svm import SVC

    from mu_vision.metrics.membership import confidence

    x = np.concatenate([confidence(retain, y_r), confidence(test, y_t)])[:, None]
    SVC(C=3, gamma="auto", kernel="rbf").fit(x, np.repeat([1, 0], [len(y_r), len(y_t)]))


if __name__ == "__main__":
    main()
