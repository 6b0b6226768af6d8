"""What must be the same before and after: tensors of a model, and the state of the process."""

from __future__ import annotations

import os
import random

import numpy as np
import torch


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters().items()}


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def surroundings() -> dict[str, object]:
    backends = torch.backends
    return {
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "cudnn": (backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.enabled),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }
