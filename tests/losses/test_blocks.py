"""Losses on large batches, worked through in blocks of rows."""

import subprocess
import sys

import pytest
import torch

import clzoo.losses as losses
from clzoo.losses import blocks

G = torch.Generator().manual_seed(0)
Z = torch.randn(3, 12, 6, dtype=torch.float64, generator=G)
QUEUE = torch.randn(20, 6, dtype=torch.float64, generator=G)
LABELS = torch.arange(12) % 3
TARGET = torch.arange(12)

CALLS = {
    "info_nce": lambda z: losses.info_nce(z[:2], 0.3),
    "info_nce_queue": lambda z: losses.info_nce_queue(z[0], Z[1], QUEUE, 0.3),
    "info_nce_keys": lambda z: losses.info_nce_keys(z[0], Z[1], TARGET, 0.3),
    "cacr": lambda z: losses.cacr(z, t_pos=1, t_neg=2),
    "cacr_rbf": lambda z: losses.cacr(z, t_pos=1, t_neg=2, cost="rbf"),
    "cacr_queue": lambda z: losses.cacr_queue(z, Z, QUEUE, t_pos=1, t_neg=2, detach_weights=False),
    "cacr_momentum": lambda z: losses.cacr_momentum(z[:2], Z[2], TARGET, 0.3),
    "sup_con": lambda z: losses.sup_con(z[:2], LABELS, 0.3),
    "align_uniform": lambda z: losses.align_uniform(z[:2]),
    "hcl": lambda z: losses.hcl(z[:2], temperature=0.5, tau_plus=0.1, beta=1.0),
    "hydra_pair": lambda z: losses.hydra_pair(z[0], z[1], z[2].sigmoid(), LABELS, LABELS.roll(1), LABELS, 0.2),
    "reco_global": lambda z: losses.reco_global(z[0], Z[1], QUEUE, 0.1, 0.04),
    "potential_samples": lambda z: losses.potential_samples(z[0], Z[1], QUEUE),
    "potential_samples_weak": lambda z: losses.potential_samples(z[0], Z[1], QUEUE, weak=Z[2]),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_blocks_give_the_value_and_the_gradient_of_the_whole(name, monkeypatch):
    def value_and_gradient():
        z = Z.clone().requires_grad_()
        loss = CALLS[name](z)
        return loss.item(), torch.autograd.grad(loss, z)[0]

    whole, whole_gradient = value_and_gradient()
    monkeypatch.setattr(blocks, "MEMORY_BUDGET", 8 * 5 * 24)  # five rows at a time, or fewer
    blocked, blocked_gradient = value_and_gradient()
    assert blocked == pytest.approx(whole, abs=1e-12)
    assert torch.allclose(blocked_gradient, whole_gradient, atol=1e-12)


def test_every_public_loss_is_in_this_file():
    assert {name.removesuffix("_rbf").removesuffix("_weak") for name in CALLS} == set(losses.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["info_nce(z, 0.5)", "hcl(z, temperature=0.5, tau_plus=0.1, beta=1.0)"])
def test_two_views_of_16384_images_fit_into_4_gib(call):
    code = f"""
import resource, torch
from clzoo.losses import *
z = torch.randn(2, 16384, 128, requires_grad=True)
{call}.backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    peak = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert float(peak) < 4, f"peak {peak} GiB"
