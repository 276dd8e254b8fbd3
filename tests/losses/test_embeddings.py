"""What every loss does with its embeddings."""

import torch

from clzoo import losses


def test_a_loss_under_autocast_is_computed_in_float32():
    z = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    exact = losses.info_nce(z, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = losses.info_nce(z, 0.1)
        below = z[0] @ z[1].T
    assert below.dtype == torch.bfloat16  # so autocast was on
    assert coarse == exact


def test_every_public_loss_leaves_autocast():
    for name in losses.__all__:
        assert hasattr(getattr(losses, name), "__wrapped__"), f"{name} lacks @full_precision"
