"""From a batch of stored images to one random view of each: what the network sees in pretraining."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clzoo.augment.color import color_jitter, grayscale
from clzoo.augment.crop import draw_crops, resized_crop
from clzoo.augment.random import uniforms

_DRAWS = 52  # 40 for the crop, 12 for the rest


@dataclass(frozen=True)
class ViewPolicy:
    """Strengths of the augmentations, in torchvision's terms; the defaults are CACR's on CIFAR."""

    size: int = 32
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    jitter: float = 1.0  # probability that the four colour operations are applied
    grayscale: float = 0.2


def make_view(
    images: torch.Tensor, policy: ViewPolicy, *, seed: int, epoch: int, samples: torch.Tensor, view: int
) -> torch.Tensor:
    """One view of each image, a pure function of (seed, epoch, sample, view).

    Args:
        images: uint8 (B, H, W, 3).
        samples: (B,) their indices in the data set, on the same device.
        view: 0, 1, ...

    Returns:
        float32 (B, 3, size, size) in [0, 1], not normalised.
    """
    u = uniforms(seed, epoch, samples, view, _DRAWS)
    pixels = images.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)

    boxes = draw_crops(u[:, :40], pixels.shape[2], pixels.shape[3], policy.crop_scale)
    pixels = resized_crop(pixels, boxes, policy.size)
    pixels = torch.where((u[:, 40] < policy.flip)[:, None, None, None], pixels.flip(3), pixels)

    order = u[:, 41:45].argsort(dim=1)
    factors = _jitter_factors(u[:, 45:49], policy)
    unchanged = factors.new_tensor([1.0, 1.0, 1.0, 0.0])
    factors = torch.where((u[:, 49] < policy.jitter)[:, None], factors, unchanged)
    pixels = color_jitter(pixels, order, factors)

    gray = (u[:, 50] < policy.grayscale)[:, None, None, None]
    return torch.where(gray, grayscale(pixels), pixels)


def _jitter_factors(u: torch.Tensor, policy: ViewPolicy) -> torch.Tensor:
    """(B, 4) factors as torchvision's ColorJitter draws them: uniform in [max(0, 1 - s), 1 + s], hue in [-s, s]."""
    strengths = (policy.brightness, policy.contrast, policy.saturation)
    low = u.new_tensor([*(max(0.0, 1 - s) for s in strengths), -policy.hue])
    high = u.new_tensor([*(1 + s for s in strengths), policy.hue])
    return low + (high - low) * u
