"""The one road from a decoded image to the network's input, shared by everything that embeds."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from clzoo.config import Preprocessing
from clzoo.data.images import MAX_PIXELS
from clzoo.errors import UnreadableImageError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resize_and_crop(image: Image.Image, p: Preprocessing) -> np.ndarray:
    """RGB image -> uint8 (size, size, 3): shorter side to `p.resize` with antialiasing, then the centre.

    Rounds as torchvision's Resize and CenterCrop on PIL images do, so that timm's transform gives the same pixels.

    Raises:
        UnreadableImageError: an image so narrow that resizing it would exhaust memory.
    """
    width, height = image.size
    short = min(width, height)
    target = (int(p.resize * width / short), int(p.resize * height / short))
    if target[0] * target[1] > MAX_PIXELS:
        raise UnreadableImageError(f"{width}x{height} pixels is too narrow to resize its shorter side to {p.resize}")
    if image.size != target:
        image = image.resize(target, _FILTERS[p.interpolation])
    left = round((target[0] - p.size) / 2)
    top = round((target[1] - p.size) / 2)
    return np.asarray(image.crop((left, top, left + p.size, top + p.size)))


def normalize(pixels: torch.Tensor, p: Preprocessing) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels_last in memory, minus mean, over standard deviation."""
    # pixel / 255, minus mean, over std, as one multiply-add per channel.
    scale = torch.tensor([1 / (255 * s) for s in p.std], device=pixels.device)
    shift = torch.tensor([-m / s for m, s in zip(p.mean, p.std, strict=True)], device=pixels.device)
    # The permuted view of an (N, H, W, C) array is channels_last already.
    return torch.addcmul(shift, pixels.to(torch.float32), scale).permute(0, 3, 1, 2)
