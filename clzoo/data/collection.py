"""Images that are addressed by number: what every kind of source becomes before anything is resized or held."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from clzoo.data.images import decode_image
from clzoo.data.sources import Item


class Images(Protocol):
    """Any image of a source, by its number, from any thread."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """How people find the image: its path, or its number."""
        ...

    def read(self, row: int) -> Image.Image:
        """The image as RGB.

        Raises:
            UnreadableImageError: the reason alone.
        """
        ...

    def digest(self, rows: np.ndarray) -> str:
        """Hexadecimal SHA-256 of what tells these images from others without decoding them."""
        ...


EXPECTED_LABELS = "Expected <class>/<image>.jpg in folders, or key.cls beside key.jpg in tar shards."
"""What to say where there are no labels."""


@dataclass(frozen=True)
class Collection:
    """One split of a source of images.

    Attributes:
        origin: where the split itself lies, for messages.
        labels: int64 (N,), positions in `classes`; None without labels.
        failures: "path: reason" of what looked like an image and could not even be listed.
        unlabelled: why there are no labels, and what to do.
        passed_over: what else the source holds, counted by kind.
    """

    origin: str
    images: Images
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    unlabelled: str = EXPECTED_LABELS
    passed_over: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FileImages:
    """Files, or members of shards, decoded when they are asked for."""

    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, row: int) -> str:
        return self.items[row].path

    def read(self, row: int) -> Image.Image:
        return decode_image(self.items[row].read())

    def digest(self, rows: np.ndarray) -> str:
        """Of paths and sizes: times change when a data set is copied, and reading everything takes too long."""
        digest = hashlib.sha256()
        for row in rows:
            item = self.items[row]
            digest.update(f"{item.path}\0{item.size}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class ArrayImages:
    """Decoded images: uint8 (N, H, W, 3), in memory or mapped.

    `sha256` is of the whole array where it is known, so that a mapped array need not be read.
    """

    pixels: np.ndarray
    sha256: str | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, row: int) -> str:
        return f"image {row}"

    def read(self, row: int) -> Image.Image:
        return Image.fromarray(np.array(self.pixels[row]))  # the copy waits for the disk outside Python's lock

    def digest(self, rows: np.ndarray) -> str:
        """Of the pixels, or of their known digest and the numbers."""
        if self.sha256 is not None:
            return hashlib.sha256(self.sha256.encode() + rows.astype("<i8").tobytes()).hexdigest()
        digest = hashlib.sha256()
        for row in rows:
            digest.update(np.ascontiguousarray(self.pixels[row]).data)
        return digest.hexdigest()
