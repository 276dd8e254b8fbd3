"""The one road from a decoded image to the network's input, shared by everything that embeds.

Importing this imports no torch: `clzoo.lite` takes the same road without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from clzoo.config import Preprocessing
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import MAX_PIXELS

if TYPE_CHECKING:
    import torch

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resize_and_crop(image: Image.Image, p: Preprocessing) -> np.ndarray:
    """RGB image -> uint8 (size, size, 3): shorter side to `p.resize` with antialiasing, then the centre.

    Rounds as torchvision's Resize and CenterCrop on PIL images do, so that timm's transform gives the same pixels.

    Raises:
        UnreadableImageError: an image so narrow that resizing it would exhaust memory.
    """
    image = _resize(image, p)
    left, top = (_margin(side, p.size) for side in image.size)
    return np.asarray(image.crop((left, top, left + p.size, top + p.size)))


def resize_and_keep_margin(image: Image.Image, p: Preprocessing) -> np.ndarray:
    """RGB image -> uint8 (resize, resize, 3): as `resize_and_crop`, with the margin that its crop cuts off a square.

    `resize_and_crop` makes of the result what it makes of the image. So do graphs with the preprocessing inside, and
    images of all sizes fit into one batch for them.

    Raises:
        UnreadableImageError: as `resize_and_crop`.
    """
    image = _resize(image, p)
    margin = _margin(p.resize, p.size)
    left, top = (_margin(side, p.size) - margin for side in image.size)
    return np.asarray(image.crop((left, top, left + p.resize, top + p.resize)))


def resize_and_crop_tensor(image: torch.Tensor, p: Preprocessing) -> torch.Tensor:
    """uint8 (3, H, W) on any device -> uint8 (size, size, 3) there: `resize_and_crop` in torch.

    As Pillow does, columns first and then rows, with rounding to 8 bits after each. What is left is the rounding of
    Pillow's coefficients: of photographs made smaller under 1 % of the values differ, by one level.

    Raises:
        UnreadableImageError: as `resize_and_crop`.
        ClzooError: a crop larger than what it is cut from; Pillow lays black around it.
    """
    if p.size > p.resize:
        raise ClzooError(f"crop_pct is {p.crop_pct}: a crop of {p.size} px does not fit into {p.resize} px.")
    height, width = image.shape[1:]
    columns, rows = _target((width, height), p)
    top, left = _margin(rows, p.size), _margin(columns, p.size)
    if (columns, rows) != (width, height):
        values = _resample(image[None].float(), (height, columns), p)[..., left : left + p.size]
        image = _resample(values, (rows, p.size), p)[0, :, top : top + p.size].byte()
    else:
        image = image[:, top : top + p.size, left : left + p.size]
    return image.permute(1, 2, 0)


def _resample(values: torch.Tensor, size: tuple[int, int], p: Preprocessing) -> torch.Tensor:
    """(1, 3, H, W) -> whole numbers (1, 3, *size) in [0, 255]."""
    import torch.nn.functional as F

    return F.interpolate(values, size, mode=p.interpolation, antialias=True).round_().clamp_(0, 255)


def _resize(image: Image.Image, p: Preprocessing) -> Image.Image:
    target = _target(image.size, p)
    return image if image.size == target else image.resize(target, FILTERS[p.interpolation])


def _target(size: tuple[int, int], p: Preprocessing) -> tuple[int, int]:
    """Width and height -> those of the resized image."""
    width, height = size
    short = min(width, height)
    target = (int(p.resize * width / short), int(p.resize * height / short))
    if target[0] * target[1] > MAX_PIXELS:
        raise UnreadableImageError(f"{width}x{height} pixels is too narrow to resize its shorter side to {p.resize}")
    return target


def _margin(side: int, size: int) -> int:
    """Pixels before the centre `size` of `side`; halves are rounded to the even neighbor."""
    return round((side - size) / 2)


def scale_and_shift(p: Preprocessing) -> tuple[list[float], list[float]]:
    """Normalisation as one multiply-add per channel: pixel * scale + shift == (pixel / 255 - mean) / std."""
    return [1 / (255 * std) for std in p.std], [-mean / std for mean, std in zip(p.mean, p.std, strict=True)]


def normalize(pixels: torch.Tensor, p: Preprocessing) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels_last in memory, minus mean, over standard deviation."""
    import torch

    from clzoo.device import to_device

    # Without waiting: a plain copy to a GPU would stand still until all that is queued there is done.
    scale, shift = to_device(torch.tensor(scale_and_shift(p)), pixels.device)  # (3,) each
    # The permuted view of an (N, H, W, C) array is channels_last already.
    return torch.addcmul(shift, pixels.to(torch.float32), scale).permute(0, 3, 1, 2)
