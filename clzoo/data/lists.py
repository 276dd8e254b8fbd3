"""Lists of paths: a text file with one a line, or a table (CSV, TSV, Parquet) with a column of paths.

The other columns of a table are kept beside the images, as `Listing.metadata`; a column `label` (in any case, as those
of paths) states their labels.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
from collections.abc import Container, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from clzoo.data.listing import Listing, is_image
from clzoo.errors import ClzooError

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("clzoo")

TABLES = (".csv", ".tsv", ".parquet")
"""Suffixes of lists with columns; every other list is text."""

PATHS = ("path", "file_path", "filepath", "file", "file_name", "filename", "image_path", "img_path", "image", "img")
"""Columns that are taken for the paths, the first that is there."""

LABEL = "label"
_FIELD_LIMIT = 1 << 20  # characters of one cell


class PathList(NamedTuple):
    """What a list says."""

    paths: list[str]
    table: pa.Table | None = None  # the other columns, a row for each path


def read_list(content: bytes, name: str, source: str, column: str | None = None) -> PathList:
    """The paths in a list, as they are written there.

    Args:
        name: of the file; its suffix says which kind it is.
        source: what the user named, for messages.
        column: the one that holds the paths; None finds it by its name.

    Raises:
        ClzooError: it is not text, or a table without such a column, or with a row of another length.
    """
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if suffix == ".parquet":
        return _of_parquet(content, source, column)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as spreadsheets write text
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ClzooError(f"{source} is not UTF-8 text; expected one image path a line.") from error
    if "\0" in text:
        raise ClzooError(
            f"{source} holds NUL characters, as find -print0 writes them; expected one image path a line, in UTF-8. "
            "Write it anew: find DIR -name '*.jpg' > LIST.txt"
        )
    if suffix in TABLES:
        rows = _rows_of(text, "\t" if suffix == ".tsv" else _mark_of(text, column), source)
        if rows and (column is not None or len(rows[0]) > 1 or rows[0][0].strip().lower() in PATHS):
            return _of_table(rows, source, column)
    elif column is not None:
        raise ClzooError(f"{source} is a list without columns; leave out #column={column}.")
    return PathList([line.strip() for line in text.splitlines() if line.strip()])


def path_column(columns: Sequence[str], source: str, wanted: str | None) -> str:
    """The column that holds the paths.

    Raises:
        ClzooError: there is none of that name, or of any that is known.
    """
    known = {name.strip().lower(): name for name in reversed(columns)}
    found = wanted if wanted in columns else None
    if wanted is None:
        found = next((known[name] for name in PATHS if name in known), None)
    if found is None:
        missing = "none of them is called path" if wanted is None else f"there is no {wanted}"
        shown = ", ".join(columns[:12])
        raise ClzooError(
            f"{source} has the columns {shown}; {missing}. Say which holds the paths: {source}#column=NAME"
        )
    return found


def keep_table(listing: Listing, paths: Sequence[str], table: pa.Table | None) -> None:
    """Give the items of a finished listing their rows of the list's table, and the labels that it states.

    Args:
        paths: of each row of the table, an image or a shard, whose images all have the row; of one that stands there
            again the first row counts.
    """
    if table is None:
        return
    import pyarrow as pa

    rows = {path: row for row, path in reversed(list(enumerate(paths)))}
    order = [rows[_listed_as(item.path, rows)] for item in listing.items]
    listing.metadata = table.take(pa.array(order, pa.int64())).combine_chunks()
    known = {name.strip().lower(): name for name in reversed(table.column_names)}
    if LABEL not in known:
        return
    column = LABEL if LABEL in table.column_names else known[LABEL]
    stated = ["" if value is None else str(value).strip() for value in table[column].to_pylist()]
    labels = [stated[row] or None for row in order]
    if any(labels) and not all(labels):
        log.warning(
            "%d of %d images have no label in the column %r: the name of their first sub-folder is taken for it",
            sum(not label for label in labels),
            len(labels),
            column,
        )
    if other := {path: row for row, path in enumerate(paths) if stated[row] != stated[rows[path]]}:
        path, row = next(iter(other.items()))
        log.warning(
            "%d images stand in the list again with another label, and the first counts: %s is %r and then %r",
            len(other),
            path,
            stated[rows[path]],
            stated[row],
        )
    listing.items = [
        item._replace(label=label or item.label) for item, label in zip(listing.items, labels, strict=True)
    ]


def _listed_as(path: str, listed: Container[str]) -> str:
    """How a list names an image: by its path, or by that of the shard in which it lies."""
    return path if path in listed else next(str(place) for place in PurePosixPath(path).parents if str(place) in listed)


def _mark_of(text: str, column: str | None) -> str:
    """What stands between the cells: a semicolon or a tab, if it and no comma parts a column of paths from others."""
    head = text.lstrip("\r\n").partition("\n")[0]
    for mark in (",", ";", "\t"):
        cells = [cell.strip() for cell in next(csv.reader([head], delimiter=mark), [])]
        if len(cells) > 1 and (column in cells or any(cell.lower() in PATHS for cell in cells)):
            return mark
    return ","


def _rows_of(text: str, delimiter: str, source: str) -> list[list[str]]:
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise ClzooError(f"{source} is a damaged table: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _of_table(rows: list[list[str]], source: str, column: str | None) -> PathList:
    """Values stay text: a table of text says no types, and `007` is no 7."""
    import pyarrow as pa

    header, body = [name.strip() for name in rows[0]], rows[1:]
    if (place := next((place for place, cell in enumerate(header) if is_image(cell)), None)) is not None:
        names = ",".join("path" if number == place else f"column{number + 1}" for number in range(len(header)))
        raise ClzooError(
            f"{source} begins with an image ({header[place]}); expected names of columns in the first row. Put them "
            f"above it, such as: {names} (a column of labels is called label)"
        )
    if len(set(header)) < len(header):
        raise ClzooError(f"{source} has two columns of one name: {', '.join(header)}. Rename one of them.")
    chosen = header.index(path_column(header, source, column))
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise ClzooError(f"{source}, row {number}: {len(row)} values, expected {len(header)} as in the first row.")
        if not row[chosen].strip():
            raise ClzooError(f"{source}, row {number}: the column {header[chosen]} is empty; expected a path.")
    columns: dict[str, Any] = {
        name: pa.array([row[place] for row in body], pa.string())
        for place, name in enumerate(header)
        if place != chosen
    }
    return PathList([row[chosen].strip() for row in body], pa.table(columns) if columns else None)


def _of_parquet(content: bytes, source: str, column: str | None) -> PathList:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
    except (OSError, pa.ArrowInvalid) as error:
        raise ClzooError(f"{source} is a damaged Parquet file: {error}.") from error
    chosen = path_column(table.column_names, source, column)
    kind = table.schema.field(chosen).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ClzooError(f"{source}: the column {chosen} is {kind}; expected paths, as text.")
    paths = table[chosen].to_pylist()
    if None in paths or "" in paths:
        row = next(number for number, path in enumerate(paths) if not path)
        raise ClzooError(f"{source}, row {row + 1}: the column {chosen} is empty; expected a path.")
    rest = table.drop_columns([chosen])
    return PathList(paths, rest if rest.num_columns else None)
