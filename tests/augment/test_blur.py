import pytest
import torch
import torchvision.transforms.v2.functional as reference

from clzoo.augment.blur import default_kernel_size, gaussian_blur


@pytest.mark.parametrize(("size", "kernel_size"), [(32, 3), (32, 23), (96, 9), (224, 23), (12, 23)])
def test_equals_torchvision_for_the_same_sigma(size, kernel_size):
    images = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.7, 2.0])
    expected = torch.stack(
        [
            reference.gaussian_blur(image, [kernel_size] * 2, [s.item()] * 2)
            for image, s in zip(images, sigma, strict=True)
        ]
    )
    assert (gaussian_blur(images, sigma, kernel_size) - expected).abs().max() < 1e-5


def test_a_flat_image_stays_flat():
    images = torch.full((2, 3, 32, 32), 0.3)
    assert torch.allclose(gaussian_blur(images, torch.tensor([0.1, 2.0]), 9), images, atol=1e-6)


def test_the_kernel_is_the_odd_number_nearest_to_a_tenth_of_the_side():
    assert [default_kernel_size(size) for size in (32, 64, 96, 224)] == [3, 7, 9, 23]
