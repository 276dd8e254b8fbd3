"""The whole chain: where each operation's numbers come from, and the two halves for streamed data."""

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from PIL import Image

from clzoo.augment import ViewPolicy, crop_on_host, finish_view, make_view
from clzoo.augment.blur import gaussian_blur
from clzoo.augment.random import uniforms

PLAIN = ViewPolicy(flip=0.5, jitter=0.0, grayscale=0.0)
BYOL = ViewPolicy(size=32, crop_scale=(0.08, 1.0), hue=0.1, saturation=0.2, jitter=0.8, blur=0.5, solarize=0.2)
HYDRA = dataclasses.replace(PLAIN, crop_scale=(0.7, 1.0), rand_augment="rand-m9-mstd0.5-inc1", erase=0.1)
EVERYTHING = dataclasses.replace(BYOL, rand_augment="rand-m9-mstd0.5-inc1", erase=0.5)
SAMPLES = torch.arange(100, 356)


def smooth_images(count: int = 256, height: int = 40, width: int = 48) -> torch.Tensor:
    coarse = torch.rand(count, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (smooth.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)


IMAGES = smooth_images()


def views(policy, rows=slice(None), *, seed=0, epoch=3, view=1, images=IMAGES):
    return make_view(images[rows], policy, seed=seed, epoch=epoch, samples=SAMPLES[rows], view=view)


def draws(position):
    return uniforms(0, 3, SAMPLES, 1, 1, start=position)[:, 0]


def changed(first, second):
    return (first - second).abs().amax(dim=(1, 2, 3)) > 1e-4


@pytest.mark.parametrize("policy", [BYOL, HYDRA, EVERYTHING], ids=["byol", "hydra", "everything"])
def test_a_view_is_the_same_in_whatever_batch_its_sample_lies(policy):
    whole = views(policy)
    parts = torch.cat([views(policy, slice(start, start + 37)) for start in range(0, 256, 37)])
    backwards = views(policy, torch.arange(255, -1, -1)).flip(0)
    # Rounding may depend on the batch; where it crosses a threshold, a pixel turns, so not every image has to agree.
    for other in (parts, backwards):
        assert (~changed(whole, other)).float().mean() > 0.97
    assert torch.equal(views(policy), whole)
    assert whole.isfinite().all()
    assert whole.min() >= 0
    assert whole.max() <= 1


@pytest.mark.parametrize("policy", [BYOL, HYDRA, EVERYTHING], ids=["byol", "hydra", "everything"])
def test_seed_epoch_and_view_number_each_change_the_view(policy):
    first = views(policy)
    for other in (views(policy, seed=1), views(policy, epoch=1), views(policy, view=0)):
        assert changed(first, other).float().mean() > 0.95


def test_blur_takes_its_own_numbers_and_leaves_the_others_alone():
    plain, blurred = views(PLAIN), views(dataclasses.replace(PLAIN, blur=0.5, blur_sigma=(0.5, 2.0)))
    chosen = draws(51) < 0.5
    assert torch.equal(blurred[~chosen], plain[~chosen])
    sigma = 0.5 + 1.5 * draws(52)
    assert torch.allclose(blurred[chosen], gaussian_blur(plain, sigma, 3)[chosen], atol=1e-6)


def test_solarise_takes_its_own_numbers_and_leaves_the_others_alone():
    plain, solarized = views(PLAIN), views(dataclasses.replace(PLAIN, solarize=0.3))
    chosen = draws(53) < 0.3
    assert 0.2 < chosen.float().mean() < 0.4
    assert torch.equal(solarized[~chosen], plain[~chosen])
    assert torch.allclose(solarized[chosen], reference.solarize(plain[chosen], 0.5), atol=1e-6)


def test_erasing_takes_its_own_numbers_and_comes_last():
    jittered = views(dataclasses.replace(BYOL, solarize=1.0))
    erased = views(dataclasses.replace(BYOL, solarize=1.0, erase=0.4))
    chosen = draws(54) < 0.4
    assert torch.equal(erased[~chosen], jittered[~chosen])
    different = (erased != jittered).any(dim=1)  # (B, S, S)
    assert torch.equal(different.any(dim=(1, 2)), chosen)
    assert (erased.permute(0, 2, 3, 1)[different] == 128 / 255).all()


def test_rand_augment_comes_before_erasing_and_leaves_the_other_numbers_alone():
    plain, randomised = views(PLAIN), views(dataclasses.replace(PLAIN, rand_augment="rand-m9-inc1"))
    share = ((plain - randomised).abs().amax(dim=(1, 2, 3)) > 1 / 255).float().mean()  # more than 8 bits do
    assert 0.6 < share < 0.8  # two layers of one half, some of which change nothing
    erased = views(HYDRA)
    assert (changed(erased, views(dataclasses.replace(HYDRA, erase=0.0))) == (draws(54) < 0.1)).all()


def test_a_wrong_rand_augment_is_refused_when_the_policy_is_made():
    from clzoo.errors import ClzooError

    with pytest.raises(ClzooError, match="inc1"):
        ViewPolicy(rand_augment="rand-m9")


@pytest.mark.parametrize("policy", [PLAIN, BYOL], ids=["plain", "byol"])
def test_the_crop_in_the_worker_and_the_rest_on_the_device_make_the_same_view(policy):
    numbers = {"seed": 0, "epoch": 3, "view": 1}
    crops = [
        crop_on_host(Image.fromarray(image.numpy()), policy, sample=int(sample), **numbers)
        for image, sample in zip(IMAGES, SAMPLES, strict=True)
    ]
    assert crops[0].shape == (32, 32, 3)
    assert crops[0].dtype == np.uint8
    streamed = finish_view(torch.from_numpy(np.stack(crops)), policy, samples=SAMPLES, **numbers)
    difference = (streamed - views(policy)).abs()
    if policy is PLAIN:
        assert difference.max() < 1.01 / 255  # Pillow rounds after each of its two passes
    else:  # jitter and hue multiply that rounding, and a solarised level may fall on the other side of 0.5
        assert difference.mean() < 1 / 255
        assert (difference > 4 / 255).float().mean() < 0.01


def test_the_worker_takes_pictures_of_any_mode_and_shape():
    policy = ViewPolicy(size=48)
    for mode, size in (("L", (30, 200)), ("RGBA", (50, 40)), ("P", (64, 64)), ("1", (20, 20))):
        crop = crop_on_host(Image.new(mode, size), policy, seed=0, epoch=0, sample=5, view=0)
        assert crop.shape == (48, 48, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", [PLAIN, BYOL, HYDRA, EVERYTHING], ids=["plain", "byol", "hydra", "everything"])
def test_a_gpu_makes_the_same_views(policy):
    here, there = views(policy), views(policy, images=IMAGES.cuda())
    assert there.is_cuda
    difference = (there.cpu() - here).abs()
    if policy is PLAIN:
        assert difference.max() < 1 / 255
    else:  # as above: later operations multiply the rounding of half precision, thresholds turn it into steps
        assert difference.mean() < 1 / 255
        assert (difference > 4 / 255).float().mean() < 0.02
