"""Random resized crops of a batch, each sample with its own box."""

import math

import torch

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
    area_u, ratio_u, top_u, left_u = u.double().view(-1, 4, _ATTEMPTS).unbind(1)  # each (B, 10)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratio_u)
    w = torch.sqrt(area * aspect).round().long()
    h = torch.sqrt(area / aspect).round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)  # (B, 10)
    top = (top_u * (height - h + 1)).long()
    left = (left_u * (width - w + 1)).long()
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)  # the first attempt that fits
    boxes = torch.stack([x.gather(1, first).squeeze(1) for x in (top, left, h, w)], dim=1)  # (B, 4)
    return torch.where(fits.any(dim=1, keepdim=True), boxes, _centre_box(height, width, ratio, u.device))


def _centre_box(height: int, width: int, ratio: tuple[float, float], device: torch.device) -> torch.Tensor:
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    return torch.tensor([(height - h) // 2, (width - w) // 2, h, w], device=device)


def resized_crop(images: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Cut each sample's box and resize it to a square with antialiased bilinear filtering.

    The filter is separable, so the whole batch is two matrix products with a small matrix per sample and side:
    rows (B, size, H) from the left, columns (B, W, size) from the right.

    Args:
        images: float (B, C, H, W).
        boxes: (B, 4) int64: top, left, height, width.
        size: side of the result, in pixels.

    Returns:
        float (B, C, size, size).
    """
    rows = _resize_matrix(boxes[:, 0], boxes[:, 2], images.shape[2], size)  # (B, size, H)
    columns = _resize_matrix(boxes[:, 1], boxes[:, 3], images.shape[3], size)  # (B, size, W)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _resize_matrix(start: torch.Tensor, length: torch.Tensor, source: int, size: int) -> torch.Tensor:
    """(B, size, source): row j holds the triangle filter's weights of output pixel j, zero outside the box."""
    step = (length / size)[:, None, None]  # source pixels per output pixel
    support = step.clamp(min=1)  # antialiasing: the triangle widens when the image shrinks
    output = torch.arange(size, device=start.device)[None, :, None]
    pixel = torch.arange(source, device=start.device)[None, None, :]
    centre = start[:, None, None] + (output + 0.5) * step
    weights = (1 - ((pixel + 0.5) - centre).abs() / support).clamp(min=0)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(dim=2, keepdim=True)
