"""Decode many images to one size, in order: what resident sets and packs are made of."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from clzoo.config import Preprocessing
from clzoo.data.collection import ArrayImages, Images
from clzoo.data.parallel import in_order
from clzoo.errors import UnreadableImageError
from clzoo.progress import with_progress
from clzoo.transform import resize_and_crop

log = logging.getLogger("clzoo")


def decode_rows(images: Images, rows: np.ndarray, size: int, what: str) -> Iterator[np.ndarray | str]:
    """uint8 (size, size, 3) of each row in turn, or "name: reason" of one that cannot be decoded.

    The shorter side is resized to `size` with antialiasing, bicubic, and the centre is cut out (our choice). Unreadable
    images are logged. On a terminal a progress bar shows `what`, unless the logger `clzoo` is quiet.
    """
    preprocessing = Preprocessing(size=size, crop_pct=1.0)

    def decode(position: int) -> np.ndarray | str:
        row = int(rows[position])
        try:
            return resize_and_crop(images.read(row), preprocessing)
        except UnreadableImageError as reason:
            return f"{images.name(row)}: {reason}"

    for result in with_progress(in_order(decode, len(rows)), len(rows), what):
        if isinstance(result, str):
            log.warning("skipped %s", result)
        yield result


def decode_into_memory(images: Images, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Hold the chosen images in memory.

    Returns:
        pixels uint8 (N, size, size, 3), the rows that could be decoded (N,), and "name: reason" of the others.
    """
    if isinstance(images, ArrayImages) and images.pixels.shape[1:] == (size, size, 3):
        whole = len(rows) == len(images)
        return np.ascontiguousarray(images.pixels if whole else images.pixels[rows]), rows, []
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    kept: list[int] = []
    skipped: list[str] = []
    for row, result in zip(rows.tolist(), decode_rows(images, rows, size, "decoding"), strict=True):
        if isinstance(result, str):
            skipped.append(result)
        else:
            pixels[len(kept)] = result
            kept.append(row)
    return pixels[: len(kept)], np.array(kept, np.int64), skipped
