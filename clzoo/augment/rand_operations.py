"""The operations of RandAugment that are not colour jitter's, on float images (B, 3, H, W) in [0, 1], in place.

Each takes one argument per sample (B,), also where it needs none. Where an operation is about 8-bit levels (equalise,
posterise), the nearest levels are taken. Equal to torchvision's functional operations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

GREY = 128 / 255  # what comes from outside the image


def auto_contrast_(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Stretch each channel to [0, 1]; a channel of one value stays."""
    low = images.amin(dim=(2, 3), keepdim=True)
    spread = images.amax(dim=(2, 3), keepdim=True) - low
    flat = spread == 0
    return images.sub_(low.masked_fill(flat, 0)).div_(spread.masked_fill(flat, 1))


def equalize_(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Flatten each channel's histogram of 256 levels, by PIL's integer formula."""
    shape = images.shape
    levels = (images * 255).round_().long().view(-1, shape[2] * shape[3])  # (B * 3, H * W)
    histogram = levels.new_zeros(len(levels), 256).scatter_add_(1, levels, torch.ones_like(levels))
    of_brightest = histogram.gather(1, levels.amax(dim=1, keepdim=True))
    step = (levels.shape[1] - of_brightest) // 255  # (B * 3, 1)
    below = histogram.cumsum(dim=1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table)  # too few pixels: unchanged
    return images.copy_(table.gather(1, levels).view(shape)).div_(255)


def invert_(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return images.neg_().add_(1)


def posterize_(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Keep the `bits` highest of 8 bits."""
    step = (2 ** (8 - bits))[:, None, None, None]
    return images.mul_(255).round_().div_(step).floor_().mul_(step).div_(255)


def solarize_add_(images: torch.Tensor, addition: torch.Tensor) -> torch.Tensor:
    """Make what is darker than 128 brighter."""
    dark = torch.lt(images, GREY, out=torch.empty_like(images))  # 1 or 0
    return images.add_(dark.mul_(addition[:, None, None, None])).clamp_(max=1)


def adjust_sharpness_(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with a 3 x 3 smoothing (weights 1, in the middle 5); 1 changes nothing, the outermost pixels stay."""
    inner = images[:, :, 1:-1, 1:-1]
    columns = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    sums = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]
    smooth = sums.add_(inner, alpha=4).div_(13)
    f = factor[:, None, None, None]
    inner.mul_(f).add_(smooth.mul_(1 - f))
    return images.clamp_(0, 1)


def rotate_(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Turn counter-clockwise around the centre."""
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    y, x = images.shape[2] / 2, images.shape[3] / 2
    return _affine_(images, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def shear_x_(images: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return _affine_(images, (1, slope, 0), (0, 1, 0))


def shear_y_(images: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return _affine_(images, (1, 0, 0), (slope, 1, 0))


def translate_x_(images: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return _affine_(images, (1, 0, share * images.shape[3]), (0, 1, 0))


def translate_y_(images: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return _affine_(images, (1, 0, 0), (0, 1, share * images.shape[2]))


_Row = tuple[float | torch.Tensor, float | torch.Tensor, float | torch.Tensor]


def _affine_(images: torch.Tensor, to_x: _Row, to_y: _Row) -> torch.Tensor:
    """The result at (x, y) is the image at (to_x . (x, y, 1), to_y . (x, y, 1)), in pixels from the upper left corner.

    Bilinear; outside lies grey.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = (torch.arange(height, device=images.device) + 0.5)[:, None]

    def source(row: _Row, length: int) -> torch.Tensor:  # (B, H, W) in [-1, 1], as grid_sample counts
        a, b, c = (v[:, None, None] if isinstance(v, torch.Tensor) else v for v in row)
        return ((a * x + b * y + c) * (2 / length) - 1).expand(len(images), height, width)

    grid = torch.stack([source(to_x, width), source(to_y, height)], dim=3)
    moved = F.grid_sample(images - GREY, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return images.copy_(moved).add_(GREY)
