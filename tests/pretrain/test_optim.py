import shlex
from itertools import pairwise

import pytest
import torch
from torch import nn

from clzoo.pretrain.optim import create_optimizer, learning_rate_share, load_optimizer, warning_of_curve
from clzoo.pretrain.recipe import Schedule
from clzoo.pretrain.recipe_files import find_recipe, load_recipe, recipe_names


def test_cosine_with_warmup_rises_linearly_and_falls_to_zero():
    schedule = Schedule(epochs=10, batch_size=2, warmup_epochs=2)
    shares = [learning_rate_share(schedule, step, 10) for step in range(100)]
    assert shares[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert shares[60] == pytest.approx(0.5)
    assert shares[99] < 0.001
    assert all(a >= b for a, b in pairwise(shares[20:]))


@pytest.mark.parametrize(("warmup_epochs", "per_epoch"), [(0.1, 3), (0.5, 1), (0.01, 10)])
def test_a_warm_up_of_less_than_a_step_is_none(warmup_epochs, per_epoch):
    schedule = Schedule(epochs=4, batch_size=2, warmup_epochs=warmup_epochs)
    shares = [learning_rate_share(schedule, step, per_epoch) for step in range(4 * per_epoch)]
    assert max(shares) == shares[0] == 1


def test_the_last_step_of_a_warm_up_that_ends_within_one_has_the_full_rate_and_no_more():
    schedule = Schedule(epochs=4, batch_size=2, warmup_epochs=0.5)
    shares = [learning_rate_share(schedule, step, 5) for step in range(20)]
    assert shares[:3] == pytest.approx([1 / 2.5, 2 / 2.5, 1])
    assert max(shares) <= 1


def test_a_nearer_end_runs_through_the_rest_of_the_curve_and_changes_nothing_before_it():
    planned = Schedule(epochs=10, batch_size=2, warmup_epochs=2)
    once = planned.model_copy(update={"shortened": [(60, 70)]})
    twice = planned.model_copy(update={"shortened": [(60, 70), (66, 68)]})
    assert [schedule.total_steps(10) for schedule in (planned, once, twice)] == [100, 70, 68]
    curve = [learning_rate_share(planned, step, 10) for step in range(100)]
    for schedule, decided in ((once, 60), (twice, 60)):
        assert [learning_rate_share(schedule, step, 10) for step in range(decided + 1)] == curve[: decided + 1]
    assert [learning_rate_share(once, step, 10) for step in range(60, 70)] == pytest.approx(curve[60::4])
    assert once.position(66, 10) == twice.position(66, 10) == 84
    assert twice.position(67, 10) == 92
    assert (once.position(70, 10), twice.position(68, 10)) == (100, 100)


def test_a_run_has_a_multiple_of_the_steps_whose_gradients_are_averaged():
    schedule = Schedule(epochs=1.5, batch_size=2, accumulate=4)
    assert [schedule.total_steps(per_epoch) for per_epoch in (8, 9, 10)] == [12, 12, 12]
    assert learning_rate_share(schedule, 11, 9) == pytest.approx(learning_rate_share(schedule, 11, 8))


@pytest.mark.parametrize("pairs", [[[5, 5]], [[0, 4]], [[6, 9], [7, 10]], [[6, 9], [5, 8]]])
def test_ends_that_make_no_sense_are_refused(pairs):
    with pytest.raises(ValueError, match=r"later end|must grow"):
        Schedule(epochs=10, batch_size=2, shortened=pairs)


def test_steps_divide_by_ten_at_each_milestone():
    schedule = Schedule(epochs=200, batch_size=2, decay="steps", milestones=[155, 170, 185])
    shares = [learning_rate_share(schedule, epoch * 7, 7) for epoch in (0, 154, 155, 170, 185, 199)]
    assert shares == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001])


def test_a_recipe_that_is_shortened_below_its_warm_up_or_milestones_is_warned_of():
    for name in recipe_names():
        assert warning_of_curve(load_recipe(find_recipe(name)).schedule) is None, name
    warmed = load_recipe(find_recipe("simclr_cifar10"), ("schedule.epochs=10",)).schedule
    assert max(learning_rate_share(warmed, step, 97) for step in range(969)) < 1  # it has 10 epochs of warm-up
    assert "--set schedule.warmup_epochs=1" in warning_of_curve(warmed)
    cut = load_recipe(find_recipe("cacr_cifar10"), ("schedule.epochs=160",)).schedule
    assert "does not fall at 170, 185." in warning_of_curve(cut)
    assert "never falls" in warning_of_curve(cut.model_copy(update={"milestones": []}))
    typed = [word for word in shlex.split(warning_of_curve(cut).split("type: ")[1]) if word != "--set"]
    assert warning_of_curve(load_recipe(find_recipe("cacr_cifar10"), ("schedule.epochs=160", *typed)).schedule) is None


def test_milestones_of_a_cosine_are_warned_of():
    asked = load_recipe(find_recipe("simclr_cifar10"), ("schedule.milestones=[100]",)).schedule
    assert "schedule.milestones=[100] do nothing with schedule.decay=cosine" in warning_of_curve(asked)


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


@pytest.mark.parametrize("name", ["mocov2_cifar10", "hydra_cifar10", "hydra_moco_in1k"])  # SGD, Adam, AdamW
@pytest.mark.parametrize("fused_first", [False, True])
def test_a_checkpoint_goes_on_in_a_fused_optimiser_and_back(name, fused_first, monkeypatch):
    """On a CPU, which has the fused ones too; a checkpoint's steps and momenta are what counts, not how it was made."""
    recipe = load_recipe(find_recipe(name))

    def steps(network, optimizer, count):
        for step in range(count):
            for number, parameter in enumerate(network.parameters()):
                parameter.grad = torch.sin(parameter.detach() * (number + step + 1))
            optimizer.step()

    def made(fused):
        monkeypatch.setattr("clzoo.pretrain.optim.FUSED_ON", ("cpu",) if fused else ())
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30))
        return network, create_optimizer(network, recipe)

    whole, optimizer = made(False)
    steps(whole, optimizer, 3)
    first, optimizer = made(fused_first)
    steps(first, optimizer, 2)
    saved = optimizer.state_dict()
    second, optimizer = made(not fused_first)
    second.load_state_dict(first.state_dict())
    load_optimizer(optimizer, saved)
    assert all(bool(group["fused"]) is not fused_first for group in optimizer.param_groups)
    for number, parameter in enumerate(second.parameters()):
        parameter.grad = torch.sin(parameter.detach() * (number + 3))
    optimizer.step()
    for found, expected in zip(second.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_an_optimiser_is_fused_on_cuda_alone_and_lars_never(monkeypatch):
    network = nn.Linear(4, 4)
    sgd, lars = (load_recipe(find_recipe(name)) for name in ("mocov2_cifar10", "simclr_cifar10"))
    assert not any(group["fused"] for group in create_optimizer(network, sgd).param_groups)
    monkeypatch.setattr("clzoo.pretrain.optim.FUSED_ON", ("cpu",))
    assert all(group["fused"] for group in create_optimizer(network, sgd).param_groups)
    assert not any(group.get("fused") for group in create_optimizer(network, lars).param_groups)
