"""SalUn and Concept Ablation on the embedded model of labels: few steps, and what they may touch."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import mu_vision
from mu_vision.request import concept_request
from mu_vision.unlearn.diffusion.concept_ablation import ConceptAblation
from mu_vision.unlearn.diffusion.salun import SalUn, SalUnObjective

CAT = concept_request("object", "cat", anchor="boat", prompts=["cat"], keep=["tree", "house"])
FEW = {"steps": 2, "batch": 2, "pictures": 2, "sampler_steps": 2, "guidance": 1.0, "lr": 1e-3}


@cache
def original():
    return mu_vision.load_model("minicanvas/objects", "cpu")


def test_salun_leaves_weights_outside_its_mask_bit_for_bit(tmp_path):
    method = SalUn(**FEW, density=0.3, optimizer="adamw", weight_decay=0.1)
    objective = SalUnObjective(method, original(), (CAT,))
    objective.prepare(torch.device("cpu"))
    done = method.unlearn(original(), CAT)
    before, after = original().named_parameters(), done.model.named_parameters()
    total = sum(p.numel() for p in before.values())
    assert sum(int(mask.sum()) for mask in objective.saliency.values()) == int(0.3 * total)
    moved = 0
    for name, mask in objective.saliency.items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
        moved += int((after[name] != before[name])[mask].sum())
    assert moved > 0.2 * total
    reloaded(done.model, tmp_path)


@pytest.mark.parametrize("augment", ["auto", "off"])
def test_concept_ablation_forgets_a_class(augment, tmp_path):
    done = ConceptAblation(**FEW, variant="full", augment=augment).unlearn(original(), CAT)
    assert done.report["changed_tensors"] == done.report["selected_tensors"]
    if augment == "auto":
        reloaded(done.model, tmp_path)


def reloaded(model, folder) -> None:
    """What was saved is the model, and says the same."""
    again = mu_vision.load_model(model.save(folder / "erased"), "cpu")
    assert again.fingerprint() == model.fingerprint() != original().fingerprint()
    x = torch.zeros(1, *model.latent_shape)
    text = model.encode_prompt(["cat"])
    assert torch.equal(again.predict_noise(x, 400, text), model.predict_noise(x, 400, text))
