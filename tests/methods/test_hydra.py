import pytest
import torch
from tiny import tiny_batch, tiny_method

from clzoo.losses import hydra_pair
from clzoo.methods import Batch
from clzoo.methods.hydra import FeatureFilter, bernoulli_entropy, draw_partners

LABELS = torch.arange(64) % 10


def batch(step=0, seed=0):
    return Batch([torch.zeros(64, 1)], LABELS, seed=seed, step=step)


def test_gates_are_symmetric_in_the_pair():
    torch.manual_seed(0)
    gates = FeatureFilter(10, 32)
    a, b = torch.arange(10), torch.arange(10).roll(3)
    assert torch.equal(gates(a, b), gates(b, a))


def test_gates_at_the_start_are_half_open():
    torch.manual_seed(0)
    a, b = torch.randint(1000, (2, 1024))
    gates = FeatureFilter(1000, 256)(a, b)
    assert gates.mean().item() == pytest.approx(0.500, abs=0.01)
    assert gates.std().item() == pytest.approx(0.134, abs=0.01)
    assert gates.sum(dim=1).mean().item() == pytest.approx(128, abs=2)
    assert bernoulli_entropy(gates).item() == pytest.approx(0.656, abs=0.01)


def test_arbitrary_pairs_permute_the_labels_of_each_group():
    (partners,) = draw_partners(batch(), "arbitrary", 10, group=16)
    for start in range(0, 64, 16):
        assert partners[start : start + 16].sort().values.equal(LABELS[start : start + 16].sort().values)
    assert not partners.equal(LABELS)


def test_draws_follow_seed_and_step_and_nothing_else():
    draw = lambda **where: draw_partners(batch(**where), "arbitrary", 10, None)  # noqa: E731
    assert draw(step=3).equal(draw(step=3))
    assert not draw(step=3).equal(draw(step=4))
    assert not draw(step=3).equal(draw(step=3, seed=1))


def test_identical_pairs_are_the_labels_and_distinct_ones_never():
    assert draw_partners(batch(), "identical", 10, None)[0].equal(LABELS)
    distinct = torch.cat([draw_partners(batch(step=step), "distinct", 10, None) for step in range(50)])
    assert (distinct != LABELS).all()
    counts = torch.bincount(((distinct - LABELS) % 10).flatten(), minlength=10)[1:]
    assert counts.min() > 0.8 * counts.float().mean()  # uniform over the nine others


def test_an_images_copies_have_partners_of_their_own():
    labels = torch.randint(200, (64,), generator=torch.Generator().manual_seed(0))  # 4 rows each: 256 in all
    pairs = []
    for step in range(20):
        drawn = draw_partners(Batch([torch.zeros(64, 1)], labels, step=step), "arbitrary", 200, None, copies=4)
        assert drawn.flatten().sort().values.equal(labels.repeat(4).sort().values)  # one permutation of all rows
        pairs.append(len(torch.stack([labels.expand(4, -1), drawn]).flatten(1).sort(dim=0).values.unique(dim=1).T))
    assert min(pairs) > 200  # unordered pairs of classes a step; one partner for all copies of an image gives about 60


def test_the_loss_of_a_single_view_pairs_every_row_on_its_own():
    method, data = tiny_method("hydra_single_view", gate=False), tiny_batch("hydra_single_view")
    partners = draw_partners(data, "arbitrary", 3, 4, copies=3).flatten()
    z = method.projector(method.backbone(torch.cat(data.views)))
    labels, rows = data.labels.repeat(3), torch.arange(len(z))
    expected = hydra_pair(z, z, torch.ones_like(z), labels, partners, labels, 0.1, own_key=rows)
    assert method(data).item() == pytest.approx(expected.item(), rel=1e-6)
    assert not partners.equal(partners[:8].repeat(3))


def test_the_loss_is_the_mean_of_both_directions_with_the_same_partners():
    method = tiny_method("hydra", gate=False, gamma=0.0)
    data = tiny_batch("hydra")
    (partners,) = draw_partners(data, "arbitrary", 3, 4)
    z1, z2 = (method.projector(method.backbone(view)) for view in data.views)  # BatchNorm statistics of its own each
    ones = torch.ones_like(z1)
    expected = sum(hydra_pair(a, b, ones, data.labels, partners, data.labels, 0.1) for a, b in ((z1, z2), (z2, z1))) / 2
    assert method(data).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_entropy_penalty_is_added_with_its_weight():
    plain, penalised = tiny_method("hydra", gamma=0.0), tiny_method("hydra", gamma=1.0)
    data = tiny_batch("hydra")
    classes = torch.arange(3)
    entropy = bernoulli_entropy(tiny_method("hydra").pair_loss.filter(classes, classes))
    assert penalised(data).item() - plain(data).item() == pytest.approx(entropy.item(), abs=1e-5)


def test_the_entropy_of_gates_is_that_of_coins_and_is_computed_where_autocast_of_a_gpu_is_on():
    gates = torch.tensor([0.0, 0.25, 0.5, 1.0], requires_grad=True)
    with torch._C._IncludeDispatchKeyGuard(torch._C.DispatchKey.AutocastCUDA):  # as if these tensors lay on a GPU
        entropy = bernoulli_entropy(gates)
    assert entropy.item() == pytest.approx((0.5623351 + 0.6931472) / 4, abs=1e-5)
    entropy.backward()
    assert gates.grad.tolist() == pytest.approx([0, 1.0986123 / 4, 0, 0], abs=1e-5)


def test_without_a_gate_there_are_no_gate_weights():
    assert not any("filter" in name for name in tiny_method("hydra", gate=False).state_dict())
