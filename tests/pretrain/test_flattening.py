"""A run that draws images from crowded places less often."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from picture_folders import noise
from small_recipes import small_recipe
from small_runs import same, weights_of

from clzoo.data.collection import ArrayImages, Collection
from clzoo.data.training import open_training_set, training_set_of
from clzoo.errors import ClzooError
from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.feed import Steps, drawn_by, feed, labels_of_queue
from clzoo.pretrain.flattening import crowding, flat_weights, unevenness
from clzoo.pretrain.loop import pretrain
from clzoo.zoo import load

CPU = torch.device("cpu")


def clouds(crowded: int, alone: int) -> torch.Tensor:
    """Features of a crowd around one direction, and of as many directions as there are others."""
    generator = torch.Generator().manual_seed(0)
    crowd = torch.eye(8)[0] + 0.01 * torch.randn(crowded, 8, generator=generator)
    return torch.cat([crowd, torch.randn(alone, 8, generator=generator)])


def test_who_stands_in_a_crowd_counts_it():
    found = crowding(clouds(90, 60), CPU)
    assert np.median(found[:90]) > 5 * np.median(found[90:])
    assert found.min() >= 1
    assert unevenness(clouds(90, 60), CPU) > 5 > unevenness(torch.randn(150, 8), CPU)


def test_samples_are_drawn_by_their_weights_and_the_same_ones_each_time():
    collection = Collection("noise", ArrayImages(noise(64, 32, seed=0)), np.arange(64) % 2, ("a", "b"))
    opened = training_set_of(collection, np.arange(64), 32)
    weights = np.where(np.arange(64) < 8, 7.0, 1.0)  # the first 8 have half of all
    images = dataclasses.replace(opened, weights=weights)
    recipe = small_recipe("simclr_cifar10", "schedule.epochs=20")
    steps = Steps.of(recipe, images)
    drawn = [torch.cat([batch.samples for batch in feed(images, recipe, steps, 0, CPU)]) for _ in range(2)]
    assert torch.equal(*drawn)
    assert abs((drawn[0] < 8).double().mean() - 0.5) < 0.05
    assert torch.equal(next(feed(images, recipe, steps, 9, CPU)).samples, drawn[0][72:80])
    queue = labels_of_queue(images, recipe, steps, 4, 0, 32)
    assert queue is not None
    assert torch.equal(queue, drawn[0][:32] % 2)
    once = torch.cat([batch.samples for batch in feed(opened, recipe, steps, 0, CPU)])[:64]
    assert torch.equal(once.sort().values, torch.arange(64))


def test_a_stopped_run_draws_on_as_it_began(pictures, tmp_path):
    start = tmp_path / "start"
    assert pretrain(small_recipe("simclr_cifar10", "seed=5"), pictures, start, device="cpu")
    recipe = small_recipe("simclr_cifar10", "data.flatten=true")
    assert pretrain(recipe, pictures, tmp_path / "whole", device="cpu", init=str(start))
    assert not pretrain(recipe, pictures, tmp_path / "parts", device="cpu", init=str(start), max_minutes=0)
    assert pretrain(recipe, pictures, tmp_path / "parts", device="cpu", init=str(start))
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))
    state = load_checkpoint(tmp_path / "whole")
    assert state is not None
    assert drawn_by(open_training_set("mine", pictures, 32), state).weights is not None  # for who asks about a batch
    plain = small_recipe("simclr_cifar10")
    assert pretrain(plain, pictures, tmp_path / "plain", device="cpu", init=str(start))
    assert not same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "plain"))


def test_weights_are_one_over_the_crowd(pictures, tmp_path):
    assert pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "start", device="cpu")
    images = open_training_set("mine", pictures, 32)
    found = flat_weights(load(tmp_path / "start", "cpu"), images)
    assert found.shape == (64,)
    assert ((found > 0) & (found <= 1)).all()


def test_there_must_be_an_encoder_to_count_by(pictures, tmp_path):
    with pytest.raises(ClzooError, match=r"data\.flatten needs an encoder"):
        pretrain(small_recipe("simclr_cifar10", "data.flatten=true"), pictures, tmp_path / "run", device="cpu")
