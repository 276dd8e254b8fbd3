import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from clzoo.losses import hydra_pair, info_nce_keys

G = torch.Generator().manual_seed(0)
Q, K = torch.randn(6, 5, dtype=torch.float64, generator=G), torch.randn(9, 5, dtype=torch.float64, generator=G)
GATES = torch.rand(6, 5, dtype=torch.float64, generator=G)
LABELS = torch.tensor([0, 0, 1, 1, 2, 3])
PARTNERS = torch.tensor([1, 0, 0, 2, 3, 1])
KEY_LABELS = torch.tensor([0, 0, 1, 1, 2, 3, 3, 2, 0])


def loop_written(own_key=None):
    total, pairs = 0.0, 0
    for i in range(6):
        s = [float(F.cosine_similarity(GATES[i] * Q[i], GATES[i] * K[j], dim=0)) / 0.1 for j in range(9)]
        keys = [j for j in range(9) if own_key is None or own_key[i] != j]
        positives = [j for j in keys if KEY_LABELS[j] == PARTNERS[i]]
        negatives = [s[j] for j in keys if KEY_LABELS[j] not in (PARTNERS[i], LABELS[i])]
        repulsion = math.log(sum(math.exp(value) for value in negatives))
        total += sum(math.log1p(math.exp(repulsion - s[j])) for j in positives)
        pairs += len(positives)
    return total / pairs


def test_equals_a_reference_written_in_loops():
    value = hydra_pair(Q, K, GATES, LABELS, PARTNERS, KEY_LABELS, 0.1).item()
    assert value == pytest.approx(loop_written(), abs=1e-9)


def test_the_anchors_own_key_is_left_out_where_asked():
    own = torch.tensor([2, 1, 0, 4, 6, 3])
    value = hydra_pair(Q, K, GATES, LABELS, PARTNERS, KEY_LABELS, 0.1, own_key=own).item()
    assert value == pytest.approx(loop_written(own), abs=1e-9)


def test_scaling_a_gate_changes_nothing():
    scaled = GATES * torch.linspace(0.1, 5, 6, dtype=torch.float64)[:, None]
    before, after = (hydra_pair(Q, K, g, LABELS, PARTNERS, KEY_LABELS, 0.1).item() for g in (GATES, scaled))
    assert before == pytest.approx(after, abs=1e-12)


def test_an_open_gate_with_one_positive_and_nothing_excluded_is_info_nce():
    classes = torch.arange(6)
    value = hydra_pair(Q, K[:6], torch.ones_like(Q), classes, classes, classes, 0.2)
    assert value.item() == pytest.approx(info_nce_keys(Q, K[:6], classes, 0.2).item(), abs=1e-12)


@pytest.mark.parametrize(("classes", "batch", "value"), [(10, 256, 5.33), (100, 512, 6.22)])
def test_total_collapse_gives_the_recorded_mean(classes, batch, value):
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(batch) % classes
    values = []
    for _ in range(20):
        partners = labels[torch.randperm(batch, generator=g)]
        same = torch.ones(batch, 4)
        values.append(hydra_pair(same, same, same, labels, partners, labels, 0.1).item())
    assert sum(values) / 20 == pytest.approx(value, abs=0.02)


def test_an_anchor_without_negatives_and_a_batch_without_positives_give_finite_gradients():
    q = Q.clone().requires_grad_()
    two_classes = torch.tensor([0, 1, 0, 1, 0, 1])
    hydra_pair(q, K[:6], GATES, two_classes, 1 - two_classes, two_classes, 0.1).backward()
    assert torch.isfinite(q.grad).all()
    nothing = hydra_pair(q, K, GATES, LABELS, torch.full((6,), 7), KEY_LABELS, 0.1)
    assert nothing.item() == 0


def test_gradient_is_that_of_the_value_for_anchors_keys_and_gates():
    inputs = [x.clone().requires_grad_() for x in (Q, K, GATES)]
    assert gradcheck(lambda q, k, g: hydra_pair(q, k, g, LABELS, PARTNERS, KEY_LABELS, 0.5), inputs)
