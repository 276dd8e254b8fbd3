"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) with timm's increasing set and timm's distributions, batched.

Images are taken as 8-bit levels first, as in the published chain of PIL operations. Our choices: geometric operations
resample bilinearly (timm picks bilinear or bicubic at random) and fill with grey 128 (timm's default).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from clzoo.augment import rand_operations as operations
from clzoo.augment.color import adjust_brightness_, adjust_contrast_, adjust_saturation_, solarize_
from clzoo.augment.rows import Operation, in_groups
from clzoo.errors import ClzooError

DRAWS_PER_LAYER = 5  # operation, whether, magnitude (two for a normal number), sign
_FULL = 10.0  # the magnitude at which an operation has its full strength


@dataclass(frozen=True)
class RandAugment:
    """What timm's string says."""

    magnitude: float = 10.0  # m
    layers: int = 2  # n: operations in a row
    std: float = 0.0  # mstd: of the normal noise on the magnitude; above 100: uniform in [0, m] instead
    probability: float = 0.5  # p: that a layer does anything
    largest: float = _FULL  # mmax: bound of the noisy magnitude


_KEYS = {"m": "magnitude", "n": "layers", "mstd": "std", "p": "probability", "mmax": "largest"}


def parse_rand_augment(text: str) -> RandAugment:
    """Read timm's notation, for example "rand-m9-mstd0.5-inc1".

    Raises:
        ClzooError: not of that form, or without inc1: only the increasing set is here.
    """
    first, *parts = text.split("-")
    values: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+\.?\d*|inf)", part)
        if not match or match[1] not in (*_KEYS, "inc"):
            raise ClzooError(
                f"rand_augment {text!r}: {part!r} is none of m, n, mstd, p, mmax, inc with a number; "
                "expected something like rand-m9-mstd0.5-inc1"
            )
        values[match[1]] = float(match[2])
    if first != "rand" or values.pop("inc", 0) != 1:
        raise ClzooError(
            f"rand_augment {text!r}: expected something like rand-m9-mstd0.5-inc1: it begins with rand- and has inc1, "
            "timm's operations that grow with the magnitude"
        )
    values["n"] = layers = int(values.get("n", 2))
    if layers < 1 or values.get("p", 0.5) > 1:
        raise ClzooError(f"rand_augment {text!r}: n must be at least 1 and p at most 1")
    return RandAugment(**{_KEYS[key]: value for key, value in values.items()})  # type: ignore[arg-type]


def rand_augment(images: torch.Tensor, policy: RandAugment, u: torch.Tensor) -> torch.Tensor:
    """Each sample through its own operations.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        u: (B, layers * 5) uniforms, on the host.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    images = (images * 255).round_().div_(255)
    chosen, arguments = draw_operations(policy, u)
    return in_groups(images, chosen, [operation for operation, _ in OPERATIONS.values()], arguments)


def draw_operations(policy: RandAugment, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which operation, by its place in OPERATIONS (their number for none), and its argument: (B, layers) each."""
    which, whether, radius, angle, sign = u.reshape(-1, policy.layers, DRAWS_PER_LAYER).unbind(2)
    chosen = (which * len(OPERATIONS)).long()
    if policy.std > 100:
        magnitude = policy.magnitude * radius
    else:
        normal = torch.sqrt(-2 * torch.log1p(-radius)) * torch.cos(2 * math.pi * angle)  # Box and Muller
        magnitude = policy.magnitude + policy.std * normal
    level = magnitude.clamp(0, policy.largest) / _FULL
    signed = torch.where(sign > 0.5, -level, level)
    arguments = torch.stack([argument(level, signed) for _, argument in OPERATIONS.values()], dim=-1)  # (B, layers, 15)
    arguments = arguments.gather(2, chosen[:, :, None]).squeeze(2)
    return chosen.masked_fill(whether > policy.probability, len(OPERATIONS)), arguments


def _enhancement(level: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
    return (1 + 0.9 * signed).clamp(min=0.1)  # 1 changes nothing


# Each with its argument from the level in [0, 1] and the same with a random sign.
OPERATIONS: dict[str, tuple[Operation, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "AutoContrast": (operations.auto_contrast_, lambda level, signed: level),
    "Equalize": (operations.equalize_, lambda level, signed: level),
    "Invert": (operations.invert_, lambda level, signed: level),
    "Rotate": (operations.rotate_, lambda level, signed: 30 * signed),
    "PosterizeIncreasing": (operations.posterize_, lambda level, signed: 4 - (4 * level).floor()),
    "SolarizeIncreasing": (solarize_, lambda level, signed: (256 - (256 * level).floor()).clamp(min=0) / 255),
    "SolarizeAdd": (operations.solarize_add_, lambda level, signed: (110 * level).floor().clamp(max=128) / 255),
    "ColorIncreasing": (adjust_saturation_, _enhancement),
    "ContrastIncreasing": (adjust_contrast_, _enhancement),
    "BrightnessIncreasing": (adjust_brightness_, _enhancement),
    "SharpnessIncreasing": (operations.adjust_sharpness_, _enhancement),
    "ShearX": (operations.shear_x_, lambda level, signed: 0.3 * signed),
    "ShearY": (operations.shear_y_, lambda level, signed: 0.3 * signed),
    "TranslateXRel": (operations.translate_x_, lambda level, signed: 0.45 * signed),
    "TranslateYRel": (operations.translate_y_, lambda level, signed: 0.45 * signed),
}
