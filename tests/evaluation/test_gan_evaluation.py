"""The numbers of one GAN beside the original and the retrained one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gans import tiny_gan

from mu_vision.data.labelled import Labelled
from mu_vision.errors import RunError
from mu_vision.evaluation.gan import GanBench
from mu_vision.evaluation.judges import load_clip
from mu_vision.evaluation.latent_search import LatentSearch
from mu_vision.evaluation.oracles import Scorer
from mu_vision.models.gan import to_uint8

CLASSES = ("left", "right", "even")


def sides(x: torch.Tensor) -> torch.Tensor:
    left, right = (half.mean((1, 2, 3)) for half in x.chunk(2, dim=3))
    gap = 80 * (left - right)
    return torch.stack([gap, -gap, torch.ones_like(gap)], 1)


@pytest.fixture(scope="module")
def bench() -> GanBench:
    scorer = Scorer("sides", CLASSES, "sides", sides, 1, None)
    draw = torch.Generator().manual_seed(0)
    real = Labelled(torch.rand(90, 1, 8, 8, generator=draw), torch.arange(90) % 3, CLASSES)
    search = LatentSearch(starts=8, budgets=(0, 3))
    return GanBench(scorer, scorer, "left", load_clip("minicanvas/clip"), real, 200, search)


@pytest.fixture(scope="module")
def original(bench):
    return bench.look(tiny_gan())


def test_the_original_beside_itself(bench, original):
    found = bench.measure(original, original)
    assert found["pul"] == 0 and found["moved"] == 0 and "ret_fid" not in found
    assert found["negatives_hits"] == int(original.shows.sum()) and found["negatives_total"] == 200
    low, high = found["negatives_interval"]
    assert low < found["negatives"] < high
    assert sum(found["counts"]) == 200 and 0 < found["balance"] <= 1
    assert found["fid"] != found["fid_all"] and found["path"] > 0
    assert found["search"][-1]["value"] >= found["search"][0]["value"]
    assert json.loads(json.dumps(found)) == found


def test_the_retrained_gan_is_near_itself_on_other_latents_and_far_from_another(bench, original):
    again = bench.look(tiny_gan(), "report-other")
    near = bench.measure(original, original, again)
    far = bench.measure(bench.look(tiny_gan(seed=1)), original, again)
    itself = bench.measure(again, original, again)
    assert itself["ret_fid"] < 1e-6
    assert near["ret_fid"] < far["ret_fid"] / 3


def test_real_pictures_without_the_target(bench):
    kept, every = bench.real_features
    assert len(kept) == 60 and len(every) == 90
    assert np.isin(kept, every).all()


def test_a_target_that_the_original_never_draws(bench, original):
    from dataclasses import replace

    nothing = replace(original, shows=np.zeros(200, bool))
    with pytest.raises(RunError, match="None of the original's 200 pictures shows the target"):
        bench.measure(original, nothing)


def test_pictures_of_some_latents(bench):
    gan = tiny_gan()
    shown = bench.show(gan, [3, 1])
    whole = to_uint8(bench.pictures(gan))
    assert np.array_equal(shown, whole[[3, 1]])
