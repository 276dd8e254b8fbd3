import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from vectors import waves

from clzoo.errors import ClzooError
from clzoo.losses import info_nce


def loop_written(z, temperature):
    """One embedding at a time: log-sum-exp over all others, minus the other view's similarity."""
    n = z.shape[1]
    both = F.normalize(z, dim=2).reshape(2 * n, -1)
    total = 0.0
    for i in range(2 * n):
        others = [float(both[i] @ both[j]) / temperature for j in range(2 * n) if j != i]
        positive = float(both[i] @ both[(i + n) % (2 * n)]) / temperature
        total += float(torch.tensor(others, dtype=torch.float64).logsumexp(0)) - positive
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("shape", [(2, 2, 3), (2, 9, 16)])
def test_equals_a_reference_written_in_loops(shape, temperature):
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert info_nce(z, temperature).item() == pytest.approx(loop_written(z, temperature), abs=1e-12)


def test_gradient_is_that_of_the_value():
    assert gradcheck(lambda z: info_nce(z, 0.3), waves([0, 1]).requires_grad_())


def test_equal_embeddings_give_the_logarithm_of_their_number():
    collapsed = torch.ones(2, 8, 4, dtype=torch.float64)
    assert info_nce(collapsed, 0.1).item() == pytest.approx(torch.tensor(15.0).log().item(), abs=1e-6)


def test_half_precision_is_raised_to_float32_before_the_product():
    z = waves([0, 1])
    assert info_nce(z.half(), 0.05).item() == pytest.approx(info_nce(z, 0.05).item(), rel=2e-2)
    assert info_nce(z.half(), 0.05).dtype == torch.float32


def test_more_than_two_views_are_refused():
    with pytest.raises(ClzooError, match=r"\(2, N >= 2, D\), found \(3, 4, 3\)"):
        info_nce(waves([0, 1, 2]), 0.5)
