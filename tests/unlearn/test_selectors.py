"""Golden lists: every tensor of the tiny pipelines, by its exact name, with its variants."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from diffusers import UNet2DConditionModel

from mu_vision.unlearn.diffusion.esd import ESD
from mu_vision.unlearn.diffusion.selectors import Variant, select
from mu_vision.unlearn.diffusion.uce import UCE

HERE = Path(__file__).parent


def golden(which: str) -> dict[str, list[str]]:
    lines = (HERE / f"golden_{which}.txt").read_text().split("\n")[:-1]
    return {name: variants.split(",") for name, variants in (line.split(" ") for line in lines)}


@pytest.mark.parametrize("which", ["sd", "sdxl"])
@pytest.mark.parametrize("variant", get_args(Variant))
def test_selected_names_are_the_golden_list(which, variant, request):
    model = request.getfixturevalue(which)
    listed = golden(which)
    assert list(model.named_parameters()) == list(listed)
    expected = [name for name, variants in listed.items() if variant in variants]
    assert select(model, variant) == expected
    assert ESD(variant=variant).trained(model) == expected


@pytest.mark.parametrize("which", ["sd", "sdxl"])
def test_uce_edits_keys_and_values_of_cross_attention(which, request):
    model = request.getfixturevalue(which)
    expected = [name for name, variants in golden(which).items() if "x-strict" in variants]
    assert UCE().trained(model) == expected


def test_stable_diffusion_1_has_32_keys_and_values():
    """Published: 16 layers of cross-attention, 19,169,280 parameters."""
    with torch.device("meta"):
        network = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    tensors = {f"unet.{name}": p for name, p in network.named_parameters()}
    names = select(SimpleNamespace(named_parameters=lambda: tensors, name="sd"), "x-strict")
    assert len(names) == 32
    assert sum(tensors[name].numel() for name in names) == 19_169_280
    assert {tensors[name].shape[1] for name in names} == {768}


def test_variants_of_the_paper_partition_the_unet(sd):
    unet = {name for name in sd.named_parameters() if name.startswith("unet.")}
    cross, rest = set(select(sd, "x")), set(select(sd, "u"))
    assert cross | rest == unet == set(select(sd, "full"))
    assert not cross & rest
    assert set(select(sd, "x-strict")) < cross
    assert set(select(sd, "noxattn")) < rest
    assert set(select(sd, "selfattn")) < rest
    assert not set(select(sd, "text")) & unet
