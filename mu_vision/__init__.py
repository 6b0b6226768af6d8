"""mu-vision: take a concept out of a trained vision model, attack the result, measure, report.

    import mu_vision

    model = mu_vision.load_model("minicanvas/sd")
    request = mu_vision.concept_request("style", "neon")
    erased = mu_vision.erase(model, request, method="esd")
    print(mu_vision.evaluate(erased, "minicanvas", request))
    mu_vision.save(erased, "erased/")

Nothing heavy is imported before a verb is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Erased": "api",
    "apply_delta": "api",
    "apply_encoder": "api",
    "audit": "api",
    "concept_request": "request",
    "erase": "api",
    "evaluate": "api",
    "load_card": "data.cards",
    "load_model": "api",
    "load_recipe": "recipe",
    "merge": "merging",
    "methods": "api",
    "render": "api",
    "run": "api",
    "save": "api",
}

__all__ = [
    "Erased",
    "__version__",
    "apply_delta",
    "apply_encoder",
    "audit",
    "concept_request",
    "erase",
    "evaluate",
    "load_card",
    "load_model",
    "load_recipe",
    "merge",
    "methods",
    "render",
    "report",
    "run",
    "save",
]

if TYPE_CHECKING:
    from .api import (
        Erased,
        apply_delta,
        apply_encoder,
        audit,
        erase,
        evaluate,
        load_model,
        methods,
        render,
        run,
        save,
    )
    from .data.cards import load_card
    from .merging import merge
    from .recipe import load_recipe
    from .request import concept_request


def __getattr__(name: str) -> Any:
    """Import the home of a verb when it is first used (PEP 562)."""
    if name == "report":  # a verb and a subpackage: the module is callable
        return import_module(".report", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'mu_vision' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
