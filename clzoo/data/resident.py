"""A labelled image folder, decoded once and held in memory as uint8: for data sets of small images."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clzoo.config import Preprocessing
from clzoo.data.images import SUFFIXES, decode_image
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.transform import resize_and_crop

log = logging.getLogger("clzoo")

MEMORY_BUDGET = 8 << 30  # bytes; larger sets would need a loader that streams


@dataclass(frozen=True)
class ImageSet:
    """Images and labels in the order of their sorted paths.

    Attributes:
        pixels: uint8 (N, size, size, 3).
        labels: int64 (N,), positions in `classes`.
        skipped: "path: reason" of every file that could not be decoded.
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    skipped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)


def find_split(root: Path, *names: str) -> Path | None:
    """The first of the sub-folders `names` of `root` that exists."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def load_image_folder(folder: Path, size: int) -> ImageSet:
    """Read `folder/<class>/**/image`: shorter side to `size`, centre crop, all in memory.

    Raises:
        ClzooError: no such folder, no class sub-folders with images, or more than the memory budget of 8 GiB.
    """
    if not folder.is_dir():
        raise ClzooError(
            f"{folder} is not a folder. Expected class sub-folders with images: clzoo pretrain R --data DIR"
        )
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise ClzooError(f"{folder} holds no images in class sub-folders; expected {folder}/<class>/<image>.jpg")
    if (need := len(files) * size * size * 3) > MEMORY_BUDGET:
        raise ClzooError(
            f"{folder}: {len(files)} images of {size} px take {need / 2**30:.1f} GiB in memory, the limit is "
            f"{MEMORY_BUDGET / 2**30:.0f} GiB. Lower data.size: clzoo pretrain R --set data.size={size // 2}"
        )
    return _decode_all(files, tuple(classes), size)


def _decode_all(files: list[tuple[Path, int]], classes: tuple[str, ...], size: int) -> ImageSet:
    preprocessing = Preprocessing(size=size, crop_pct=1.0)
    pixels = np.empty((len(files), size, size, 3), np.uint8)
    readable = np.ones(len(files), bool)
    skipped: list[str] = []

    def decode(row: int) -> str | None:
        try:
            pixels[row] = resize_and_crop(decode_image(files[row][0]), preprocessing)
            return None
        except UnreadableImageError as reason:
            return str(reason)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, problem in enumerate(pool.map(decode, range(len(files)))):
            if problem is not None:
                readable[row] = False
                skipped.append(f"{files[row][0]}: {problem}")
                log.warning("skipped %s", skipped[-1])
    labels = np.array([label for _, label in files], np.int64)
    if skipped:
        log.warning("%d of %d images could not be decoded and are left out", len(skipped), len(files))
        pixels, labels = pixels[readable], labels[readable]
    return ImageSet(pixels, labels, classes, tuple(skipped))
