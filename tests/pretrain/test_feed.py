import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipes import small_recipe

from clzoo.data.stream import crops_on_host
from clzoo.data.training import open_training_set
from clzoo.errors import ClzooError
from clzoo.pretrain.build import build_method
from clzoo.pretrain.feed import Steps, feed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(15):
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(params=["in memory", "streamed"])
def images(request, folder):
    return open_training_set("", folder, 32, **({"budget": 0} if request.param == "streamed" else {}))


def batches(images, recipe, first_step=0):
    return list(feed(images, recipe, Steps.of(recipe, images), first_step, CPU))


def test_an_epoch_holds_every_image_once_with_its_label(images):
    recipe = small_recipe("reco_cifar10", batch_size=10)
    epoch = batches(images, recipe)
    assert len(epoch) == 3
    assert all(len(batch.views) == 3 and batch.views[0].shape == (10, 3, 24, 24) for batch in epoch)
    labels = torch.cat([batch.labels for batch in epoch])
    assert labels.sum() == 15
    assert len(torch.cat([batch.views[0] for batch in epoch]).flatten(1).unique(dim=0)) == 30


def test_a_run_that_begins_later_gets_the_same_batches(images):
    recipe = small_recipe("reco_cifar10", "schedule.epochs=2")
    whole = batches(images, recipe)
    assert len(whole) == 6  # three of eight an epoch; what is left over waits for the next permutation
    for first in (1, 4):
        for late, early in zip(batches(images, recipe, first), whole[first:], strict=True):
            assert late.step == early.step
            assert late.progress == early.progress
            assert all(torch.equal(a, b) for a, b in zip(late.views, early.views, strict=True))


def test_a_batch_knows_which_part_of_an_accumulated_step_it_is(images):
    recipe = small_recipe("reco_cifar10", "schedule.epochs=2", "schedule.accumulate=3")
    assert [batch.part for batch in batches(images, recipe)] == [0, 1, 2, 0, 1, 2]
    assert [batch.part for batch in batches(images, recipe, 3)] == [0, 1, 2]


@pytest.mark.parametrize("seed", [2**29, 2**32 - 1])
def test_a_large_seed_orders_images_and_draws_like_a_small_one(images, seed):
    recipe = small_recipe("reco_cifar10", f"seed={seed}")
    batch = next(feed(images, recipe, Steps.of(recipe, images), 0, CPU))
    assert torch.isfinite(build_method(recipe, images.class_count)(batch))


def test_a_run_may_end_within_an_epoch(images):
    recipe = small_recipe("simclr_cifar10", "schedule.epochs=1.67", batch_size=10)
    assert [batch.step for batch in batches(images, recipe)] == [0, 1, 2, 3, 4]
    assert len(batches(images, small_recipe("simclr_cifar10", "schedule.epochs=0.01", batch_size=10))) == 1


def test_both_roads_show_the_same_crops_within_the_rounding_of_the_resize(folder):
    recipe = small_recipe("simclr_cifar10", "views.0.jitter=0.0", "views.0.grayscale=0.0", "data.size=36")
    held, streamed = (open_training_set("", folder, 36, budget=budget) for budget in (1 << 30, 0))
    # The stored square is the centre of the picture, so only the statistics of the views can agree.
    first, second = (batches(images, recipe)[0].views[0] for images in (held, streamed))
    assert (first.mean() - second.mean()).abs() < 0.05
    assert (first.std() - second.std()).abs() < 0.1


def test_the_road_follows_from_where_the_images_are_and_how_large_the_views(folder):
    held, streamed = (open_training_set("", folder, 32, budget=budget) for budget in (1 << 30, 0))
    recipes = small_recipe("simclr_cifar10"), small_recipe("simclr_cifar10", "views.0.size=112")
    small, large = (recipe.view_policies() for recipe in recipes)
    assert crops_on_host(streamed, small, CPU)
    assert crops_on_host(held, large, CPU)
    assert not crops_on_host(held, small, CPU)
    assert not crops_on_host(held, large, torch.device("cuda"))


def test_a_batch_of_one_and_more_than_there_are_images_are_errors(images):
    recipe = small_recipe("simclr_cifar10", batch_size=31)
    with pytest.raises(ClzooError, match="30 images, fewer than one batch"):
        Steps.of(recipe, images)
    one = dataclasses.replace(images, rows=images.rows[:1])
    with pytest.raises(ClzooError, match=r"has 1 image; contrast needs at least two\.(?!.*--set)"):
        Steps.of(recipe, one)
    lonely = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"batch_size": 1})})
    with pytest.raises(ClzooError, match="at least two images"):
        Steps.of(lonely, images)


def test_images_without_labels_are_fed_without(folder):
    unlabelled = dataclasses.replace(open_training_set("", folder, 32), labels=None)
    recipe = small_recipe("simclr_cifar10")
    (first,) = islice(feed(unlabelled, recipe, Steps.of(recipe, unlabelled), 0, CPU), 1)
    assert first.labels is None
