"""DoCo's discriminator: the published one at 64 x 64, smaller ones for smaller latents."""

from __future__ import annotations

import pytest
import torch

from mu_vision.unlearn.diffusion.patchgan import PatchGAN, blocks_for


def test_the_discriminator_is_the_published_one_at_64():
    network = PatchGAN(4, 64, 64)
    assert sum(p.numel() for p in network.parameters()) == 2_767_553
    for side, out in ((64, 3), (96, 5), (128, 7)):
        assert PatchGAN(4, side, side)(torch.zeros(2, 4, side, side)).shape == (2, 1, out, out)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512, 1]


@pytest.mark.parametrize(
    ("side", "blocks"), [(4, 1), (8, 1), (16, 2), (24, 2), (32, 3), (48, 3), (64, 4), (256, 4)]
)
def test_small_latents_get_fewer_blocks_and_a_map_that_batchnorm_can_read(side, blocks):
    assert blocks_for(side, 2 * side) == blocks
    network = PatchGAN(4, side, side)
    for rows in (1, 3):
        out = network(torch.randn(rows, 4, side, side))
        assert min(out.shape[2:]) >= 1 and torch.isfinite(out).all()
    shapes = []
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, x: shapes.append(min(x[0].shape[2:])))
    network(torch.randn(1, 4, side, side))
    assert all(size > 1 for size in shapes)
