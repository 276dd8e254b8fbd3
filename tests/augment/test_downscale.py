"""Loss of resolution: equal to resizing there and back, image by image, and part of the chain."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from clzoo.augment import ViewPolicy, make_view
from clzoo.augment.downscale import downscale, downscale_matrices
from clzoo.augment.random import uniforms
from clzoo.augment.views import finish_view

PLAIN = ViewPolicy(size=32, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0, jitter=0, grayscale=0)


@pytest.fixture
def images():
    return torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def view(images, policy, samples=None):
    samples = torch.arange(len(images)) if samples is None else samples
    return make_view(images, policy, seed=0, epoch=0, samples=samples, view=0)


def test_equals_resizing_each_image_there_and_back():
    images = torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    sides = torch.tensor([10, 40, 23, 10])
    table, which = downscale_matrices(40, sides)
    assert len(table) == 3
    expected = []
    for image, side in zip(images, sides.tolist(), strict=True):
        smaller = F.interpolate(image[None], size=(side, side), mode="bilinear", antialias=True)
        expected.append(F.interpolate(smaller, size=(40, 40), mode="bicubic"))
    assert torch.allclose(downscale(images, table[which]), torch.cat(expected), atol=1e-5)
    assert torch.allclose(downscale(images, table[which])[1], images[1], atol=1e-6)  # the same side: unchanged


def test_a_view_loses_detail_with_the_stated_probability_and_only_then(images):
    sharp, coarse = (
        view(images, PLAIN),
        view(images, dataclasses.replace(PLAIN, downscale=0.5, downscale_to=(0.3, 0.6))),
    )
    changed = (sharp != coarse).flatten(1).any(dim=1)
    assert 20 < changed.sum() < 44
    rough = lambda x: (x[..., 1:] - x[..., :-1]).pow(2).mean(dim=(1, 2, 3))  # noqa: E731
    assert (rough(coarse)[changed] < 0.5 * rough(sharp)[changed]).all()
    assert coarse.min() >= 0
    assert coarse.max() <= 1


def test_the_other_random_numbers_stay_as_they_are(images):
    policy = ViewPolicy(size=32, rand_augment="rand-m9-mstd0.5-inc1", blur=0.5)
    unchanged = dataclasses.replace(policy, downscale=1e-9)
    assert torch.equal(view(images, policy), view(images, unchanged))


def test_a_view_does_not_depend_on_its_batch_nor_on_where_it_is_finished(images):
    policy = dataclasses.replace(PLAIN, downscale=0.7, downscale_to=(0.25, 0.9))
    whole = view(images, policy)
    part = torch.arange(7, 19)
    assert torch.allclose(view(images[part], policy, part), whole[part], atol=1e-6)
    finished = finish_view(images, policy, seed=0, epoch=0, samples=torch.arange(64), view=0)
    assert torch.allclose(finished, whole, atol=1e-5)


def test_matrices_are_made_for_the_chosen_pictures_alone_and_the_views_stay_as_they_were(images, monkeypatch):
    policy = dataclasses.replace(PLAIN, downscale=0.3, downscale_to=(0.25, 0.9))
    asked = []

    def remembering(size, sides):
        asked.append(sides)
        return downscale_matrices(size, sides)

    monkeypatch.setattr("clzoo.augment.views.downscale_matrices", remembering)
    found, sharp = view(images, policy), view(images, PLAIN)
    numbers = uniforms(0, 0, torch.arange(64), 0, 2, start=4000)
    chosen = numbers[:, 0] < 0.3
    sides = ((0.25 + (0.9 - 0.25) * numbers[:, 1]) * 32).round().long()
    assert torch.equal(torch.cat(asked), sides[chosen])
    assert 0 < chosen.sum() < 64
    table, which = downscale_matrices(32, sides)  # of all
    expected = sharp.clone()
    expected[chosen] = downscale(sharp[chosen], table[which[chosen]])
    assert torch.equal(found, expected.clamp(0, 1))
    asked.clear()
    assert torch.equal(view(images, dataclasses.replace(policy, downscale=1e-9)), sharp)
    assert asked == []
