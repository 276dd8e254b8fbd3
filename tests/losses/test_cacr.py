import math

import pytest
import torch
from torch.autograd import gradcheck
from vectors import waves

from clzoo.errors import ClzooError
from clzoo.losses import cacr, cacr_momentum, cacr_queue, info_nce_keys


@pytest.mark.parametrize(
    ("views", "t_neg", "attraction", "repulsion", "gradient_norm"),
    [
        ([0, 1, 2], 0.9, 0.6568288586, -0.9610775881, 0.24735893),
        ([0, 1], 2.0, 0.2831804436, -0.3569399821, 0.27784476),
    ],
)
def test_values_and_gradient_are_the_recorded_ones(views, t_neg, attraction, repulsion, gradient_norm):
    z = waves(views).requires_grad_()
    assert cacr(z, t_pos=1, t_neg=t_neg, beta=0).item() == pytest.approx(attraction, abs=1e-9)
    assert cacr(z, t_pos=1, t_neg=t_neg, alpha=0).item() == pytest.approx(repulsion, abs=1e-9)
    cacr(z, t_pos=1, t_neg=t_neg).backward()
    assert z.grad.norm().item() == pytest.approx(gradient_norm, abs=1e-7)


def test_uniform_weights_give_the_recorded_ablation():
    z = waves([0, 1, 2])
    assert cacr(z, t_pos=0, t_neg=0, beta=0).item() == pytest.approx(0.5571883143, abs=1e-9)
    assert cacr(z, t_pos=0, t_neg=0, alpha=0).item() == pytest.approx(-2.4720110308, abs=1e-9)


def test_rbf_cost_gives_the_recorded_value():
    assert cacr(waves([0, 1, 2]), t_pos=1, t_neg=2, alpha=0, cost="rbf", t=2).item() == pytest.approx(
        -0.9971457574, abs=1e-9
    )


def loop_written(z, t_pos, t_neg, alpha, beta, symmetric):
    """The same sums, one pair at a time."""
    v_count, n, _ = z.shape
    z = z / z.norm(dim=2, keepdim=True)
    distance = [[[[float((z[v, i] - z[u, j]).square().sum()) for j in range(n)] for i in range(n)] for u in range(v_count)] for v in range(v_count)]  # fmt: skip # noqa: E501
    attraction = 0.0
    for v in range(v_count):
        for i in range(n):
            others = [distance[v][u][i][i] for u in range(v_count) if u != v]
            weights = [math.exp(t_pos * d) for d in others]
            attraction += sum(w * d for w, d in zip(weights, others, strict=True)) / sum(weights) / (v_count * n)
    pairs = [(v, u) for v in range(v_count) for u in range(v_count) if v < u or (symmetric and v != u)]
    repulsion = 0.0
    for v, u in pairs:
        for i in range(n):
            others = [distance[v][u][i][j] for j in range(n) if j != i]
            weights = [math.exp(-t_neg * d) for d in others]
            repulsion -= sum(w * d for w, d in zip(weights, others, strict=True)) / sum(weights) / (len(pairs) * n)
    return alpha * attraction + beta * repulsion


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5), (5, 7, 4)])
def test_equals_a_reference_written_in_loops(shape, symmetric):
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    settings = {"t_pos": 1.3, "t_neg": 0.7, "alpha": 0.8, "beta": 1.7, "symmetric": symmetric}
    assert cacr(z, **settings).item() == pytest.approx(loop_written(z, **settings), abs=1e-12)


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_gradient_is_that_of_the_value_also_through_the_weights(cost):
    z = torch.randn(3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert gradcheck(lambda z: cacr(z, t_pos=1.0, t_neg=2.0, cost=cost), z)


def test_detached_weights_change_the_gradient_but_not_the_value():
    z = waves([0, 1, 2]).requires_grad_()
    flowing, detached = (cacr(z, t_pos=1, t_neg=2, detach_weights=detach) for detach in (False, True))
    assert flowing.item() == detached.item()
    (flowing_gradient,) = torch.autograd.grad(flowing, z, retain_graph=True)
    (detached_gradient,) = torch.autograd.grad(detached, z)
    assert not torch.allclose(flowing_gradient, detached_gradient)


def test_with_two_views_the_positive_temperature_has_no_effect():
    z = waves([0, 1])
    assert cacr(z, t_pos=0.1, t_neg=2).item() == pytest.approx(cacr(z, t_pos=10, t_neg=2).item(), abs=1e-12)


def test_random_embeddings_stay_within_the_bounds_of_the_distance():
    z = torch.randn(5, 64, 32, generator=torch.Generator().manual_seed(3))
    assert cacr(z, t_pos=1, t_neg=0.9, beta=0).item() == pytest.approx(2.0, abs=0.3)
    assert cacr(z, t_pos=1, t_neg=0.9, alpha=0).item() == pytest.approx(-2.0, abs=0.3)


def test_half_precision_is_raised_to_float32():
    assert cacr(waves([0, 1]).bfloat16(), t_pos=1, t_neg=2).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 1, 3), (4, 3)])
def test_other_shapes_are_refused_and_named(shape):
    with pytest.raises(ClzooError, match=r"found \("):
        cacr(torch.ones(shape), t_pos=1, t_neg=1)


@pytest.mark.parametrize(("detach", "gradient_norm"), [(True, 0.4150249962), (False, 0.3881908307)])
def test_the_queue_form_has_the_recorded_values_and_gradient(detach, gradient_norm):
    x = waves(list(range(7)))
    q = x[:3].clone().requires_grad_()
    settings = {"t_pos": 1, "t_neg": 2, "detach_weights": detach}
    assert cacr_queue(q, x[3:6], x[6], beta=0, **settings).item() == pytest.approx(2.5974680783, abs=1e-9)
    assert cacr_queue(q, x[3:6], x[6], alpha=0, **settings).item() == pytest.approx(-0.1548491055, abs=1e-9)
    cacr_queue(q, x[3:6], x[6], **settings).backward()
    assert q.grad.norm().item() == pytest.approx(gradient_norm, abs=1e-7)


def test_the_queue_form_has_the_gradient_of_its_value_where_the_weights_flow():
    x = waves(list(range(7)))
    # alpha=0: the weights of the attraction never carry gradient, so its derivative is not that of its value.
    assert gradcheck(
        lambda q: cacr_queue(q, x[3:6], x[6], t_pos=1, t_neg=2, alpha=0, detach_weights=False),
        x[:3].clone().requires_grad_(),
    )


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 1.9684136344), (0.2, 0.3429236314)])
def test_the_momentum_form_has_the_recorded_values(temperature, value):
    x = waves([0, 1, 2])
    assert cacr_momentum(x[:2], x[2], torch.arange(4), temperature).item() == pytest.approx(value, abs=1e-9)


def test_the_momentum_form_of_one_query_view_is_moco_v3s_term():
    x = waves([0, 1])
    target = torch.tensor([2, 0, 3, 1])
    expected = 2 * 0.2 * info_nce_keys(x[0], x[1], target, 0.2)
    assert cacr_momentum(x[:1], x[1], target, 0.2).item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_momentum_forms_cross_entropy_is_a_distance_plus_a_log_sum():
    q, k = (x / x.norm(dim=1, keepdim=True) for x in waves([0, 1]))
    temperature = 0.7
    distance = torch.cdist(q, k).square()
    expected = distance.diagonal() + 2 * temperature * (-distance / (2 * temperature)).logsumexp(dim=1)
    assert cacr_momentum(q[None], k, torch.arange(4), temperature).item() == pytest.approx(expected.mean().item())
