import torch
import torchvision.transforms.v2.functional as reference
from torchvision.transforms import RandomErasing

from clzoo.augment.erase import GREY, RATIO, SCALE, draw_erasures, erase


def test_equals_torchvision_for_the_same_boxes():
    images = torch.rand(40, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    boxes = draw_erasures(torch.rand(40, 40, generator=torch.Generator().manual_seed(1)), 20, 30)
    expected = torch.stack(
        [
            reference.erase(image, *box, torch.full((3, 1, 1), GREY))
            for image, box in zip(images, boxes.tolist(), strict=True)
        ]
    )
    assert torch.equal(erase(images, boxes), expected)
    assert not torch.equal(expected, images)


def test_boxes_are_distributed_as_torchvision_draws_them():
    count = 4000
    ours = draw_erasures(torch.rand(count, 40, generator=torch.Generator().manual_seed(2)), 32, 48).float()
    torch.manual_seed(3)
    image = torch.zeros(3, 32, 48)
    theirs = torch.tensor([RandomErasing.get_params(image, SCALE, RATIO, [0])[:4] for _ in range(count)]).float()
    # Standard error of a mean of 4000 is about 0.2 pixels.
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=0.8)
    assert torch.allclose(ours.std(0), theirs.std(0), atol=0.6)


def test_where_nothing_fits_nothing_is_erased():
    boxes = draw_erasures(torch.rand(8, 40, generator=torch.Generator().manual_seed(4)), 1, 400)
    assert (boxes == 0).all()
    images = torch.rand(8, 3, 1, 400, generator=torch.Generator().manual_seed(5))
    assert torch.equal(erase(images, boxes), images)
