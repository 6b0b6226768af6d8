"""Squares of per-sample gradients, and products with their matrix that never store it.

G is [N, P]: row j is the gradient of sample j's loss in all parameters, in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from ..data.labelled import Labelled
from ..data.measured import Measured
from ..data.samples import Samples
from ..models.classifier import Classifier
from ..models.predictor import PREFIX, Predictor

FEW = 16
Tensors = dict[str, torch.Tensor]
# outputs [B, K], y [B] -> losses, each a sum over the batch whose terms are of one sample each
BatchLosses = Callable[[torch.Tensor, torch.Tensor], Iterator[torch.Tensor]]


def weights_of(model: Predictor) -> tuple[Tensors, Tensors]:
    """Parameters and buffers of the network, by their own names, detached."""
    network = model.network
    parameters = {n: p.detach() for n, p in network.named_parameters()}
    return parameters, dict(network.named_buffers())


def mean_square_gradients(model: Predictor, data: Samples, chunk: int = 64) -> Tensors:
    """E over samples of (d loss / d theta)^2, by parameter: the diagonal of the empirical Fisher.

    The loss is cross-entropy on labelled samples, and their own deviation on measured ones.
    """

    def losses(outputs: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
        if isinstance(data, Measured):
            yield data.error(outputs[:, 0], y).sum()
        else:
            yield F.cross_entropy(outputs, y, reduction="sum")

    return _mean_squares(model, data, chunk, losses)


def fisher_diagonal(model: Classifier, data: Labelled, chunk: int = 64) -> Tensors:
    """E over x of sum over y of p(y | x) (d log p(y | x) / d theta)^2, by parameter."""

    def losses(logits: torch.Tensor, y: torch.Tensor) -> Iterator[torch.Tensor]:
        log_p = F.log_softmax(logits, dim=1)
        # the root of p in the loss is p in the square
        weighted = log_p.detach().exp().sqrt() * log_p
        yield from weighted.sum(0)

    return _mean_squares(model, data, chunk, losses)


def _mean_squares(model: Predictor, data: Samples, chunk: int, losses: BatchLosses) -> Tensors:
    """E over samples of the squared gradients of all the losses."""
    network = model.network
    layers, parameters = _with_weights(network), weights_of(model)[0]
    tied = len(list(network.named_parameters(remove_duplicate=False))) > len(parameters)
    squares = _vmap_squares if tied or not all(map(_is_known, layers)) else _layer_squares
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with _evaluating(network), torch.enable_grad():
        for x, y in zip(data.x.split(chunk), data.y.split(chunk), strict=True):
            for name, found in squares(model, x, y, losses):
                total[name] += found
    return {name: tensor / len(data) for name, tensor in total.items()}


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _with_weights(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if any(p is not None for p in m._parameters.values())]


def _is_known(module: nn.Module) -> bool:
    """A layer whose per-sample gradients are known from its input and its output's gradient."""
    # of exactly these kinds: a subclass may do more than its weights say (timm's norms activate too)
    if type(module) is nn.Conv2d:
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and module.groups == 1
    if type(module) is nn.BatchNorm2d:
        return module.running_mean is not None
    return type(module) is nn.Linear


