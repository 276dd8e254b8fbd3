import pytest
import torch
import torchvision.transforms.v2.functional as reference

from clzoo.augment import color


def pictures() -> torch.Tensor:
    images = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0.0, 1.0  # black and white have no hue
    images[2] = images[2, :1]  # nor has grey
    return images


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (color.adjust_brightness_, reference.adjust_brightness, 0.0, 2.0),
        (color.adjust_contrast_, reference.adjust_contrast, 0.0, 2.0),
        (color.adjust_saturation_, reference.adjust_saturation, 0.0, 2.0),
        (color.adjust_hue_, reference.adjust_hue, -0.5, 0.5),
    ],
)
def test_each_operation_equals_torchvision_for_the_same_factor(ours, theirs, low, high):
    images = pictures()
    factors = torch.linspace(low, high, len(images))
    expected = torch.stack([theirs(image, factor.item()) for image, factor in zip(images, factors, strict=True)])
    assert (ours(images.clone(), factors) - expected).abs().max() < 1 / 255


def test_grayscale_equals_torchvision():
    images = pictures()
    assert torch.allclose(color.grayscale(images), reference.rgb_to_grayscale(images), atol=1e-6)


def test_jitter_applies_the_operations_in_each_samples_own_order():
    images = pictures()[3:6]
    order = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
    factors = torch.tensor([[1.3, 0.7, 1.2, 0.1], [0.8, 1.4, 0.5, -0.2], [1.1, 1.1, 0.9, 0.3]])
    operations = (
        reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue
    )  # fmt: skip
    for row in range(3):
        expected = images[row]
        for number in order[row].tolist():
            expected = operations[number](expected, factors[row, number].item())
        assert (color.color_jitter(images, order, factors)[row] - expected).abs().max() < 1 / 255


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_solarise_equals_torchvision(threshold):
    images = pictures()
    assert torch.allclose(
        color.solarize_(images.clone(), threshold), reference.solarize(images, threshold=threshold), atol=1e-6
    )


def test_jitter_leaves_its_argument_as_it_was():
    images = pictures()
    before = images.clone()
    strong = torch.tensor([[1.5, 0.5, 1.5, 0.3]]).expand(len(images), 4)
    assert not torch.equal(color.color_jitter(images, torch.arange(4).expand(len(images), 4), strong), images)
    assert torch.equal(images, before)


def test_neutral_factors_change_nothing():
    images = pictures()
    neutral = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).expand(len(images), 4)
    assert torch.equal(color.color_jitter(images, torch.arange(4).expand(len(images), 4), neutral), images)
