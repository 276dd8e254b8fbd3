"""The report of a job as one self-contained page: what was found in words and tables, and the pictures. No script."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from clzoo.curation.calibration import Calibration
from clzoo.curation.pictures import ImagesByRow
from clzoo.errors import UnreadableImageError
from clzoo.files import output_path
from clzoo.images import decode_image
from clzoo.page import data_uri, stream

log = logging.getLogger("clzoo")

MOST_PICTURES = 1000
"""Thumbnails of a page: some 4 MB."""

_SIDE, _QUALITY = 144, 80  # pixels, JPEG


@dataclass(frozen=True)
class Tile:
    """A picture with words below it. `kind` frames it: "good", "bad" or ""."""

    images: ImagesByRow
    row: int
    note: str
    kind: str = ""

    @property
    def path(self) -> str:
        """Of the image, in its store."""
        return self.images.paths[self.row]

    @property
    def name(self) -> str:
        """The file's name, with its folder's where it holds no letter."""
        path = PurePosixPath(self.path)
        return path.name if any(map(str.isalpha, path.stem)) or not path.parent.name else "/".join(path.parts[-2:])


@dataclass(frozen=True)
class Section:
    """Pictures that belong together, under a line of words."""

    heading: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Table:
    """Rows under column names; numbers stand to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def kinds_table(calibration: Calibration) -> Table:
    """What became of the planted copies, a kind a row."""
    rows = [(k.name, f"{k.found:.1%}", k.lowest, k.median, k.verdict) for k in calibration.kinds]
    return Table(("planted copies", "found", "95 % reach", "median cosine", "this encoder"), rows)


def write_page(
    path: str | Path,
    *,
    title: str,
    facts: Sequence[str],
    notes: Sequence[str],
    sections: Sequence[Section],
    tables: Sequence[Table] = (),
    most: int = MOST_PICTURES,
) -> Path:
    """Write a page atomically; returns its path.

    A picture that cannot be read keeps its place, with the reason in it. Of more than `most` pictures those of the
    first sections are shown, and the page says how many sections are left out.
    """
    path = Path(path)
    shown = list(_within(sections, most))
    left_out = len(sections) - len(shown)
    if left_out:
        notes = [*notes, f"Shown are the first {len(shown)} of {len(sections)}; --json lists all."]
    page = stream(
        "curation.html", title=title, facts=facts, notes=notes, tables=tables, sections=shown, picture=_picture
    )
    with (
        output_path(path) as temporary,
        # A file name that is not valid Unicode is shown with its bytes spelt out.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(page)
    return path


def _within(sections: Sequence[Section], most: int) -> Iterator[Section]:
    left = most
    for section in sections:
        if left <= 0:
            return
        tiles = section.tiles[:left]
        left -= len(tiles)
        cut = len(section.tiles) - len(tiles)
        yield Section(section.heading + (f" ({cut} more are not shown)" if cut else ""), tiles)


def _picture(tile: Tile) -> dict[str, str]:
    """The thumbnail as a data URI, or the reason why there is none."""
    try:
        image = decode_image(tile.images.image_bytes(tile.row))
    except UnreadableImageError as error:
        log.warning("%s has no thumbnail: %s", tile.path, error)
        return {"uri": "", "reason": str(error)}
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return {"uri": data_uri(buffer.getvalue(), "jpeg"), "reason": ""}
