"""Images that are addressed by number: what every kind of source becomes before anything is resized or held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from clzoo.data.content import Stamp, stamp_of
from clzoo.data.listing import Item, Listing
from clzoo.data.storage import is_remote
from clzoo.images import decode_image


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

    def content(self, row: int) -> bytes | np.ndarray:
        """The encoded image, or pixels uint8 (H, W, 3) that were never encoded.

        Raises:
            UnreadableImageError: the reason alone.
        """
        ...

    def stamp(self, row: int) -> Stamp | None:
        """Where the content lies now; None where it has no place that a later run would find."""
        ...


EXPECTED_LABELS = "Expected <class>/<image>.jpg in folders, or key.cls beside key.jpg in tar shards."
"""What to say where there are no labels."""


@dataclass(frozen=True)
class Collection:
    """A source of images, or one split of it: what `clzoo.data.opening.open_source` makes of every kind.

    Attributes:
        origin: where the split itself lies, for messages.
        labels: int64 (N,), positions in `classes`; None without labels.
        failures: "path: reason" of what looked like an image and could not even be listed.
        unlabelled: why there are no labels, and what to do.
        passed_over: what else the source holds, counted by kind.
        listing: the images by path, size and time, for what keeps them (a store); of a whole source alone.
        root: where the paths of `listing` start: an absolute folder, or a URL.
        drawn: the rule by which this split was drawn (clzoo.data.drawn); None where the source itself has it.
    """

    origin: str
    images: Images
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    unlabelled: str = EXPECTED_LABELS
    passed_over: Mapping[str, int] = field(default_factory=dict)
    listing: Listing | None = None
    root: str = ""
    drawn: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def items(self) -> list[Numbered]:
        """Each image for the embedding pipeline."""
        return [Numbered(self.images.name(row), 0, 0, self.images, row) for row in range(len(self))]


class Numbered(NamedTuple):
    """One image of a collection, as the embedding pipeline reads it."""

    path: str
    size: int
    mtime_ns: int
    images: Images
    row: int

    def read(self) -> bytes | np.ndarray:
        """As `Images.content`."""
        return self.images.content(self.row)


@dataclass(frozen=True)
class FileImages:
    """Files, or members of shards, decoded when they are asked for."""

    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, row: int) -> str:
        return self.items[row].path

    def read(self, row: int) -> Image.Image:
        content = self.content(row)
        return decode_image(content) if isinstance(content, bytes) else Image.fromarray(content)

    def content(self, row: int) -> bytes | np.ndarray:
        return self.items[row].read()

    def stamp(self, row: int) -> Stamp | None:
        item = self.items[row]
        if item.how and isinstance(item.how[0], ArrayImages):
            return item.how[0].stamp(item.offset or 0)
        if is_remote(item.file):  # which says its version by itself, or 0
            known = Stamp(item.file, item.offset or 0, item.size, 0, item.mtime_ns, 0)
            return known.of_column(_column_of(item)) if item.mtime_ns else None
        found = stamp_of(item.file, item.offset or 0)
        return found and found.of_column(_column_of(item))


def _column_of(item: Item) -> str | None:
    """The column of a Parquet file that an image is in; None of any other file."""
    return item.how[0] if item.how and isinstance(item.how[0], str) else None


def slow_at_random(images: Images) -> str | None:
    """Why images cost much when they are read in random order again and again; None where they do not."""
    item = images.items[0] if isinstance(images, FileImages) and images.items else None
    if item is None:
        return None
    if is_remote(item.file):
        return "every epoch brings every image through the network"
    if item.file.lower().endswith(".parquet"):
        return "a row of a Parquet file costs its row group, in every epoch"
    return None


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
        return Image.fromarray(self.content(row))

    def content(self, row: int) -> np.ndarray:
        return np.array(self.pixels[row])  # the copy waits for the disk outside Python's lock

    def stamp(self, row: int) -> Stamp | None:
        file = getattr(self.pixels, "filename", None)  # of a mapped array
        return None if file is None else stamp_of(file, row)


@dataclass(frozen=True)
class ChosenImages:
    """Some images of others: number n is their number `rows[n]`, int64 (N,)."""

    images: Images
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        return self.images.name(int(self.rows[row]))

    def read(self, row: int) -> Image.Image:
        return self.images.read(int(self.rows[row]))

    def content(self, row: int) -> bytes | np.ndarray:
        return self.images.content(int(self.rows[row]))

    def stamp(self, row: int) -> Stamp | None:
        return self.images.stamp(int(self.rows[row]))
