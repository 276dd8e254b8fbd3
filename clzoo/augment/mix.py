"""CutMix: a box of one image laid into another (Yun et al. 2019, arXiv 1905.04899)."""

from __future__ import annotations

import torch


def draw_box(generator: torch.Generator, height: int, width: int) -> tuple[tuple[int, int, int, int], float]:
    """A box (top, left, bottom, right) of about 1 - lambda of the area, lambda ~ Beta(1, 1), and the lambda it left.

    Sides are floor(side * sqrt(1 - lambda)), the centre is uniform, the box is clipped to the image, and lambda is
    recomputed from what remains (as the released code of ReCo does).
    """
    share, y, x = torch.rand(3, generator=generator).tolist()  # Beta(1, 1) is uniform
    side = (1 - share) ** 0.5
    half_h, half_w = int(height * side) // 2, int(width * side) // 2
    centre_y, centre_x = int(y * height), int(x * width)
    top, bottom = max(centre_y - half_h, 0), min(centre_y + half_h, height)
    left, right = max(centre_x - half_w, 0), min(centre_x + half_w, width)
    return (top, left, bottom, right), 1 - (bottom - top) * (right - left) / (height * width)


def cutmix(images: torch.Tensor, others: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """`images` (B, C, H, W) with each one's box taken from `others`; boxes (B, 4) as `draw_box` has them."""
    top, left, bottom, right = boxes[:, :, None].unbind(1)  # each (B, 1)
    y, x = (torch.arange(side, device=boxes.device) for side in images.shape[2:])
    rows, columns = (top <= y) & (y < bottom), (left <= x) & (x < right)  # (B, H), (B, W)
    return torch.where((rows[:, :, None] & columns[:, None])[:, None], others, images)
