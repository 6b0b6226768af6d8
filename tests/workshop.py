"""A workshop for tests: tiny judges, a tiny protocol and recipes, on the tiny pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
import yaml
from safetensors.torch import save_file

from mu_vision.data import minicanvas

ESD = {"steps": 4, "lr": 0.01, "sampler_steps": 4, "refresh": 2, "checkpoint_every": 1}
CLASSES = {"style": list(minicanvas.STYLES), "object": list(minicanvas.OBJECTS)}


def judge(folder: Path, kind: str) -> Path:
    """A timm network with random weights, in the layout of the embedded judges."""
    arguments = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = timm.create_model("resnet18", num_classes=len(CLASSES[kind]), **arguments)
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "resnet18",
        "model_args": arguments,
        "num_classes": len(CLASSES[kind]),
        "classes": CLASSES[kind],
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "card": {"test_accuracy": 1.0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def protocol(folder: Path, **changes) -> Path:
    """A protocol of 3 styles x 2 objects x 1 seed with judges that know nothing."""
    data = {
        "name": "tiny",
        "dataset": "minicanvas",
        "styles": ["photo", "neon", "mosaic"],
        "objects": ["tree", "cat"],
        "seeds": [3],
        "steps": 2,
        "guidance": 2.0,
        "batch": 4,
        "judges": {
            kind: str(judge(folder / f"{kind}-judge", kind)) for kind in ("style", "object")
        },
        "fid": {"clip": False},
        "minimum": {"judge": 0.0, "original": 0.0},
        "include_seed_theme": True,
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def recipe(model: Path, protocol: Path, **changes) -> dict:
    """Erase a style by both methods; ``methods`` and the rest can be changed."""
    return {
        "name": "small",
        "kind": "erase",
        "model": str(model),
        "request": {"kind": "style", "name": "neon"},
        "methods": {"esd": dict(ESD), "uce": {}},
        "protocol": str(protocol),
        **changes,
    }


def table(model: Path, protocol: Path) -> dict:
    """Two groups, three requests, one method each."""
    return {
        "name": "grid",
        "kind": "table",
        "model": str(model),
        "protocol": str(protocol),
        "groups": {
            "styles": {"kind": "style", "names": ["neon", "mosaic"], "methods": {"uce": None}},
            "objects": {"kind": "object", "names": ["cat"], "methods": {"uce": None}},
        },
    }
