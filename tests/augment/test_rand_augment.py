import math
import random

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from PIL import Image
from timm.data import auto_augment as timm_augment
from torchvision.transforms import InterpolationMode

from clzoo.augment.rand_augment import OPERATIONS, RandAugment, draw_operations, parse_rand_augment, rand_augment
from clzoo.augment.rand_operations import GREY
from clzoo.errors import ClzooError

POLICY = "rand-m9-mstd0.5-inc1"


def levels(count: int = 12, size: int = 24) -> torch.Tensor:
    """Smooth pictures of 8-bit levels, as uint8 (B, 3, S, S)."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def affine(image, **change):
    neutral = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return reference.affine(
        image, **{**neutral, **change}, interpolation=InterpolationMode.BILINEAR, fill=[GREY] * 3
    )  # fmt: skip


GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}

# Name: (arguments to try, torchvision's operation, whether it is defined on 8-bit levels)
REFERENCES = {
    "AutoContrast": ([0.0], lambda image, _: reference.autocontrast(image), False),
    "Equalize": ([0.0], lambda image, _: reference.equalize(image), True),
    "Invert": ([0.0], lambda image, _: reference.invert(image), False),
    "Rotate": ([-30.0, 7.0, 29.0], lambda image, a: affine(image, angle=-a), False),
    "PosterizeIncreasing": ([0.0, 1.0, 4.0], lambda image, bits: reference.posterize(image, int(bits)), True),
    "SolarizeIncreasing": ([0.0, 26 / 255, 1.0], lambda image, t: reference.solarize(image, t), False),
    "ColorIncreasing": ([0.1, 1.5], reference.adjust_saturation, False),
    "ContrastIncreasing": ([0.1, 1.5], reference.adjust_contrast, False),
    "BrightnessIncreasing": ([0.1, 1.5], reference.adjust_brightness, False),
    "SharpnessIncreasing": ([0.1, 1.9], reference.adjust_sharpness, False),
    "ShearX": (
        [-0.3, 0.2],
        lambda image, s: affine(image, shear=[math.degrees(math.atan(s)), 0.0], center=[0, 0]),
        False,
    ),
    "ShearY": (
        [-0.3, 0.2],
        lambda image, s: affine(image, shear=[0.0, math.degrees(math.atan(s))], center=[0, 0]),
        False,
    ),
    "TranslateXRel": ([-0.25, 0.125], lambda image, s: affine(image, translate=[-s * 24, 0]), False),
    "TranslateYRel": ([-0.25, 0.125], lambda image, s: affine(image, translate=[0, -s * 24]), False),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_each_operation_equals_torchvision(name):
    arguments, expected_of, on_levels = REFERENCES[name]
    operation, _ = OPERATIONS[name]
    images = levels()
    images[0], images[1], images[2] = 0, 255, 77  # flat pictures
    for argument in arguments:
        source = images if on_levels else images / 255
        expected = torch.stack([expected_of(image, argument) for image in source])
        expected = expected / 255 if on_levels else expected
        ours = operation(images / 255, torch.full((len(images),), argument))
        difference = (ours - expected).abs()
        if name in GEOMETRIC:  # torchvision applies the share of a border pixel twice: only whole pixels compare
            white = expected[1]
            difference = difference * (((white - 1).abs() < 1e-5) | ((white - GREY).abs() < 1e-5))
        assert difference.max() < 1 / 255, argument


PIL_ARGUMENTS = {
    "AutoContrast": (), "Equalize": (), "Invert": (), "Rotate": (11.0,), "PosterizeIncreasing": (2,),
    "SolarizeIncreasing": (100,), "SolarizeAdd": (60,), "ColorIncreasing": (1.4,), "ContrastIncreasing": (0.6,),
    "BrightnessIncreasing": (0.7,), "SharpnessIncreasing": (1.8,), "ShearX": (0.2,), "ShearY": (-0.2,),
    "TranslateXRel": (0.25,), "TranslateYRel": (-0.25,),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_has_the_sense_and_scale_of_timms(name):
    arguments = PIL_ARGUMENTS[name]
    image = levels(1, size=32)[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    expected = timm_augment.NAME_TO_OP[name](
        picture, *arguments, resample=Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    )
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1) / 255
    ours = float(arguments[0]) if arguments else 0.0
    if name in ("SolarizeIncreasing", "SolarizeAdd"):
        ours /= 255
    difference = (OPERATIONS[name][0](image[None] / 255, torch.tensor([ours]))[0] - expected).abs()
    if name in GEOMETRIC:  # PIL does not blend the image's border with what lies outside
        assert (difference > 1.5 / 255).float().mean() < 0.08
    else:
        assert difference.max() < 1.5 / 255  # PIL cuts off fractions


def test_the_operations_are_timms_increasing_set():
    assert list(OPERATIONS) == timm_augment._RAND_INCREASING_TRANSFORMS


def test_arguments_are_distributed_as_timm_draws_them():
    """For each operation: mean and spread of its arguments against timm's own functions of the level."""
    policy, count = parse_rand_augment(POLICY), 40_000
    u = torch.rand(count, policy.layers * 5, generator=torch.Generator().manual_seed(0))
    chosen, arguments = draw_operations(policy, u)
    assert (chosen == len(OPERATIONS)).float().mean().item() == pytest.approx(0.5, abs=0.01)
    random.seed(1)
    for number, name in enumerate(OPERATIONS):
        ours = arguments[chosen == number]
        assert len(ours) == pytest.approx(count / 15, rel=0.1)
        level_of = timm_augment.LEVEL_TO_ARG[name]
        if level_of is None:
            continue
        magnitudes = [max(0.0, min(random.gauss(9, 0.5), 10.0)) for _ in range(4000)]
        theirs = torch.tensor([float(level_of(m, {})[0]) for m in magnitudes])
        if name in ("SolarizeIncreasing", "SolarizeAdd"):
            theirs = theirs / 255
        spread = theirs.std().item()
        assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=0.08 * spread + 1e-6), name
        assert ours.std().item() == pytest.approx(spread, rel=0.08, abs=1e-6), name


def test_every_sample_goes_through_its_own_operations():
    images, policy = levels(32) / 255, parse_rand_augment("rand-m9-n3-p0.8-inc1")
    u = torch.rand(32, 15, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([rand_augment(images[i : i + 1], policy, u[i : i + 1]) for i in range(32)])
    together = rand_augment(images, policy, u)
    assert torch.allclose(together, alone, atol=1e-5)
    assert together.min() >= 0
    assert together.max() <= 1
    changed = (together - images).abs().amax(dim=(1, 2, 3)) > 0.02
    assert changed.float().mean() > 0.8


def test_timms_notation_is_understood():
    assert parse_rand_augment(POLICY) == RandAugment(magnitude=9, std=0.5)
    assert parse_rand_augment("rand-m7-n3-p0.3-mmax12-mstd101-inc1") == RandAugment(7, 3, 101, 0.3, 12)


@pytest.mark.parametrize("wrong", ["rand-m9", "rand-m9-inc0", "augmix-m3-inc1", "rand-m9-tweights-inc1", "rand-m-inc1"])
def test_what_is_not_the_increasing_set_is_refused_with_an_example(wrong):
    with pytest.raises(ClzooError, match=r"rand-m9-mstd0\.5-inc1"):
        parse_rand_augment(wrong)
