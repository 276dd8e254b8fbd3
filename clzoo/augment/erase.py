"""Random erasing (Zhong et al. 2017, arXiv 1708.04896)."""

from __future__ import annotations

import torch

from clzoo.augment.crop import first_fitting_box

SCALE = (0.02, 0.33)  # share of the area, and ...
RATIO = (0.3, 3.3)  # ... height / width: torchvision's
GREY = 128 / 255  # our choice: the published chains erase after normalisation, with the mean of the data


def draw_erasures(u: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, 4) int64 boxes top, left, height, width, as torchvision's RandomErasing draws them from u (B, 40).

    Where none of the ten attempts fits, the box is empty.
    """
    # The aspect here is height / width, so the box is drawn lying and turned; it has to be smaller than the image.
    boxes, fits = first_fitting_box(u, (width, height), SCALE, RATIO, (width - 1, height - 1))
    return boxes[:, [1, 0, 3, 2]] * fits[:, None]


def erase(images: torch.Tensor, boxes: torch.Tensor, value: float = GREY) -> torch.Tensor:
    """Fill each sample's box (B, 4) with `value`, in all channels of (B, C, H, W)."""
    top, left, height, width = boxes.unbind(1)
    rows = _between(top, height, images.shape[2])  # (B, H)
    columns = _between(left, width, images.shape[3])  # (B, W)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], value, images)


def _between(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    pixel = torch.arange(size, device=start.device)
    return (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
