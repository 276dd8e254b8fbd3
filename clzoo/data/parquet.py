"""Parquet files that hold encoded images, as the Hub keeps data sets: rows are images, read a block at a time.

A row has no place of its own in the file: whoever wants one reads what stands before it in its row group. So blocks of
rows are read in turn and kept for a while, which costs one pass where images are taken in their order, as embedding,
packing and a set in memory do. Rows in random order cost a pass each: `clzoo pack` first.
"""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import PurePosixPath
from threading import Lock
from typing import Any, NamedTuple

from clzoo.data.listing import Failure, Item, Listing, printable
from clzoo.data.storage import is_remote, open_url
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.files import LONGEST_JSON, parse_json
from clzoo.wording import type_and_first_line

log = logging.getLogger("clzoo")

LABELS = ("label", "fine_label")
"""Columns that are taken for labels first, where several could be."""
ALSO_LABELS = ("labels", "class", "category", "target")
"""And last, where none is declared to hold classes."""

_IMAGES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content")
_BLOCK = 32  # rows
_KEPT = 512 << 20  # bytes of images that wait for a thread (our choice: some 5,000 photographs of 100 kB)
_KEPT_FILES = 8
_BUFFER = 1 << 20  # bytes of a column that are read at a time
_PLAIN = re.compile(r"u?int\d+|bool|(large_)?string")  # types of values that are classes as they are


class ParquetItem(Item):
    """A row of a Parquet file: `offset` is its number, `how` (the column,), `size` and `mtime_ns` are the file's."""

    __slots__ = ()

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UnreadableImageError: the reason alone.
        """
        try:
            value = _ROWS.get(self.file, self.mtime_ns, self.how[0], self.offset or 0)
        except Exception as error:  # every storage, and Arrow, has its own
            raise UnreadableImageError(f"cannot be read from its Parquet file: {type_and_first_line(error)}") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise UnreadableImageError("the row has no image in it")
        return bytes(content)


def holds_images(file: str, column: str | None = None) -> bool:
    """Whether a Parquet file has a column of images, or whether this one is; False for other tables.

    Raises:
        OSError, pyarrow.ArrowInvalid: it is damaged, or cannot be reached.
    """
    with _opened(file) as opened:
        schema = opened.schema_arrow
    return bool(_image_columns(schema)) if column is None else column in _byte_columns(schema)


def add_rows(listing: Listing, shard: Item, column: str | None = None) -> None:
    """Add the images of a Parquet file: `FILE.parquet/000000017-NAME.jpg`, in the order of their rows.

    Labels are the values of a column: `label` or `fine_label`, else the one that the Hub declares to hold classes, else
    one of the usual names.

    Args:
        shard: the file's path, size, mtime_ns and place.
        column: of the images; None takes the one there is.

    Raises:
        ClzooError: no such column, or several that could be meant.
        OSError, pyarrow.ArrowInvalid: the file is damaged or cannot be reached.
    """
    with _opened(shard.file) as opened:
        schema = opened.schema_arrow
        chosen = _chosen(schema, shard.path, column)
        names = _names(opened, schema, chosen)
        labels, classes, taken = _labels(opened, schema)
        count = opened.metadata.num_rows
    listing.classes.update(dict.fromkeys(classes))
    kind = ParquetItem(*shard)._replace(how=(chosen,))
    for row in range(count):
        name = f"-{PurePosixPath(names[row]).name}" if names[row] else ""
        path = f"{shard.path}/{row:09}{name}"
        if printable(path) != path:
            listing.failures.append(Failure(printable(path), None, shard.mtime_ns, "its name is not UTF-8"))
        else:
            listing.items.append(kind._replace(path=path, offset=row, label=labels[row] if labels else None))
    listing.ignored.update(f"column {other}" for other in schema.names if other not in (chosen, taken))


def _chosen(schema: Any, where: str, wanted: str | None) -> str:
    columns = _image_columns(schema)
    if wanted is not None:
        if wanted not in _byte_columns(schema):
            shown = ", ".join(_byte_columns(schema)) or "none"
            raise ClzooError(f"{where} has no column of images called {wanted}; those of images are: {shown}.")
        return wanted
    if len(columns) > 1:
        usual = [name for name in columns if name.lower() in _IMAGES]
        if len(usual) != 1:
            raise ClzooError(
                f"{where} has several columns of images: {', '.join(columns)}. Say which: SOURCE#column={columns[0]}"
            )
        return usual[0]
    if not columns:
        raise ClzooError(f"{where} has no column of images; found {', '.join(schema.names)}.")
    return columns[0]


def _image_columns(schema: Any) -> list[str]:
    """Columns that hold encoded images: structs with `bytes`, as the Hub has them; else bytes of a usual name."""
    columns = _byte_columns(schema)
    structs = [name for name, is_struct in columns.items() if is_struct]
    return structs or [name for name in columns if name.lower() in _IMAGES]


def _byte_columns(schema: Any) -> dict[str, bool]:
    """Columns of bytes, and of structs with `bytes`, and whether each is a struct."""
    import pyarrow.types as kinds

    def is_bytes(kind: Any) -> bool:
        return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))

    found = {}
    for field in schema:
        is_struct = kinds.is_struct(field.type)
        if is_bytes(field.type) or (
            is_struct and any(part.name == "bytes" and is_bytes(part.type) for part in field.type)
        ):
            found[field.name] = is_struct
    return found


def _names(opened: Any, schema: Any, column: str) -> list[str]:
    """The file's name of each image, where the column has one, else ""."""
    kind = schema.field(column).type
    if not any(kind.field(place).name == "path" for place in range(kind.num_fields)):  # plain bytes have no fields
        return [""] * opened.metadata.num_rows
    values: list[dict[str, str | None] | None] = opened.read(columns=[f"{column}.path"])[column].to_pylist()
    return ["" if value is None else value["path"] or "" for value in values]


