from itertools import pairwise

import pytest
import torch
from torch import nn

from clzoo.pretrain.optim import create_optimizer, learning_rate_share
from clzoo.pretrain.recipe import Schedule
from clzoo.pretrain.recipe_files import find_recipe, load_recipe


def test_cosine_with_warmup_rises_linearly_and_falls_to_zero():
    schedule = Schedule(epochs=10, batch_size=2, warmup_epochs=2)
    shares = [learning_rate_share(schedule, step, 10) for step in range(100)]
    assert shares[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert shares[60] == pytest.approx(0.5)
    assert shares[99] < 0.001
    assert all(a >= b for a, b in pairwise(shares[20:]))


def test_steps_divide_by_ten_at_each_milestone():
    schedule = Schedule(epochs=200, batch_size=2, decay="steps", milestones=[155, 170, 185])
    shares = [learning_rate_share(schedule, epoch * 7, 7) for epoch in (0, 154, 155, 170, 185, 199)]
    assert shares == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(("name", "decayed_vectors"), [("cacr_cifar10", True), ("simclr_cifar10", False)])
def test_norms_and_biases_are_decayed_only_where_the_recipe_says_so(name, decayed_vectors):
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = create_optimizer(network, load_recipe(find_recipe(name)))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(network[0].weight)] == 1e-4
    assert (decay[id(network[0].bias)] == 1e-4) == decayed_vectors
    assert (decay[id(network[1].weight)] == 1e-4) == decayed_vectors


def test_sgd_takes_the_step_of_plain_momentum():
    recipe = load_recipe(find_recipe("cacr_cifar10"), ("optimizer.weight_decay=0.0",))
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = create_optimizer(nn.ParameterList([weight]), recipe)
    for _ in range(2):
        weight.grad = torch.tensor([1.0])
        optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.06 - 0.06 * 1.9)
