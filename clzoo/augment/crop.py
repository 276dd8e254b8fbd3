"""Random resized crops of a batch, each sample with its own box."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from clzoo.device import to_device

_ATTEMPTS = 10  # as torchvision: then the centre is taken


def draw_crops(
    u: torch.Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> torch.Tensor:
    """Boxes distributed as torchvision's RandomResizedCrop draws them.

    Args:
        u: (B, 40) uniforms: area, aspect, top and left for each of ten attempts.
        height, width: of the images, in pixels.
        scale: range of the box's share of the image area.
        ratio: range of width / height, log-uniform.

    Returns:
        (B, 4) int64: top, left, height, width. The first attempt that fits; else the largest centred box of a legal
        aspect.
    """
    boxes, fits = first_fitting_box(u, (height, width), scale, ratio, (height, width))
    return torch.where(fits[:, None], boxes, torch.tensor(_centre_box(height, width, ratio)))


def draw_crop(
    u: Callable[[int], float], height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """The same box for one image, where `u` gives the uniform at a position; almost always four of them do."""
    for attempt in range(_ATTEMPTS):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u(attempt))
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u(_ATTEMPTS + attempt))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = u(2 * _ATTEMPTS + attempt), u(3 * _ATTEMPTS + attempt)
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    return _centre_box(height, width, ratio)


def first_fitting_box(
    u: torch.Tensor,
    image: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    largest: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of ten random boxes the first that is not larger than `largest` (height, width).

    Returns:
        (B, 4) int64: top, left, height, width; and (B,) bool: whether any fitted.
    """
    height, width = image
    area_u, ratio_u, top_u, left_u = u.double().reshape(-1, 4, _ATTEMPTS).unbind(1)  # each (B, 10)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratio_u)
    w = torch.sqrt(area * aspect).round().long()
    h = torch.sqrt(area / aspect).round().long()
    fits = (w > 0) & (w <= largest[1]) & (h > 0) & (h <= largest[0])  # (B, 10)
    top = (top_u * (height - h + 1)).long()
    left = (left_u * (width - w + 1)).long()
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    boxes = torch.stack([x.gather(1, first).squeeze(1) for x in (top, left, h, w)], dim=1)
    return boxes, fits.any(dim=1)


def _centre_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def resized_crop(
    images: torch.Tensor, boxes: torch.Tensor, size: int, mirrored: torch.Tensor | None = None, white: float = 1.0
) -> torch.Tensor:
    """Cut each sample's box and resize it to a square with antialiased bilinear filtering.

    The filter is separable, so the whole batch is two matrix products with a small matrix per sample and side:
    one (B, W, size) from the right, one (B, size, H) from the left.

    Args:
        images: floating (B, C, H, W), contiguous; computed in their type, with weights made in float32.
        boxes: (B, 4) int64, on the host: top, left, height, width.
        size: side of the result, in pixels.
        mirrored: (B,) bool, on the host: samples whose result is flipped left to right.
        white: the value that becomes 1.

    Returns:
        (B, C, size, size), the type of the images.
    """
    count, channels, height, width = images.shape
    place = to_device(boxes, images.device)
    forward = torch.arange(size, device=images.device)[None, :]
    across = forward
    if mirrored is not None:
        across = torch.where(to_device(mirrored, images.device)[:, None], forward.flip(1), forward)
    columns = _resize_matrix(place[:, 1], place[:, 3], width, size, across).to(images.dtype)  # (B, W, size)
    rows = _resize_matrix(place[:, 0], place[:, 2], height, size, forward, white).to(images.dtype)  # (B, H, size)
    narrow = images.view(count, channels * height, width) @ columns  # (B, C * H, size)
    return rows.transpose(1, 2)[:, None] @ narrow.view(count, channels, height, size)


def _resize_matrix(
    start: torch.Tensor, length: torch.Tensor, source: int, size: int, output: torch.Tensor, white: float = 1.0
) -> torch.Tensor:
    """(B, source, size): column j holds the triangle filter's weights of output pixel output[j], zero outside the box.

    A column sums to 1 / white.
    """
    step = (length / size)[:, None]  # (B, 1): source pixels per output pixel
    support = step.clamp(min=1)  # antialiasing: the triangle widens when the image shrinks
    centre = start[:, None] + (output + 0.5) * step  # (B, size)
    pixel = torch.arange(source, device=start.device)[None, :]
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])
    position = torch.where(inside, pixel + 0.5, math.inf)  # (B, source): infinitely far, where outside the box
    weights = position[:, :, None] - centre[:, None, :]
    weights = weights.abs_().mul_(-1 / support[:, :, None]).add_(1).clamp_(min=0)
    return weights.div_(white * weights.sum(dim=1, keepdim=True))
