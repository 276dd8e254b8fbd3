import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from vectors import waves

from clzoo.losses import hcl, info_nce


def loop_written(z, temperature, tau_plus, beta):
    n = z.shape[1]
    both = F.normalize(z, dim=2).flatten(0, 1)
    count, total = 2 * n - 2, 0.0
    for i in range(2 * n):
        own = math.exp(float(both[i] @ both[(i + n) % (2 * n)]) / temperature)
        s = [float(both[i] @ both[j]) / temperature for j in range(2 * n) if j not in (i, (i + n) % (2 * n))]
        weights = [math.exp(beta * value) for value in s]
        pulled = count * sum(w * math.exp(v) for w, v in zip(weights, s, strict=True)) / sum(weights)
        mass = max((pulled - tau_plus * count * own) / (1 - tau_plus), count * math.exp(-1 / temperature))
        total -= math.log(own / (own + mass)) / (2 * n)
    return total


@pytest.mark.parametrize(("tau_plus", "beta"), [(0.1, 1.0), (0.1, 0.0), (0.0, 2.0), (0.6, 0.5)])
def test_equals_a_reference_written_in_loops(tau_plus, beta):
    z = waves([0, 1])
    value = hcl(z, temperature=0.5, tau_plus=tau_plus, beta=beta).item()
    assert value == pytest.approx(loop_written(z, 0.5, tau_plus, beta), abs=1e-12)


def test_without_prior_and_concentration_it_is_info_nce():
    z = waves([0, 1])
    assert hcl(z, temperature=0.3, tau_plus=0, beta=0).item() == pytest.approx(info_nce(z, 0.3).item(), abs=1e-12)


def test_a_low_temperature_stays_finite_in_float32():
    z = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = hcl(z, temperature=0.01, tau_plus=0.1, beta=1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_gradient_flows_through_the_weights():
    assert gradcheck(lambda z: hcl(z, temperature=0.5, tau_plus=0.1, beta=1.0), waves([0, 1]).requires_grad_())
