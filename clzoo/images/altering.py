"""An image as it is passed on: saved again, made smaller."""

from __future__ import annotations

import io

from PIL import Image

from clzoo.images.decoding import decode_image

MOST_JPEG = 65_500
"""Pixels of a side that libjpeg writes."""


def scaled(image: Image.Image, share: float) -> Image.Image:
    """Both sides times `share`, of one pixel at least (Lanczos)."""
    sides = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(sides, Image.Resampling.LANCZOS)


def saved(image: Image.Image, kind: str, **options: int) -> Image.Image:
    """Written as `kind`, "PNG" or "JPEG", with Pillow's options, and read again.

    What JPEG cannot hold is scaled down to what it can, as whoever saves such a picture has to.
    """
    if kind == "JPEG" and max(image.size) > MOST_JPEG:
        image = scaled(image, MOST_JPEG / max(image.size))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return decode_image(buffer.getvalue())
