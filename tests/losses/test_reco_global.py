import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from vectors import waves

from clzoo.losses import reco_global

Q, W, QUEUE = waves([0])[0], waves([1])[0], waves([2, 3]).flatten(0, 1)


def test_is_the_cross_entropy_between_two_relations_to_the_queue():
    total = 0.0
    for q, w in zip(F.normalize(Q, dim=1), F.normalize(W, dim=1), strict=True):
        bins = F.normalize(QUEUE, dim=1)
        teacher = torch.stack([w @ entry / 0.04 for entry in bins]).softmax(0)
        student = torch.stack([q @ entry / 0.1 for entry in bins]).log_softmax(0)
        total -= float((teacher * student).sum()) / len(Q)
    assert reco_global(Q, W, QUEUE, 0.1, 0.04).item() == pytest.approx(total, abs=1e-12)


def test_no_gradient_reaches_the_teacher():
    q, w = Q.clone().requires_grad_(), W.clone().requires_grad_()
    reco_global(q, w, QUEUE, 0.1, 0.04).backward()
    assert w.grad is None
    assert q.grad.abs().sum() > 0


def test_gradient_of_the_student_is_that_of_the_value():
    assert gradcheck(lambda q: reco_global(q, W, QUEUE, 0.3, 0.1), Q.clone().requires_grad_())
