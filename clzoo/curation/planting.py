"""Copies of an image as they come about: saved again, made smaller, cut, mirrored, turned, brightened, captioned."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance

from clzoo.images.altering import saved, scaled


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: saved(image, "JPEG", quality=quality)


def _cut(image: Image.Image) -> Image.Image:
    """The middle, of 90 % of each side."""
    across, down = round(image.width * 0.05), round(image.height * 0.05)
    return image.crop((across, down, image.width - across, image.height - down))


def _captioned(image: Image.Image) -> Image.Image:
    """A white bar over the lowest eighth, with black text."""
    copy = image.copy()
    top = copy.height - max(1, copy.height // 8)
    draw = ImageDraw.Draw(copy)
    draw.rectangle((0, top, copy.width, copy.height), fill="white")
    draw.text((2, top), "caption", fill="black", font_size=max(4, (copy.height - top) * 3 // 4))
    return copy


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "PNG": lambda image: saved(image, "PNG"),
    "JPEG, quality 95": _jpeg(95),
    "JPEG, quality 75": _jpeg(75),
    "JPEG, quality 40": _jpeg(40),
    "half the size": lambda image: scaled(image, 1 / 2),
    "a quarter of the size": lambda image: scaled(image, 1 / 4),
    "cut to 90 % of each side": _cut,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "brighter by a fifth": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "caption bar": _captioned,
}
"""The copies that are planted, by name: functions of an RGB image."""
