"""An image as a file's format leaves it: written and read again."""

from __future__ import annotations

import io

from PIL import Image

from clzoo.images.decoding import decode_image

MOST_JPEG = 65_500
"""Pixels of a side that libjpeg writes."""


def saved(image: Image.Image, kind: str, **options: int) -> Image.Image:
    """Written as `kind`, "PNG" or "JPEG", with Pillow's options, and read again.

    What JPEG cannot hold is scaled down to what it can, as whoever saves such a picture has to.
    """
    if kind == "JPEG" and max(image.size) > MOST_JPEG:
        share = MOST_JPEG / max(image.size)
        width, height = (max(1, round(side * share)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return decode_image(buffer.getvalue())
