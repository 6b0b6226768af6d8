"""What tests of classifier methods share: requests, objectives without the loop, equal weights."""

from __future__ import annotations

import torch
from labelled import few_digits

from mu_vision import registry
from mu_vision.data.selectors import Selector, forget_rows

CPU = torch.device("cpu")
SAMPLES = forget_rows(few_digits(), range(0, 40, 2))
THREES = Selector(kind="class", of="3").select(few_digits())


def request_of(name: str):
    """A request that the method takes."""
    return THREES if registry.get("method", name, "classifier").class_wise else SAMPLES


def method(name: str, **settings):
    """A method with the settings of a short run."""
    cls = registry.get("method", name, "classifier")
    return cls.from_settings({**cls.trial, **settings})


def prepared(name: str, model, request=SAMPLES, **settings):
    """The objective of a method before its first step."""
    objective = method(name, **settings).objective(model, (request,))
    objective.prepare(CPU)
    return objective


def tensors(model) -> dict[str, torch.Tensor]:
    """All parameters and buffers."""
    return {name: t.detach().clone() for name, t in model.network.state_dict().items()}


def result(name: str, model, request=SAMPLES, **settings) -> dict[str, torch.Tensor]:
    """All tensors of what a method makes of a model."""
    return tensors(method(name, **settings).unlearn(model, request).model)


def same(first, second) -> bool:
    """Bit for bit."""
    return set(first) == set(second) and all(torch.equal(first[n], second[n]) for n in first)


def near(first, second, atol: float = 1e-6) -> None:
    torch.testing.assert_close(first, second, atol=atol, rtol=1e-5)


def pruned(model, share: float = 0.5, layers: tuple[str, ...] = ("0", "4", "9")):
    """A copy of a small_cnn without a share of the weights of some layers."""
    twin = model.clone().freeze()
    draw = torch.Generator().manual_seed(0)
    for layer in layers:
        name = f"network.{layer}.weight"
        weight = twin.named_parameters()[name]
        twin.mask[name] = torch.rand(weight.shape, generator=draw) >= share
    twin.apply_mask()
    return twin
