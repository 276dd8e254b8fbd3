"""Colour operations on float images (B, 3, H, W) in [0, 1], each sample with its own strength.

The formulas are torchvision's (its functional operations on float tensors), for one factor per sample. Names that end
in an underscore change their argument in place, as torch's do; most are arithmetic on whole planes, because comparisons
and `torch.where` cost a CPU several times as much.
"""

from __future__ import annotations

import torch

from clzoo.augment.rows import in_groups

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision rounds it


def grayscale(images: torch.Tensor) -> torch.Tensor:
    """Luma, (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return torch.mul(red, _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])[:, None]


def adjust_brightness_(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply by factor (B,); 1 changes nothing, 0 gives black."""
    return images.mul_(_per_sample(factor)).clamp_(0, 1)


def adjust_contrast_(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the image's mean luma; 1 changes nothing, 0 gives flat grey."""
    red, green, blue = images.mean(dim=(2, 3)).unbind(1)
    mean = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue  # (B,)
    return images.mul_(_per_sample(factor)).add_(_per_sample((1 - factor) * mean)).clamp_(0, 1)


def adjust_saturation_(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the luma of each pixel; 1 changes nothing, 0 gives grey."""
    rest = grayscale(images).mul_(_per_sample(1 - factor))  # (B, 1, H, W)
    return images.mul_(_per_sample(factor)).add_(rest).clamp_(0, 1)


def adjust_hue_(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue by shift (B,) in turns, [-0.5, 0.5]; value and saturation stay.

    A turn of the hue keeps a pixel's largest and smallest value. With the hue h in sixths of the circle, [0, 6), how
    far each channel is on its way between the two is clamp(|h - k| - 1, 0, 1): red from the smallest, k = 3; green
    and blue from the largest, k = 2 and 4.
    """
    red, green, blue = images.unbind(1)  # each (B, H, W)
    high, low = images.amax(dim=1), images.amin(dim=1)
    chroma = high - low
    scale = chroma.clamp(min=1e-12).reciprocal_()  # a grey pixel has no hue: its differences are 0
    is_red = torch.eq(high, red, out=torch.empty_like(high))
    is_green = torch.eq(high, green, out=torch.empty_like(high))
    hue = (red - green).mul_(scale).add_(4)
    hue = hue.lerp_((blue - red).mul_(scale).add_(2), is_green)
    hue = hue.lerp_((green - blue).mul_(scale), is_red).add_(6 * shift[:, None, None])
    hue.sub_((hue / 6).floor_(), alpha=6)
    red_way, green_way, blue_way = ((hue - k).abs_().sub_(1).clamp_(0, 1) for k in (3, 2, 4))
    torch.addcmul(low, chroma, red_way, out=red)
    torch.addcmul(high, chroma, green_way, value=-1, out=green)
    torch.addcmul(high, chroma, blue_way, value=-1, out=blue)
    return images


def color_jitter(images: torch.Tensor, order: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation and hue, in each sample's own order.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        order: (B, 4) permutations of 0..3, on the host: which operation comes first, second ...
        factors: (B, 4), on the host: of brightness, contrast and saturation (1: unchanged), and of hue (0: unchanged).
    """
    operations = (adjust_brightness_, adjust_contrast_, adjust_saturation_, adjust_hue_)
    unchanged = factors == torch.tensor([1.0, 1.0, 1.0, 0.0])
    order = order.long()
    chosen = order.masked_fill(unchanged.gather(1, order), len(operations))
    return in_groups(images, chosen, operations, factors.gather(1, order))


def solarize_(images: torch.Tensor, threshold: float | torch.Tensor = 0.5) -> torch.Tensor:
    """Invert what is at least `threshold`: one number, or one per sample (B,)."""
    limit = _per_sample(threshold) if isinstance(threshold, torch.Tensor) else threshold
    inverted = torch.ge(images, limit, out=torch.empty_like(images))  # 1 or 0
    return images.lerp_(1 - images, inverted)


def _per_sample(factor: torch.Tensor) -> torch.Tensor:
    return factor[:, None, None, None]