def _labels(opened: Any, schema: Any) -> tuple[list[str | None], list[str], str | None]:
    """The label of each row, the classes where the file declares them, and the column; nothing where there is none."""
    declared = _declared(schema)
    wanted = [*LABELS, *list(declared)[:1], *ALSO_LABELS]
    column = next((name for name in wanted if name in schema.names), None)
    values = None if column is None else _plain_values(opened, schema, column)
    if column is None or values is None:
        return [], [], None
    unfilled = [value is None or (not isinstance(value, str) and value < 0) for value in values]
    classes = declared.get(column)
    if classes is not None and all(value is None or isinstance(value, int) for value in values):
        return [None if no else classes[value] for value, no in zip(values, unfilled, strict=True)], classes, column
    return [None if no else str(value) for value, no in zip(values, unfilled, strict=True)], [], column


def _plain_values(opened: Any, schema: Any, column: str) -> list[Any] | None:
    """The values of a column, where they are classes as they are.

    Categories are their values. A table program that has no empty integer keeps whole numbers as fractions.
    """
    import pyarrow.types as kinds

    kind = schema.field(column).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    if not (_PLAIN.fullmatch(str(kind)) or kinds.is_floating(kind)):
        return None
    values: list[Any] = opened.read(columns=[column])[column].to_pylist()
    if not kinds.is_floating(kind):
        return values
    given = [None if value is None or math.isnan(value) else value for value in values]
    if not all(value is None or value.is_integer() for value in given):
        return None
    return [None if value is None else int(value) for value in given]


def _declared(schema: Any) -> dict[str, list[str]]:
    """Names of the classes by column, as the Hub's package writes them into a file."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = parse_json(written[:LONGEST_JSON], "what the Hub says of the columns", "")["info"]["features"]
        return {
            name: list(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ClzooError, KeyError, TypeError, AttributeError) as error:
        log.warning("a Parquet file says of its columns what cannot be read (%s): no classes are declared", error)
        return {}


def _opened(file: str) -> Any:
    import pyarrow.parquet as pq

    if is_remote(file):
        files, path = open_url(file)
        return pq.ParquetFile(files.open(path, "rb", cache_type="none"), buffer_size=8 * _BUFFER)
    return pq.ParquetFile(file, buffer_size=_BUFFER)


class _Place(NamedTuple):
    """Where reading a row group has come to."""

    block: int
    rest: Iterator[Any]


class _Rows:
    """The newest blocks of rows of Parquet files; for any number of threads, one of which reads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._files: OrderedDict[tuple[str, int], tuple[Any, list[int]]] = OrderedDict()
        self._places: OrderedDict[tuple[Any, ...], _Place] = OrderedDict()
        self._blocks: OrderedDict[tuple[Any, ...], list[Any]] = OrderedDict()
        self._sizes: dict[tuple[Any, ...], int] = {}

    def get(self, file: str, stamp: int, column: str, row: int) -> Any:
        """The value of a column in a row."""
        with self._lock:
            opened, starts = self._file(file, stamp)
            group = next(number for number in range(len(starts) - 1) if starts[number] <= row < starts[number + 1])
            block, inside = divmod(row - starts[group], _BLOCK)
            group_key = (file, stamp, column, group)
            key = (*group_key, block)
            if key not in self._blocks:
                self._read(opened, column, group, group_key, block)
            self._blocks.move_to_end(key)
            return self._blocks[key][inside]

    def _file(self, file: str, stamp: int) -> tuple[Any, list[int]]:
        key = (file, stamp)
        if key not in self._files:
            opened = _opened(file)
            starts = [0]
            for group in range(opened.metadata.num_row_groups):
                starts.append(starts[-1] + opened.metadata.row_group(group).num_rows)
            self._files[key] = opened, starts
            while len(self._files) > _KEPT_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(key)
        return self._files[key]

    def _read(self, opened: Any, column: str, group: int, key: tuple[Any, ...], block: int) -> None:
        place = self._places.pop(key, None)
        if place is None or place.block > block:
            place = _Place(0, _blocks(opened, column, group))
        at, rest = place
        while at <= block:
            self._blocks[(*key, at)], self._sizes[(*key, at)] = next(rest)
            at += 1
        self._places[key] = _Place(at, rest)
        while len(self._places) > _KEPT_FILES:
            self._places.popitem(last=False)
        while sum(self._sizes.values()) > _KEPT and len(self._blocks) > 1:
            dropped, _ = self._blocks.popitem(last=False)
            del self._sizes[dropped]


def _blocks(opened: Any, column: str, group: int) -> Iterator[tuple[list[Any], int]]:
    """The values of a row group, `_BLOCK` at a time, and how many bytes they take."""
    waiting: list[Any] = []
    for batch in opened.iter_batches(_BLOCK, row_groups=[group], columns=[column]):
        waiting += batch.column(0).to_pylist()
        while len(waiting) >= _BLOCK:
            yield waiting[:_BLOCK], sum(map(_size, waiting[:_BLOCK]))
            waiting = waiting[_BLOCK:]
    if waiting:
        yield waiting, sum(map(_size, waiting))


def _size(value: Any) -> int:
    content = value.get("bytes") if isinstance(value, dict) else value
    return len(content) if content is not None else 0


_ROWS = _Rows()