def _layer_squares(
    model: Predictor, x: torch.Tensor, y: torch.Tensor, losses: BatchLosses
) -> Iterator[tuple[str, torch.Tensor]]:
    """Sums of squares layer by layer, from one backward pass of the batch for each loss.

    A layer's gradient of one sample is a product of its input and of the gradient of its output, so
    no gradient of a weight has to be computed sample by sample.
    """
    calls: list[tuple[str, nn.Module, torch.Tensor, torch.Tensor]] = []
    names = {m: n for n, m in model.network.named_modules()}

    def keep(module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        calls.append((names[module], module, given[0].detach(), out))
        return out.clone()  # what follows may change its input in place

    hooks = [m.register_forward_hook(keep) for m in _with_weights(model.network)]
    try:
        logits = model.network(x.clone().requires_grad_(True))
    finally:
        for hook in hooks:
            hook.remove()
    if len({name for name, *_ in calls}) < len(calls):  # a layer that is used twice
        yield from _vmap_squares(model, x, y, losses)
        return
    outputs = [out for *_, out in calls]
    with torch.no_grad():
        known = [_prepared(module, a) for _, module, a, _ in calls]
    for loss in losses(logits, y):
        found = torch.autograd.grad(loss, outputs, retain_graph=True)
        with torch.no_grad():
            for (name, module, _, _), a, g in zip(calls, known, found, strict=True):
                for own, square in _squares(module, a, g):
                    yield f"{name}.{own}" if name else own, square


def _prepared(module: nn.Module, a: torch.Tensor) -> torch.Tensor:
    """What of a layer's input its gradients are made from."""
    if isinstance(module, nn.Conv2d):
        return F.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride)
    if isinstance(module, nn.BatchNorm2d):
        mean, spread = module.running_mean, (module.running_var + module.eps).sqrt()
        return (a - mean[:, None, None]) / spread[:, None, None]
    return a


def _squares(
    module: nn.Module, a: torch.Tensor, g: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """Sum over samples of the squared gradients of a layer's weight and bias."""
    if isinstance(module, nn.Linear):
        a, g = a.reshape(len(a), -1, a.shape[-1]), g.reshape(len(g), -1, g.shape[-1])
        if a.shape[1] == 1:
            yield "weight", g[:, 0].square().T @ a[:, 0].square()
        else:
            yield "weight", torch.einsum("btd,bto->bod", a, g).square().sum(0)
        bias = g.sum(1)
    elif isinstance(module, nn.Conv2d):
        total = torch.zeros_like(module.weight).flatten(1)
        # gradients of a few samples stay in the cache while they are squared, in place, and summed
        for some, theirs in zip(g.flatten(2).split(FEW), a.transpose(1, 2).split(FEW), strict=True):
            total += (some @ theirs).square_().sum(0)
        yield "weight", total.view_as(module.weight)
        bias = g.flatten(2).sum(2)
    else:
        yield "weight", (g * a).flatten(2).sum(2).square().sum(0)
        bias = g.flatten(2).sum(2)
    if module.bias is not None:
        yield "bias", bias.square().sum(0)


def _vmap_squares(
    model: Predictor, x: torch.Tensor, y: torch.Tensor, losses: BatchLosses
) -> Iterator[tuple[str, torch.Tensor]]:
    """The same for any network, by ``torch.func``."""
    parameters, buffers = weights_of(model)

    def each(p: Tensors, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model.network, (p, buffers), (x.unsqueeze(0),))
        return torch.stack(list(losses(logits, y.unsqueeze(0))))

    for name, rows in vmap(jacrev(each), in_dims=(None, 0, 0))(parameters, x, y).items():
        yield name, rows.square().sum((0, 1))


@torch.no_grad()
def dampen(
    model: Predictor, whole: Tensors, forget: Tensors, alpha: float, lam: float
) -> dict[str, int]:
    """theta_i <- min(lam whole_i / forget_i, 1) theta_i where forget_i > alpha whole_i, in place.

    The edit of SSD (Foster et al., arXiv 2308.07707, equations 6 and 7).

    Args:
        model: what is edited.
        whole: importances of the weights for all data, by the network's own names.
        forget: importances for the forget set.
        alpha: selects; 0 selects every weight that matters for the forget set.
        lam: dampens.

    Returns:
        How many weights were selected, and how many there are.
    """
    chosen = total = 0
    for name, parameter in model.named_parameters().items():
        own = name.removeprefix(f"{PREFIX}.")
        selected = forget[own] > alpha * whole[own]
        factor = (lam * whole[own] / forget[own].clamp_min(1e-45)).clamp(max=1.0)
        parameter.copy_(torch.where(selected, parameter * factor, parameter))
        chosen, total = chosen + int(selected.sum()), total + selected.numel()
    return {"dampened": chosen, "of": total}


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
        like = next(iter(self.parameters.values()))
        return self.backward(like.new_full((self.count,), 1 / self.count))


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
