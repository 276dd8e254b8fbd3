import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from vectors import waves

from clzoo.losses import align_uniform


def loop_written(z, alpha, t):
    x, y = F.normalize(z, dim=2)
    alignment = sum(float((a - b).norm() ** alpha) for a, b in zip(x, y, strict=True)) / len(x)
    pairs = list(itertools.combinations(range(len(x)), 2))
    uniformity = [math.log(sum(math.exp(-t * float((v[i] - v[j]).square().sum())) for i, j in pairs) / len(pairs)) for v in (x, y)]  # fmt: skip # noqa: E501
    return alignment + sum(uniformity) / 2


@pytest.mark.parametrize(("alpha", "t"), [(2.0, 2.0), (1.0, 3.0)])
def test_equals_a_reference_written_in_loops(alpha, t):
    z = waves([0, 1])
    assert align_uniform(z, alpha=alpha, t=t).item() == pytest.approx(loop_written(z, alpha, t), abs=1e-12)


def test_collapse_is_perfectly_aligned_and_not_uniform():
    collapsed = torch.ones(2, 5, 3, dtype=torch.float64)
    assert align_uniform(collapsed, w_uniform=0).item() == 0
    assert align_uniform(collapsed, w_align=0).item() == pytest.approx(0, abs=1e-12)
    assert align_uniform(waves([0, 1]), w_align=0).item() < -0.5


def test_gradient_is_that_of_the_value():
    assert gradcheck(align_uniform, waves([0, 1]).requires_grad_())
