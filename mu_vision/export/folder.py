"""Write an edited model as a diffusers folder with its model card, then read it again and compare."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import RunError, UsageError
from ..models.denoiser import LOG, MARK, Denoiser
from ..models.loading import LABEL_PIPELINES, read_pipeline
from ..request import ConceptRequest
from ..unlearn.base import Unlearned, Unlearner

CARD = """---
library_name: diffusers
tags: [machine-unlearning, {{ name }}]
---
# {{ base_name }} without {{ what }}

Made by mu-vision {{ versions["mu-vision"] }} from `{{ base.source }}` with **{{ method }}**
({{ paper.authors }}, "{{ paper.title }}", {{ paper.venue }}, arXiv {{ paper.arxiv }}).

| | |
|---|---|
{% for request in requests -%}
| forgotten | {{ request.kind }} {{ request.name | cell }}{% if request.anchor is not none %}, in its place {{ (request.anchor or "the null prompt") | cell }}{% endif %} |
{% endfor -%}
| changed tensors | {{ report.changed_tensors }} of {{ tensors }}, by {{ "%.3g" | format(100 * report.relative_change) }} % of their norm |
| time | {{ "%.1f" | format(seconds) }} s |
| peak memory | {{ "%.2f" | format(peak_memory_gb) }} GB |
| weights (SHA-256) | `{{ sha256 }}` |
| original (SHA-256) | `{{ base.sha256 }}` |

```python
from {{ library }} import {{ pipeline }}

pipeline = {{ pipeline }}.from_pretrained("this folder")
```

Settings that differ from the method's defaults: {{ changed_settings or "none" }}.

Forgetting was not attacked here. Measure and attack it before you rely on it:
`mu-vision evaluate <this folder>`, `mu-vision audit <this folder>`.
"""


def export(
    unlearned: Unlearned,
    request: ConceptRequest | Sequence[ConceptRequest],
    unlearner: Unlearner,
    folder: Path | str,
    original: Denoiser | None = None,
) -> Path:
    """Write the diffusers folder, ``README.md`` and ``mu_vision.json``; read it again and compare.

    What was logged while it trained lies in ``log.jsonl``, a line each.

    Args:
        unlearned: what the unlearner gave back.
        request: what it was asked.
        unlearner: the method with its settings.
        folder: where to write; an earlier model folder of ours there is replaced.
        original: the model before the edit, for its name and hash.

    Raises:
        UsageError: if the folder holds something else.
        RunError: if what was read back differs from what was written.
    """
    requests = [request] if isinstance(request, ConceptRequest) else list(request)
    facts = describe(unlearned, requests, unlearner, original)
    texts = {
        MARK: json.dumps(facts, indent=2) + "\n",
        "README.md": _card(facts, unlearned, unlearner),
    }
    if unlearned.history:
        texts[LOG] = "".join(json.dumps(row) + "\n" for row in unlearned.history)
    folder = unlearned.model.save(folder, texts)
    verify(unlearned.model, folder)
    return folder


def describe(
    unlearned: Unlearned,
    requests: Sequence[ConceptRequest],
    unlearner: Unlearner,
    original: Denoiser | None,
) -> dict[str, Any]:
    """What ``mu_vision.json`` says, as plain JSON values."""
    model = unlearned.model
    base = {"name": model.name, "source": model.source}
    if original is not None:
        base["sha256"] = original.fingerprint()
    return {
        "requests": [request.model_dump(mode="json") for request in requests],
        "method": unlearner.name,
        "settings": unlearner.model_dump(mode="json"),
        "base": base,
        "sha256": model.fingerprint(),
        "seconds": round(unlearned.seconds, 3),
        "peak_memory_gb": round(unlearned.peak_memory_gb, 3),
        "trained": unlearned.trained,
        "report": unlearned.report,
        "versions": versions(),
    }


def read_facts(folder: Path | str) -> dict[str, Any]:
    """What ``mu_vision.json`` in a model folder says, {} if there is none.

    Raises:
        UsageError: if the file is damaged.
    """
    path = Path(folder) / MARK
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged: it is not JSON. Write the model again.") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the numbers."""
    libraries = ("torch", "diffusers", "transformers", "safetensors")
    found = {"python": platform.python_version(), "mu-vision": __version__}
    return {**found, **{name: version(name) for name in libraries}}


def verify(model: Denoiser, folder: Path) -> None:
    """Read the folder with plain diffusers and compare every tensor.

    Raises:
        RunError: for the first one that differs.
    """
    pipeline = read_pipeline(Path(folder))
    for part, module in {**model.parts(), **model.frozen_parts()}.items():
        mine, theirs = module.state_dict(), getattr(pipeline, part).state_dict()
        if mine.keys() != theirs.keys():
            raise RunError(f"{folder}/{part} has other tensors than were written.")
        for name, tensor in mine.items():
            if not torch.equal(tensor.cpu(), theirs[name].cpu()):
                raise RunError(f"{folder}/{part} was not written well: {name} differs.")


def _card(facts: dict[str, Any], unlearned: Unlearned, unlearner: Unlearner) -> str:
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.ChainableUndefined, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    defaults = type(unlearner)().model_dump(mode="json")
    different = {k: v for k, v in facts["settings"].items() if v != defaults[k]}
    what = " and ".join(f"the {r['kind']} {r['name']}" for r in facts["requests"])
    kind = type(unlearned.model.pipeline).__name__
    ours = kind in LABEL_PIPELINES
    return environment.from_string(CARD).render(
        **facts,
        library="mu_vision.models.labels" if ours else "diffusers",
        pipeline=kind if ours else "DiffusionPipeline",
        name=unlearner.name,
        base_name=facts["base"]["name"],
        what=_cell(what),
        paper=unlearner.paper,
        tensors=len(unlearned.model.named_parameters()),
        changed_settings=", ".join(f"`{k}={v}`" for k, v in different.items()),
    )


def _cell(text: Any) -> str:
    """User text that cannot break out of a Markdown line or table, nor hold HTML."""
    text = " ".join(str(text).split())
    for sign, escaped in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`")):
        text = text.replace(sign, escaped)
    return text
