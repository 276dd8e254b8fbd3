"""Small pictures of a collection: one at a time for a server, in sprite sheets for a page that is one file."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clzoo.curation.pictures import Pictures
from clzoo.data.parallel import in_order
from clzoo.errors import UnreadableImageError
from clzoo.progress import with_progress

log = logging.getLogger("clzoo")

ACROSS = 16
"""Pictures in a row of a sheet, and rows of a sheet."""

QUALITIES = (82, 65, 45)
"""Of the sheets' WebP, the first that fits."""

_SIDES = ((300, 224), (2_000, 128), (6_000, 96), (math.inf, 64))  # pictures up to which a tile has so many pixels
_PAPER = (255, 255, 255)  # behind a picture that is not square: transparency is laid over white everywhere here


def tile_side(count: int) -> int:
    """Pixels of a tile's side where so many pictures go into one file."""
    return next(side for most, side in _SIDES if count <= most)


def encoded(image: Image.Image, side: int, quality: int = 85) -> bytes:
    """A picture as JPEG, its longer side at most `side` pixels."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Sheets:
    """Tiles (side x side pixels) of N pictures, 256 a sheet, in an order that keeps neighbors on the map together.

    Attributes:
        place: int32 (N,), number of each picture's tile: sheet * 256 + row * 16 + column.
        shapes: uint8 (N, 2), width and height inside the tile, in which the picture stands centered.
        missing: why a picture is not there, by position.
        content: each sheet as WebP.
    """

    side: int
    place: np.ndarray
    shapes: np.ndarray
    missing: dict[int, str]
    content: list[bytes]

    @property
    def size(self) -> int:
        """Bytes of all sheets."""
        return sum(map(len, self.content))


def make_sheets(
    pictures: Pictures, rows: np.ndarray, places: np.ndarray, fits: Callable[[int], bool] = lambda _: True
) -> Sheets | None:
    """The sheets of some rows (N,) of a store, which lie at `places` (N, 2) on the map.

    A picture that cannot be read gets an empty tile, and a warning counts them.

    Args:
        fits: whether so many bytes are few enough; the first of QUALITIES that fits is taken.

    Returns:
        None where none of them fits.
    """
    side = tile_side(len(rows))
    order = along_curve(places)
    shapes = np.zeros((len(rows), 2), np.uint8)
    missing: dict[int, str] = {}
    pixels: list[Image.Image] = []
    found = in_order(lambda place: _tile(pictures, int(rows[order[place]]), side), len(rows))
    tiles = zip(order.tolist(), with_progress(found, len(rows), "thumbnails"), strict=True)
    for sheet in _sheets(len(rows), side):
        for corner in _corners(len(order), len(pixels), side):
            position, tile = next(tiles)
            if isinstance(tile, str):
                missing[position] = tile
                continue
            shapes[position] = tile.size
            sheet.paste(tile, (corner[0] + (side - tile.width) // 2, corner[1] + (side - tile.height) // 2))
        pixels.append(sheet)
    if missing:
        first = min(missing)
        log.warning(
            "%d of %d pictures have no thumbnail; the first is %s: %s",
            len(missing),
            len(rows),
            pictures.store.paths[int(rows[first])],
            missing[first],
        )
    place = np.empty(len(rows), np.int32)
    place[order] = np.arange(len(rows))
    for quality in QUALITIES:
        content = list(in_order(lambda number: _webp(pixels[number], quality), len(pixels)))  # noqa: B023
        if fits(sum(map(len, content))):
            return Sheets(side, place, shapes, missing, content)
    return None


def along_curve(places: np.ndarray) -> np.ndarray:
    """Positions (N,) in the order of a curve through the map, so that what is seen together lies on few sheets.

    Args:
        places: (N, 2) from -1 to 1. The curve is Morton's: the bits of both coordinates, interleaved.
    """
    cells = ((places + 1) / 2 * 1023).clip(0, 1023).astype(np.int64)
    bits = np.arange(10)
    spread = ((cells[:, :, None] >> bits & 1) << 2 * bits).sum(axis=2)  # (N, 2)
    return np.argsort(spread[:, 0] | spread[:, 1] << 1, kind="stable")


def _sheets(count: int, side: int) -> Iterator[Image.Image]:
    for start in range(0, count, ACROSS * ACROSS):
        rows = min(ACROSS, -(-(count - start) // ACROSS))
        yield Image.new("RGB", (ACROSS * side, rows * side), _PAPER)


def _corners(count: int, sheet: int, side: int) -> Iterator[tuple[int, int]]:
    start = sheet * ACROSS * ACROSS
    for number in range(min(count - start, ACROSS * ACROSS)):
        yield side * (number % ACROSS), side * (number // ACROSS)


def _tile(pictures: Pictures, row: int, side: int) -> Image.Image | str:
    """The picture at the size of a tile, or why there is none."""
    try:
        image = pictures.image(row)
    except UnreadableImageError as error:
        return str(error)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _webp(sheet: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()
