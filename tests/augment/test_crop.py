import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torchvision.transforms import RandomResizedCrop

from clzoo.augment.crop import draw_crop, draw_crops, resized_crop


def pictures(count: int = 24, height: int = 32, width: int = 40) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [16, 32, 56])
def test_equals_torchvision_for_the_same_boxes(size):
    images = pictures()
    boxes = draw_crops(torch.rand(len(images), 40, generator=torch.Generator().manual_seed(1)), 32, 40, (0.05, 1.0))
    expected = [
        reference.resized_crop(image, *box, [size, size], antialias=True)
        for image, box in zip(images, boxes.tolist(), strict=True)
    ]
    assert (resized_crop(images, boxes, size) - torch.stack(expected)).abs().max() < 1 / 255


def test_mirrored_samples_are_the_flipped_crops():
    images = pictures()
    boxes = draw_crops(torch.rand(len(images), 40, generator=torch.Generator().manual_seed(1)), 32, 40, (0.05, 1.0))
    plain = resized_crop(images, boxes, 20)
    mirrored = torch.arange(len(images)) % 3 == 0
    expected = torch.where(mirrored[:, None, None, None], plain.flip(3), plain)
    assert torch.allclose(resized_crop(images, boxes, 20, mirrored), expected, atol=1e-6)


def test_half_precision_as_used_on_a_gpu_stays_within_one_level():
    pixels = (pictures(height=64, width=80) * 255).round()
    boxes = draw_crops(torch.rand(len(pixels), 40, generator=torch.Generator().manual_seed(1)), 64, 80, (0.05, 1.0))
    whole, half = resized_crop(pixels, boxes, 56), resized_crop(pixels.half(), boxes, 56)
    assert half.dtype == torch.float16
    assert (whole - half.float()).abs().max() < 1  # of 255


def test_boxes_are_distributed_as_torchvision_draws_them():
    count, scale = 4000, (0.2, 1.0)
    ours = draw_crops(torch.rand(count, 40, generator=torch.Generator().manual_seed(2)), 32, 32, scale).float()
    torch.manual_seed(3)
    image = torch.empty(3, 32, 32)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(count)]).float()
    # Standard error of a mean of 4000 is about 0.1 pixel; of a standard deviation about 0.07.
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=0.4)
    assert torch.allclose(ours.std(0), theirs.std(0), atol=0.3)


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(32, 32, (0.2, 1.0)), (375, 500, (0.08, 1.0)), (9, 400, (0.5, 1.0))]
)
def test_one_image_gets_the_box_that_it_gets_in_a_batch(height, width, scale):
    u = torch.rand(3000, 40, generator=torch.Generator().manual_seed(6))
    together = draw_crops(u, height, width, scale).tolist()
    alone = [list(draw_crop(row.__getitem__, height, width, scale, (3 / 4, 4 / 3))) for row in u.tolist()]
    assert alone == together


def test_boxes_lie_inside_the_image():
    boxes = draw_crops(torch.rand(5000, 40, generator=torch.Generator().manual_seed(4)), 20, 50, (0.05, 1.0))
    top, left, height, width = boxes.unbind(1)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (top + height <= 20).all()
    assert (left + width <= 50).all()


def test_an_image_too_long_for_any_box_gives_its_centre():
    boxes = draw_crops(torch.rand(3, 40, generator=torch.Generator().manual_seed(5)), 10, 400, (0.9, 1.0))
    assert boxes.tolist() == [[0, 193, 10, 13]] * 3


def test_the_whole_image_at_its_own_size_is_unchanged():
    images = pictures(height=32, width=32)
    whole = torch.tensor([[0, 0, 32, 32]]).expand(len(images), 4)
    assert torch.allclose(resized_crop(images, whole, 32), images, atol=1e-6)
