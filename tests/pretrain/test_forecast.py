"""How long a run will take here, and what fits where that is over a day."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from small_recipes import small_recipe

from clzoo.data.collection import ArrayImages
from clzoo.data.training import TrainingSet
from clzoo.heartbeat import duration
from clzoo.pretrain.feed import Steps
from clzoo.pretrain.forecast import Forecast, seconds_per_step
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe_files import find_recipe, load_recipe, recipe_names

CPU = torch.device("cpu")


def toy(count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return TrainingSet("toy", ArrayImages(pixels), np.arange(count), None, (), pixels)


def told(caplog, recipe, images, total, first_step=0):
    """What is said of a run of so many steps, of which the machine makes one in an instant."""
    caplog.set_level(logging.INFO, "clzoo")
    steps = dataclasses.replace(Steps.of(recipe, images), total=total)
    forecast = Forecast(recipe, images, steps, first_step, CPU)
    said = []
    for done in range(first_step + 1, first_step + 31):
        if forecast.is_due(done):
            caplog.clear()
            forecast.tell(done)
            said.append((done, caplog.messages))
    return said


def test_a_run_says_once_after_some_steps_how_long_it_will_take(caplog):
    recipe, images = small_recipe("simclr_cifar10"), toy(64)
    (first, nothing), (done, (message,)) = told(caplog, recipe, images, 1000)
    assert (first, nothing, done) == (1, [], 11)  # the first step is not counted: it compiles, and fills caches
    assert message.startswith("989 steps to go, ")
    assert message.endswith(" on this machine")
    assert [done for done, _ in told(caplog, recipe, images, 1000, first_step=500)] == [501, 511]
    assert [done for done, _ in told(caplog, recipe, images, 8)] == [1, 3]


def test_a_real_run_says_it(pictures, tmp_path, caplog):
    caplog.set_level(logging.INFO, "clzoo")
    assert pretrain(small_recipe("simclr_cifar10"), pictures, tmp_path / "run", device="cpu")
    assert sum("steps to go" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("seconds", [3.0, 3e6], ids=["fits", "does not fit"])
def test_over_a_day_a_recipe_is_named_only_if_it_fits_by_its_own_time(seconds, caplog, monkeypatch):
    timed = []

    def measured(recipe, images, device):
        timed.append(recipe)
        return seconds

    monkeypatch.setattr("clzoo.pretrain.forecast.seconds_per_step", measured)
    _, (_, (_, warning)) = told(caplog, small_recipe("simclr_cifar10"), toy(256), 10**13)
    assert warning.startswith("this run takes longer than a day here. ")
    assert "--max-minutes" in warning
    assert "cacr_cifar10_narrow" in recipe_names()
    narrow = load_recipe(find_recipe("cacr_cifar10_narrow"))
    assert timed == [narrow]  # the other small one needs more images
    if seconds > 100:
        assert "No shipped recipe does these 256 images within a day here." in warning
        return
    expected = duration(seconds * Steps.of(narrow, toy(256)).total)
    assert f"clzoo pretrain cacr_cifar10_narrow, about {expected} here on these 256 images" in warning


def test_steps_are_timed_without_leaving_a_trace():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert seconds_per_step(small_recipe("mocov2_cifar10"), toy(64), CPU) > 0
    assert torch.equal(torch.rand(3), expected)


def test_compiling_is_said_before_and_after_and_counts_as_time(pictures, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "clzoo")
    asked = []  # how long it takes is not ours to test
    monkeypatch.setattr(torch, "compile", lambda step, **_: asked.append(step) or step)
    recipe = small_recipe("simclr_cifar10", "compile=true")
    assert not pretrain(recipe, pictures, tmp_path / "run", device="cpu", max_minutes=0)
    assert len(asked) == 1
    said = [message for message in caplog.messages if "compiled" in message]
    assert said[0] == "the first step takes longer: it is compiled"
    assert said[1].startswith("compiled: the first step took ")
