import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from vectors import waves

from clzoo.errors import ClzooError
from clzoo.losses import info_nce, info_nce_keys, info_nce_queue


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


def test_the_queue_form_is_a_softmax_over_the_own_key_and_the_queue():
    x = waves([0, 1, 2, 3])
    q, k, queue = F.normalize(x[0], dim=1), F.normalize(x[1], dim=1), F.normalize(x[2:].flatten(0, 1), dim=1)
    total = 0.0
    for i in range(4):
        logits = torch.stack([q[i] @ k[i], *(q[i] @ entry for entry in queue)]) / 0.2
        total -= float(logits.log_softmax(0)[0]) / 4
    assert info_nce_queue(x[0], x[1], x[2:].flatten(0, 1), 0.2).item() == pytest.approx(total, abs=1e-12)


def test_the_keys_form_follows_its_targets():
    x = waves([0, 1])
    permutation = torch.tensor([2, 0, 3, 1])
    direct = info_nce_keys(x[0], x[1], torch.arange(4), 0.2)
    shuffled = info_nce_keys(x[0], x[1][permutation], permutation.argsort(), 0.2)
    assert direct.item() == pytest.approx(shuffled.item(), abs=1e-12)


def test_gradients_of_the_momentum_forms_are_those_of_their_values():
    x = waves([0, 1, 2])
    q = x[0].clone().requires_grad_()
    assert gradcheck(lambda q: info_nce_queue(q, x[1], x[2], 0.3), q)
    assert gradcheck(lambda q: info_nce_keys(q, x[1], torch.arange(4), 0.3), q)
