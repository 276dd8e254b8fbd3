"""Decoding: whatever a file holds, out comes 8-bit sRGB, upright. Nothing else in clzoo opens images of others."""

from clzoo.images.decoding import (
    DECODING,
    MAX_PIXELS,
    SUFFIXES,
    as_levels,
    as_rgb,
    decode_image,
    max_pixels,
    set_max_pixels,
)

__all__ = [
    "DECODING",
    "MAX_PIXELS",
    "SUFFIXES",
    "as_levels",
    "as_rgb",
    "decode_image",
    "max_pixels",
    "set_max_pixels",
]
