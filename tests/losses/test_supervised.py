import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from vectors import waves

from clzoo.errors import ClzooError
from clzoo.losses import info_nce, sup_con

LABELS = torch.tensor([0, 1, 0, 2])


def loop_written(z, labels, temperature):
    both, classes = F.normalize(z, dim=2).flatten(0, 1), labels.repeat(2)
    total = 0.0
    for i in range(len(both)):
        others = [a for a in range(len(both)) if a != i]
        denominator = torch.stack([both[i] @ both[a] / temperature for a in others]).logsumexp(0)
        positives = [a for a in others if classes[a] == classes[i]]
        total += float(sum(denominator - both[i] @ both[p] / temperature for p in positives)) / len(positives)
    return total / len(both)


def test_equals_a_reference_written_in_loops():
    assert sup_con(waves([0, 1]), LABELS, 0.1).item() == pytest.approx(loop_written(waves([0, 1]), LABELS, 0.1))


def test_with_every_image_its_own_class_it_is_info_nce():
    z = waves([0, 1])
    assert sup_con(z, torch.arange(4), 0.3).item() == pytest.approx(info_nce(z, 0.3).item(), abs=1e-12)


def test_gradient_is_that_of_the_value():
    assert gradcheck(lambda z: sup_con(z, LABELS, 0.3), waves([0, 1]).requires_grad_())


def test_labels_of_another_length_are_refused():
    with pytest.raises(ClzooError, match=r"\(4,\), found \(8,\)"):
        sup_con(waves([0, 1]), LABELS.repeat(2), 0.1)
