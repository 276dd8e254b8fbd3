"""From a batch of stored images to one random view of each: what the network sees in pretraining.

The order is that of the published chains: crop, flip, RandAugment, colour jitter, grayscale, blur, solarise, erase; the
loss of resolution, which none of them has, stands before the blur.
Some chains flip last (MoCo v2 and v3); a flip commutes with the colour operations and with the blur, so the place
after the crop is right for them too, and it costs nothing there.

The random numbers of a view are a row of uniforms. Every purpose has its own places in that row, so that switching one
operation on or off leaves the numbers of the others as they are:

    0-39   crop: area, aspect, top, left of ten attempts      51      blur, whether
    40     flip, whether                                      52      blur, sigma
    41-44  jitter, order (the sorting of four numbers)        53      solarise, whether
    45-48  jitter, factors                                    54      erase, whether
    49     jitter, whether                                    55-94   erase: area, aspect, top, left of ten attempts
    50     grayscale, whether                                 95-     RandAugment, five per layer
                                                              4000    downscale, whether
                                                              4001    downscale, to which side

They are drawn on the host, wherever the images lie: only parameters travel, and a device is never waited for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image

from clzoo.augment.blur import default_kernel_size, gaussian_blur
from clzoo.augment.color import color_jitter, grayscale, solarize_
from clzoo.augment.crop import draw_crop, draw_crops, resized_crop
from clzoo.augment.downscale import downscale, downscale_matrices
from clzoo.augment.erase import draw_erasures, erase
from clzoo.augment.rand_augment import DRAWS_PER_LAYER, parse_rand_augment, rand_augment
from clzoo.augment.random import uniform, uniforms
from clzoo.augment.rows import on_rows
from clzoo.device import to_device

_CROP, _FLIP = slice(0, 40), 40
_ORDER, _FACTORS, _JITTER = slice(41, 45), slice(45, 49), 49
_GRAYSCALE, _BLUR, _SIGMA, _SOLARIZE = 50, 51, 52, 53
_ERASE, _ERASE_BOX = 54, slice(55, 95)
_RAND_AUGMENT = 95
_DOWNSCALE = 4000  # two numbers, drawn apart from the others

_CACHED = 1 << 19  # values of a view that are worked on at a time on a CPU: 2 MiB


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
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # of the box's width to its height
    downscale: float = 0.0  # probability
    downscale_to: tuple[float, float] = (0.25, 1.0)  # of the side, uniform, before it is enlarged again
    blur: float = 0.0  # probability; the kernel is a tenth of the size
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels of the view
    solarize: float = 0.0  # probability; the threshold is 0.5
    rand_augment: str | None = None  # timm's string, such as "rand-m9-mstd0.5-inc1"
    erase: float = 0.0  # probability

    @property
    def only_crops(self) -> bool:
        """Whether nothing follows crop and flip."""
        later = (self.jitter, self.grayscale, self.downscale, self.blur, self.solarize, self.erase)
        return self.rand_augment is None and not any(later)

    def __post_init__(self) -> None:
        if self.rand_augment is not None:
            parse_rand_augment(self.rand_augment)  # a wrong string is refused before anything starts


def make_view(
    images: torch.Tensor, policy: ViewPolicy, *, seed: int, epoch: int, samples: torch.Tensor, view: int
) -> torch.Tensor:
    """One view of each image, a pure function of (seed, epoch, sample, view).

    Args:
        images: uint8 (B, H, W, 3).
        samples: (B,) int64 indices in the data set; best on the host, where the random numbers are drawn.
        view: 0, 1, ...

    Returns:
        float32 (B, 3, size, size) in [0, 1], not normalised, on the device of the images.
    """
    u = _draw(policy, seed, epoch, samples, view)
    boxes = draw_crops(u[:, _CROP], images.shape[1], images.shape[2], policy.crop_scale, policy.crop_ratio)
    mirrored = u[:, _FLIP] < policy.flip
    # A GPU multiplies half-precision matrices many times faster; pixels are exact there, weights to 2^-11.
    kind = torch.float16 if images.device.type == "cuda" else torch.float32
    result = torch.empty(len(images), 3, policy.size, policy.size, device=images.device)
    for part in _parts(images, policy):
        pixels = images[part].permute(0, 3, 1, 2).to(kind, memory_format=torch.contiguous_format)
        pixels = resized_crop(pixels, boxes[part], policy.size, mirrored[part], white=255).float()
        _finish(pixels, policy, u[part], result[part])
    return result


def crop_on_host(
    image: Image.Image, policy: ViewPolicy, *, seed: int, epoch: int, sample: int, view: int
) -> np.ndarray:
    """The first part of `make_view` for one image: the same box and flip, with Pillow's resize. For decode workers.

    Returns:
        uint8 (size, size, 3), for `finish_view`.
    """
    numbers = partial(uniform, seed, epoch, sample, view)
    top, left, height, width = draw_crop(numbers, image.height, image.width, policy.crop_scale, policy.crop_ratio)
    box = (left, top, left + width, top + height)
    # Not resize(box=...), whose filter reaches over the edge of the box into the rest of the image.
    crop = image.crop(box).convert("RGB").resize((policy.size, policy.size), Image.Resampling.BILINEAR)
    if numbers(_FLIP) < policy.flip:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(crop)


def finish_view(
    crops: torch.Tensor, policy: ViewPolicy, *, seed: int, epoch: int, samples: torch.Tensor, view: int
) -> torch.Tensor:
    """The second part of `make_view`, after `crop_on_host`: everything but crop and flip, for the whole batch.

    Args:
        crops: uint8 (B, size, size, 3).

    Returns:
        float32 (B, 3, size, size) in [0, 1], not normalised, on the device of the crops.
    """
    u = _draw(policy, seed, epoch, samples, view)
    result = torch.empty(len(crops), 3, *crops.shape[1:3], device=crops.device)
    for part in _parts(crops, policy):
        pixels = crops[part].permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        _finish(pixels, policy, u[part], result[part])
    return result


def _draw(policy: ViewPolicy, seed: int, epoch: int, samples: torch.Tensor, view: int) -> torch.Tensor:
    """The uniforms of the table above, as far as the policy needs them, on the host; those of downscale are last."""
    count = _RAND_AUGMENT if policy.erase else _ERASE
    if policy.rand_augment is not None:
        count = _RAND_AUGMENT + DRAWS_PER_LAYER * parse_rand_augment(policy.rand_augment).layers
    u = uniforms(seed, epoch, samples.cpu(), view, count)
    if not policy.downscale:
        return u
    return torch.cat([u, uniforms(seed, epoch, samples.cpu(), view, 2, start=_DOWNSCALE)], dim=1)


def _parts(images: torch.Tensor, policy: ViewPolicy) -> list[slice]:
    """The batch in slices: whole on a GPU; on a CPU so small that one stays in its cache from operation to operation.

    Larger buffers would also go back to the system after each operation, and fetching them again costs as much as the
    arithmetic.
    """
    count = max(len(images), 1)
    at_most = max(8, _CACHED // (3 * policy.size**2)) if images.device.type == "cpu" else count
    step = math.ceil(count / math.ceil(count / at_most))
    return [slice(start, start + step) for start in range(0, len(images), step)]


def _finish(pixels: torch.Tensor, policy: ViewPolicy, u: torch.Tensor, result: torch.Tensor) -> None:
    """Everything after crop and flip, from float pixels (B, 3, size, size), which are changed, into `result`."""
    if policy.rand_augment is not None:
        parsed = parse_rand_augment(policy.rand_augment)
        places = slice(_RAND_AUGMENT, _RAND_AUGMENT + DRAWS_PER_LAYER * parsed.layers)
        pixels = rand_augment(pixels, parsed, u[:, places])
    if policy.jitter:
        unchanged = u.new_tensor([1.0, 1.0, 1.0, 0.0])
        factors = torch.where(u[:, _JITTER, None] < policy.jitter, _jitter_factors(u[:, _FACTORS], policy), unchanged)
        pixels = color_jitter(pixels, u[:, _ORDER].argsort(dim=1), factors)
    on_rows(pixels, u[:, _GRAYSCALE] < policy.grayscale, lambda images: grayscale(images).expand_as(images))
    if policy.downscale:
        low, high = policy.downscale_to
        sides = ((low + (high - low) * u[:, -1]) * policy.size).round().long().clamp(min=1)
        _downscale_rows(pixels, u[:, -2] < policy.downscale, sides)
    if policy.blur:
        low, high = policy.blur_sigma
        sigma = low + (high - low) * u[:, _SIGMA]
        kernel_size = default_kernel_size(policy.size)
        on_rows(pixels, u[:, _BLUR] < policy.blur, lambda i, s: gaussian_blur(i, s, kernel_size), sigma)
    on_rows(pixels, u[:, _SOLARIZE] < policy.solarize, solarize_)
    if policy.erase:
        boxes = draw_erasures(u[:, _ERASE_BOX], policy.size, policy.size)
        on_rows(pixels, u[:, _ERASE] < policy.erase, erase, boxes)
    torch.clamp(pixels, 0, 1, out=result)  # rounding may have left 1.0000001


def _downscale_rows(pixels: torch.Tensor, chosen: torch.Tensor, sides: torch.Tensor) -> None:
    """Downscale the chosen (B,) of pixels (B, 3, S, S) to their sides (B,): only their matrices are made and sent."""
    if not chosen.any():
        return
    matrices, of_chosen = downscale_matrices(pixels.shape[-1], sides[chosen])
    matrices = to_device(matrices, pixels.device)  # (N, S, S)
    which = torch.zeros_like(sides).masked_scatter_(chosen, of_chosen)  # (B,), of no meaning where nothing is chosen
    on_rows(pixels, chosen, lambda images, which: downscale(images, matrices[which]), which)


def _jitter_factors(u: torch.Tensor, policy: ViewPolicy) -> torch.Tensor:
    """(B, 4) factors as torchvision's ColorJitter draws them: uniform in [max(0, 1 - s), 1 + s], hue in [-s, s]."""
    strengths = (policy.brightness, policy.contrast, policy.saturation)
    low = u.new_tensor([*(max(0.0, 1 - s) for s in strengths), -policy.hue])
    high = u.new_tensor([*(1 + s for s in strengths), policy.hue])
    return low + (high - low) * u
