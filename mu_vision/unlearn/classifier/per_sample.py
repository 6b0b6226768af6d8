"""Per-sample gradients as one batch, and products with their matrix that never store it.

G is [N, P]: row j is the gradient of sample j's loss in all parameters, in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from ...data.labelled import Labelled
from ...models.classifier import Classifier

Tensors = dict[str, torch.Tensor]


def weights_of(model: Classifier) -> tuple[Tensors, Tensors]:
    """Parameters and buffers of the network, by their own names, detached."""
    network = model.network
    parameters = {n: p.detach() for n, p in network.named_parameters()}
    return parameters, dict(network.named_buffers())


def _log_probabilities(model: Classifier) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
    """f(parameters, x [C, H, W]) -> log p [K], for one picture, to be batched by vmap."""
    buffers = weights_of(model)[1]

    def f(parameters: Tensors, x: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model.network, (parameters, buffers), (x.unsqueeze(0),))
        return F.log_softmax(logits[0], dim=-1)

    return f


def per_sample_gradients(model: Classifier, data: Labelled, chunk: int = 64) -> Iterator[Tensors]:
    """{parameter: [b, ...]} gradients of CE, ``chunk`` samples at a time."""
    parameters, f = weights_of(model)[0], _log_probabilities(model)
    each = vmap(grad(lambda p, x, y: -f(p, x).gather(0, y)[0]), in_dims=(None, 0, 0))
    for x, y in zip(data.x.split(chunk), data.y.split(chunk), strict=True):
        yield each(parameters, x, y.unsqueeze(1))


def mean_square_gradients(model: Classifier, data: Labelled, chunk: int = 64) -> Tensors:
    """E over samples of (d CE / d theta)^2, by parameter: the diagonal of the empirical Fisher."""
    total: Tensors = {}
    for gradients in per_sample_gradients(model, data, chunk):
        for name, rows in gradients.items():
            found = rows.square().sum(0)
            total[name] = total[name] + found if name in total else found
    return {name: tensor / len(data) for name, tensor in total.items()}


def fisher_diagonal(model: Classifier, data: Labelled, chunk: int = 16) -> Tensors:
    """E over x of sum over y of p(y | x) (d log p(y | x) / d theta)^2, by parameter."""
    parameters, f = weights_of(model)[0], _log_probabilities(model)

    def both(p: Tensors, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_p = f(p, x)
        return log_p, log_p

    each = vmap(jacrev(both, has_aux=True), in_dims=(None, 0))
    total: Tensors = {}
    for x in data.x.split(chunk):
        jacobian, log_p = each(parameters, x)
        p = log_p.exp()
        for name, rows in jacobian.items():
            found = torch.einsum("nk,nk...->...", p, rows.square())
            total[name] = total[name] + found if name in total else found
    return {name: tensor / len(data) for name, tensor in total.items()}


class LossVector:
    """L(theta) [N], the losses of N samples, and products with its Jacobian G.

    ``G @ x`` is one forward-mode pass over all samples, ``G^T @ u`` one backward pass.
    """

    def __init__(self, model: Classifier, data: Labelled):
        self.parameters, buffers = weights_of(model)
        self.count = len(data)

        def losses(parameters: Tensors) -> torch.Tensor:
            logits = functional_call(model.network, (parameters, buffers), (data.x,))
            return F.cross_entropy(logits, data.y, reduction="none")

        self.losses = losses
        _, self._pull = vjp(losses, self.parameters)

    def forward(self, direction: Tensors) -> torch.Tensor:
        """G x, [N]."""
        return jvp(self.losses, (self.parameters,), (direction,))[1]

    def backward(self, weights: torch.Tensor) -> Tensors:
        """G^T u, by parameter."""
        return self._pull(weights)[0]

    def mean_gradient(self) -> Tensors:
        ones = torch.full(
            (self.count,), 1 / self.count, device=next(iter(self.parameters.values())).device
        )
        return self.backward(ones)


def dot(a: Tensors, b: Tensors) -> float:
    return float(sum((a[name].double() * b[name].double()).sum() for name in a))


def conjugate_gradients(
    apply: Callable[[Tensors], Tensors], b: Tensors, tolerance: float = 1e-5, most: int = 200
) -> tuple[Tensors, int]:
    """Solve for x with apply(x) = b for a positive definite ``apply`` (Hestenes & Stiefel 1952), and steps.

    Stops when the residual is ``tolerance`` of |b|.
    """
    x = {name: torch.zeros_like(t) for name, t in b.items()}
    r, p = dict(b), dict(b)
    size = start = dot(r, r)
    for step in range(most):
        if size <= tolerance**2 * start:
            return x, step
        product = apply(p)
        along = size / dot(p, product)
        x = {n: x[n] + along * p[n] for n in x}
        r = {n: r[n] - along * product[n] for n in r}
        size, before = dot(r, r), size
        p = {n: r[n] + size / before * p[n] for n in p}
    return x, most
