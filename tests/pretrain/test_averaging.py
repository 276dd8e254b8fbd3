"""A run that goes back towards the encoder that it started from."""

from __future__ import annotations

import pytest
import torch
from small_recipes import small_recipe
from small_runs import same, weights_of

from clzoo.errors import ClzooError
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe import Recipe
from clzoo.zoo import load


@pytest.fixture(scope="module")
def start(tmp_path_factory, pictures):
    """An encoder that something was trained with."""
    out = tmp_path_factory.mktemp("start") / "run"
    assert pretrain(small_recipe("simclr_cifar10", "seed=5"), pictures, out, device="cpu")
    return out


def recipe(start, *overrides) -> Recipe:
    encoder = load(start, "cpu")
    begun = [f"start.name={start}", f"start.weights_sha256={encoder.weights_sha256}", "start.license=mit"]
    return small_recipe("simclr_cifar10", "start={}", *begun, "schedule.epochs=2", *overrides)


def test_the_end_lies_between_the_start_and_what_was_trained(start, pictures, tmp_path):
    assert pretrain(recipe(start), pictures, tmp_path / "all", device="cpu")
    assert pretrain(recipe(start, "schedule.towards_start=0.25"), pictures, tmp_path / "part", device="cpu")
    begun = dict(load(start, "cpu").module.named_parameters())
    all_of_it, part = weights_of(tmp_path / "all"), weights_of(tmp_path / "part")
    moved = 0.0
    for name, value in begun.items():
        trained = all_of_it[f"backbone.{name}"]
        torch.testing.assert_close(part[f"backbone.{name}"], 0.75 * trained + 0.25 * value)
        moved += (trained - value).abs().sum().item()
    assert moved > 0
    assert same(*({k: v for k, v in state.items() if k.startswith("projector")} for state in (all_of_it, part)))
    found = load(tmp_path / "part", "cpu")
    assert all(torch.equal(value, part[f"backbone.{name}"]) for name, value in found.module.state_dict().items())
    assert found.config.license == "mit"


def test_statistics_are_those_of_the_mixed_network(start, pictures, tmp_path):
    assert pretrain(recipe(start, "schedule.towards_start=0.5"), pictures, tmp_path / "run", device="cpu")
    assert pretrain(recipe(start), pictures, tmp_path / "all", device="cpu")
    mixed, trained = weights_of(tmp_path / "run"), weights_of(tmp_path / "all")
    begun = load(start, "cpu").module.state_dict()
    name = "layer4.0.bn2.running_mean"
    halfway = 0.5 * trained[f"backbone.{name}"] + 0.5 * begun[name]
    assert not torch.allclose(mixed[f"backbone.{name}"], halfway)  # estimated anew, not averaged
    assert mixed[f"backbone.{name.replace('running_mean', 'num_batches_tracked')}"] == 16  # two epochs of 8 batches


def test_a_stopped_run_ends_with_the_same_weights(start, pictures, tmp_path):
    wanted = recipe(start, "schedule.towards_start=0.5")
    assert pretrain(wanted, pictures, tmp_path / "whole", device="cpu")
    assert not pretrain(wanted, pictures, tmp_path / "parts", device="cpu", max_minutes=0)
    assert load(tmp_path / "parts", "cpu").dim > 0
    assert pretrain(wanted, pictures, tmp_path / "parts", device="cpu")
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))


def test_the_last_accuracy_in_the_log_is_of_the_weights_that_are_kept(start, pictures, tmp_path, monkeypatch):
    judged: list[dict[str, torch.Tensor]] = []

    def judge(method, *_):
        judged.append({name: value.clone() for name, value in method.state_dict().items()})
        return 50.0

    monkeypatch.setattr("clzoo.pretrain.online.online_knn", judge)
    wanted = recipe(start, "schedule.towards_start=0.5", "monitor.knn_every_epochs=1")
    assert pretrain(wanted, pictures, tmp_path / "run", device="cpu")
    assert same(judged[-1], weights_of(tmp_path / "run"))


def test_there_must_be_a_start_to_go_back_to(pictures, tmp_path):
    with pytest.raises(ClzooError, match="needs an encoder to start from"):
        pretrain(small_recipe("simclr_cifar10", "schedule.towards_start=0.5"), pictures, tmp_path / "run", device="cpu")


def test_other_weights_than_the_recipe_names_are_refused(start, pictures, tmp_path):
    other = recipe(start, f"start.weights_sha256={'a' * 64}")
    with pytest.raises(ClzooError, match="the recipe starts from aaaa"):
        pretrain(other, pictures, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ClzooError, match="Leave out one of them"):
        pretrain(recipe(start), pictures, tmp_path / "run", device="cpu", init="another")


def test_a_subset_and_a_held_out_part_at_once_are_refused():
    with pytest.raises(ClzooError, match="one rule, not two"):
        small_recipe("simclr_cifar10", "data.subset=linear", "data.held_out=true")
