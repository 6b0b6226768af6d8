"""Four Gaussian clouds in the plane, and a network that was taught their exact noise prediction.

It has cross-attention with keys and values that train, as a real pipeline has. East is to be drawn as
west.
"""

from __future__ import annotations

from functools import cache

import points
import torch

from mu_vision.request import ConceptRequest

CLOUDS = {"east": (3.0, 0.0), "west": (-3.0, 0.0), "north": (0.0, 3.0), "south": (0.0, -3.0)}
CENTRES = torch.tensor(list(CLOUDS.values()))
EAST = ConceptRequest(
    kind="concept", name="east", prompts=("east",), anchor="west", keep=("north", "south")
)
PICTURES = {"pictures": 64, "sampler_steps": 30, "guidance": 1.0, "log_every": 1}


@cache
def original(seed: int = 0) -> points.PointModel:
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return points.trained(CLOUDS, 0.3, seed=seed, set_alpha_to_one=False, **schedule)


def shares(model) -> list[float]:
    """Shares of the points of east that are nearest to each cloud."""
    nearest = torch.cdist(points.draw(model, "east"), CENTRES).argmin(1)
    return [(nearest == cloud).float().mean().item() for cloud in range(4)]


def distance(model) -> float:
    """Mean distance of the points of east to the centre of west."""
    return (points.draw(model, "east") - CENTRES[1]).norm(dim=1).mean().item()


def drift(model, name: str, seed: int = 0) -> float:
    """How far an edit moved the points of a cloud, each from the same noise."""
    moved = points.draw(model, name) - points.draw(original(seed), name)
    return moved.norm(dim=1).mean().item()
