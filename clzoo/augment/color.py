"""Colour operations on float images (B, 3, H, W) in [0, 1], each sample with its own strength.

The formulas are torchvision's (its functional operations on float tensors), for one factor per sample.
"""

import torch

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision rounds it


def grayscale(images: torch.Tensor) -> torch.Tensor:
    """Luma, (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply by factor (B,); 1 changes nothing, 0 gives black."""
    return (images * _per_sample(factor)).clamp(0, 1)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the image's mean luma; 1 changes nothing, 0 gives flat grey."""
    mean = grayscale(images).mean(dim=(2, 3), keepdim=True)  # (B, 1, 1, 1)
    return _blend(images, mean, factor)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the luma of each pixel; 1 changes nothing, 0 gives grey."""
    return _blend(images, grayscale(images), factor)


def adjust_hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue by shift (B,) in turns, [-0.5, 0.5]; value and saturation stay.

    A turn of the hue keeps a pixel's largest value v and its chroma c = max - min; the channels follow from the hue
    angle h in sixths: v - c * clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6, n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = images.unbind(1)  # each (B, H, W)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    safe = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * shift[:, None, None]
    k = (hue[:, None] + hue.new_tensor([5.0, 3.0, 1.0])[:, None, None]) % 6  # (B, 3, H, W)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def color_jitter(images: torch.Tensor, order: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation and hue, in each sample's own order.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        order: (B, 4) permutations of 0..3: which operation comes first, second ...
        factors: (B, 4) strength of brightness, contrast, saturation (1: unchanged) and hue (0: unchanged).
    """
    images = images.clone()
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    neutral = factors.new_tensor([1.0, 1.0, 1.0, 0.0])
    for place in range(4):
        for number, operation in enumerate(operations):
            chosen = (order[:, place] == number) & (factors[:, number] != neutral[number])
            rows = chosen.nonzero().squeeze(1)
            if len(rows):
                images[rows] = operation(images[rows], factors[rows, number])
    return images


def _blend(images: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    f = _per_sample(factor)
    return (f * images + (1 - f) * other).clamp(0, 1)


def _per_sample(factor: torch.Tensor) -> torch.Tensor:
    return factor[:, None, None, None]
