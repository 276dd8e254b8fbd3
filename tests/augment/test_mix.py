import math
import random

import pytest
import torch

from clzoo.augment.mix import cutmix, draw_box

ONES, ZEROS = torch.ones(2, 3, 20, 30), torch.zeros(2, 3, 20, 30)


def mixed_by(box):
    return cutmix(ONES, ZEROS, torch.tensor([box, box]))


def boxes(count: int = 2000):
    generator = torch.Generator().manual_seed(0)
    return [draw_box(generator, 20, 30) for _ in range(count)]


def test_boxes_are_clipped_to_the_image_and_lambda_is_what_they_leave():
    clipped = 0
    for (top, left, bottom, right), share in boxes():
        assert 0 <= top <= bottom <= 20
        assert 0 <= left <= right <= 30
        kept = mixed_by((top, left, bottom, right)).mean().item()
        assert share == pytest.approx(kept, abs=1e-6)  # lambda weighs the image that keeps its outside
        clipped += top == 0 or left == 0 or bottom == 20 or right == 30
    assert clipped > 500


def test_lambda_is_distributed_as_the_definition_says():
    random.seed(1)
    expected = []
    for _ in range(8000):
        side = math.sqrt(1 - random.random())
        half_height, half_width = int(20 * side) // 2, int(30 * side) // 2
        y, x = random.randrange(20), random.randrange(30)
        rows = min(y + half_height, 20) - max(y - half_height, 0)
        columns = min(x + half_width, 30) - max(x - half_width, 0)
        expected.append(1 - rows * columns / 600)
    ours = torch.tensor([share for _, share in boxes(8000)])
    theirs = torch.tensor(expected)
    # Standard error of the mean: 0.003.
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=0.015)
    assert ours.std().item() == pytest.approx(theirs.std().item(), abs=0.015)


def test_an_empty_box_changes_nothing():
    assert torch.equal(mixed_by((5, 7, 5, 7)), ONES)
    assert torch.equal(mixed_by((0, 30, 20, 30)), ONES)


def test_the_box_comes_from_the_other_image_and_both_stay_as_they_were():
    mixed = mixed_by((2, 3, 8, 10))
    assert (mixed[:, :, 2:8, 3:10] == 0).all()
    assert mixed.sum() == ONES.numel() - 2 * 3 * 6 * 7
    assert (ONES == 1).all()
    assert (ZEROS == 0).all()


def test_each_image_has_its_own_box():
    images, others = torch.rand(3, 3, 20, 30), torch.rand(3, 3, 20, 30)
    given = [(2, 3, 8, 10), (0, 0, 20, 30), (5, 5, 5, 5)]
    expected = images.clone()
    for i, (top, left, bottom, right) in enumerate(given):
        expected[i, :, top:bottom, left:right] = others[i, :, top:bottom, left:right]
    assert torch.equal(cutmix(images, others, torch.tensor(given)), expected)


def test_the_same_generator_state_gives_the_same_box():
    assert boxes(5) == boxes(5)
