"""Saved and read again: what the format does to the pixels, and no more."""

from __future__ import annotations

import numpy as np
from PIL import Image

from clzoo.images.altering import MOST_JPEG, saved


def test_png_keeps_every_pixel_and_jpeg_nearly():
    ramp = Image.fromarray(np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8))
    assert np.array_equal(saved(ramp, "PNG"), ramp)
    difference = np.abs(np.asarray(saved(ramp, "JPEG", quality=95), int) - np.asarray(ramp, int))
    assert 0 < difference.max() < 16


def test_a_side_that_jpeg_cannot_hold_is_scaled_down_to_what_it_can():
    assert saved(Image.new("RGB", (131_000, 40)), "JPEG", quality=75).size == (MOST_JPEG, 20)
    assert saved(Image.new("RGB", (4, 66_000)), "PNG").size == (4, 66_000)
