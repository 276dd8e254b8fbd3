"""Reading an embedding store. The format, and what a reader may rely on: docs/store.md."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clzoo.embed.manifest import Manifest, Segment
from clzoo.errors import ClzooError

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

ITEMS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # in the segment's embeddings file
        ("id", pa.int64()),
        ("path", pa.string()),
        ("size", pa.int64()),  # bytes
        ("mtime_ns", pa.int64()),
        ("label", pa.string()),
    ]
)
METADATA = "metadata."
"""What stands before the names of further columns of the items: those of the list that named the images."""

ERRORS_SCHEMA = pa.schema(
    [("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("reason", pa.string())]
)
ERRORS = "errors.parquet"
GENERATION_KEY = b"clzoo.generation"  # in the Parquet metadata of errors.parquet


def open_store(path: str | Path, *, images: str | Path | None = None) -> Store:
    """Open the newest generation of a store, as one consistent snapshot.

    A writer may swap generations meanwhile: the snapshot keeps what it has opened, and never mixes two generations.

    Args:
        images: where the images lie now, if they have moved since they were embedded. The files stay as they are.

    Raises:
        ClzooError: not a store, one of a newer clzoo, or damaged files (named); `images` is no folder.
    """
    folder = Path(path)
    while True:
        manifest = Manifest.load_from(folder)
        if images is not None:
            manifest = replace(manifest, root=_place_of(images))
        try:
            store = Store(folder, manifest)
            if images is not None and len(store) and all(map(os.path.isabs, store.paths)):
                raise ClzooError(
                    f"{folder} names images by absolute paths, so none of them is looked for in {images}. Write their "
                    f"list anew, and embed it: clzoo embed LIST --out OTHER"
                )
            return store
        except FileNotFoundError as error:
            # A writer deletes old files after the swap: then a newer manifest lies there, and we start over.
            if Manifest.load_from(folder).generation == manifest.generation:
                raise ClzooError(
                    f"{error.filename or error} is missing though the manifest of {folder} names it. "
                    f"Restore it, or delete {folder} and embed again."
                ) from error


def _place_of(images: str | Path) -> str:
    from clzoo.data.storage import is_remote

    if is_remote(images):
        return str(images)
    if not Path(images).is_dir():
        raise ClzooError(f"{images} is no folder. Name the one that the paths of the store start from: --images DIR")
    return str(Path(images).resolve())


class Store:
    """One generation of an embedding store, read-only; `clzoo.open_store` makes one.

    Rows are in the order of the manifest's segments; a complete run or `clzoo store compact` leaves them in path
    order. Vectors stay on disk, memory-mapped.

    Attributes:
        path: the store's folder.
        manifest: what the generation holds and which model made it.
        items: the rows of the items files, one after the other.
        ids: int64 (N,), the first 63 bits of SHA-256 of each path.
        starts: int64 (segments + 1,), the first row of each segment, and N.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._vectors = [_map_vectors(path, segment, manifest) for segment in manifest.segments]
        tables = [_read_items(path / segment.items) for segment in manifest.segments]
        self.starts = np.cumsum([0, *(table.num_rows for table in tables)])
        self.items: pa.Table = joined(tables) if tables else ITEMS_SCHEMA.empty_table()
        self.ids: np.ndarray = self.items["id"].to_numpy()
        self._rows: np.ndarray = self.items["row"].to_numpy()
        self._check_rows()
        self._errors = _read_errors(path, manifest, self.items)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} x {self.dim}, {self.manifest.model}, gen {self.generation})"

    def __len__(self) -> int:
        return self.items.num_rows

    @property
    def dim(self) -> int:
        """Length of one vector."""
        return self.manifest.dim

    @property
    def generation(self) -> int:
        """Number of the generation; another content always has a higher one."""
        return self.manifest.generation

    @property
    def complete(self) -> bool:
        """False while a run is under way, or after it was cut off: the same `clzoo embed` continues it."""
        return self.manifest.complete

    @property
    def stored_vectors(self) -> int:
        """Vectors on disk, those of dropped rows included (`clzoo store compact` removes them)."""
        return sum(len(vectors) for vectors in self._vectors)

    @property
    def root(self) -> Path:
        """The folder that `paths` start from; for remote images `manifest.root` is the URL."""
        return Path(self.manifest.root)

    @cached_property
    def paths(self) -> list[str]:
        """Relative POSIX path of each row; `shard.tar/member` for an image inside a shard."""
        return self.items["path"].to_pylist()

    @cached_property
    def labels(self) -> list[str | None]:
        """First sub-folder of each row where the store was made with labels, else None."""
        return self.items["label"].to_pylist()

    @property
    def metadata(self) -> pa.Table:
        """The columns that the list of images had beside their paths, a row for each; none of another source."""
        names = [name for name in self.items.column_names if name.startswith(METADATA)]
        return self.items.select(names).rename_columns([name.removeprefix(METADATA) for name in names])

    def embeddings(self) -> np.ndarray:
        """All vectors at once, float32 (N, dim): for stores that fit in memory; else use `batches`."""
        vectors = np.empty((len(self), self.dim), np.float32)
        done = 0
        for ids, part in self.batches():
            vectors[done : done + len(ids)] = part
            done += len(ids)
        return vectors

    def batches(self, rows: int = 65536) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All vectors in row order, a part at a time.

        Args:
            rows: at most this many at a time.

        Yields:
            int64 (n,) ids and float32 (n, dim) vectors, 1 <= n <= rows.
        """
        for segment, vectors in enumerate(self._vectors):
            stop = self.starts[segment + 1]
            for start in range(self.starts[segment], stop, rows):
                part = slice(start, min(start + rows, stop))
                yield self.ids[part], _take(vectors, self._rows[part]).astype(np.float32)
                _release_pages(vectors)

    def raw_rows(self, positions: np.ndarray) -> np.ndarray:
        """Vectors of the given row positions (n,) in that order, (n, dim) in the store's own dtype."""
        vectors = np.empty((len(positions), self.dim), self.manifest.dtype)
        owners = np.searchsorted(self.starts, positions, side="right") - 1
        for segment in np.unique(owners):
            chosen = owners == segment
            vectors[chosen] = _take(self._vectors[segment], self._rows[positions[chosen]])
            _release_pages(self._vectors[segment])
        return vectors

    def identity(self) -> dict[str, Any]:
        """Which store this is, and of which encoder, for the reports of what was found in it."""
        manifest = self.manifest
        return {
            "store": str(self.path),
            "generation": self.generation,
            "model": manifest.model,
            "weights_sha256": manifest.weights_sha256,
        }

    def errors(self) -> list[dict[str, Any]]:
        """The files that could not be embedded: dicts of path, size, mtime_ns (None where unknown) and reason."""
        return self._errors.to_pylist()

    def image_bytes(self, row: int) -> bytes:
        """The encoded image of a row, from the source folder, out of its shard or through the network.

        Raises:
            UnreadableImageError: it is no longer there; the message is the reason alone.
        """
        from clzoo.data.opening import read_stored

        return read_stored(self.manifest.root, self.items["path"][int(row)].as_py(), self.manifest.source)

    def image_content(self, row: int) -> bytes | np.ndarray:
        """As `image_bytes`; of an image that never was encoded its pixels, uint8 (H, W, 3)."""
        from clzoo.data.opening import stored_content

        return stored_content(self.manifest.root, self.items["path"][int(row)].as_py(), self.manifest.source)

    def check_model(self, encoder: Encoder) -> None:
        """Raise ClzooError unless this encoder (weights and preprocessing) made the store."""
        self.manifest.check_model(encoder, self.path)

    def _check_rows(self) -> None:
        for number, (segment, vectors) in enumerate(zip(self.manifest.segments, self._vectors, strict=True)):
            rows = self._rows[self.starts[number] : self.starts[number + 1]]
            if not 0 < len(rows) == segment.rows or rows.min() < 0 or rows.max() >= len(vectors):
                raise ClzooError(
                    f"{self.path / segment.items} does not fit {segment.embeddings}: {len(rows)} rows, the manifest "
                    f"says {segment.rows}, the vectors are {len(vectors)}. Delete {self.path} and embed again."
                )


def _map_vectors(folder: Path, segment: Segment, manifest: Manifest) -> np.ndarray:
    path = folder / segment.embeddings
    try:
        vectors: np.ndarray = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ClzooError(f"{path} is damaged ({error}). Delete {folder} and embed again.") from error
    if vectors.ndim != 2 or vectors.shape[1] != manifest.dim or vectors.dtype != manifest.dtype:
        raise ClzooError(
            f"{path} holds {vectors.dtype} {vectors.shape}, the manifest says {manifest.dtype} (N, {manifest.dim}). "
            f"Delete {folder} and embed again."
        )
    return vectors


def _read_items(path: Path) -> pa.Table:
    with _named(path):
        with path.open("rb") as file:
            written = pq.read_schema(file)
        kept = [field for field in written if field.name.startswith(METADATA)]
        return pq.read_table(path, schema=pa.schema([*ITEMS_SCHEMA, *kept]))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file of a store is damaged, where Arrow cannot read it."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise ClzooError(f"{path} is damaged ({error}). Delete {path.parent} and embed again.") from error


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of items one after the other; a column of metadata that one of them lacks is null there."""
    return pa.concat_tables(tables, promote_options="default")


def same_items(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables of items hold the same; NaN, which a list may hold for an empty cell, is the same as NaN."""
    if one.equals(other):
        return True
    return one.schema.equals(other.schema) and all(map(_same_values, one.columns, other.columns))


def _same_values(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    if one.equals(other) or not (pa.types.is_float32(one.type) or pa.types.is_float64(one.type)):
        return bool(one.equals(other))
    is_nan = [pc.is_nan(values) for values in (one, other)]
    rest = [pc.if_else(mask, 0, values) for mask, values in zip(is_nan, (one, other), strict=True)]
    return bool(is_nan[0].equals(is_nan[1]) and rest[0].equals(rest[1]))


def _read_errors(folder: Path, manifest: Manifest, items: pa.Table) -> pa.Table:
    """The errors of this generation.

    errors.parquet is renamed into place just before the manifest. A reader may come between the two, and a run may be
    killed there: then the errors are those of the coming generation, and what has a row in this one is left out.
    """
    with _named(folder / ERRORS):
        table = pq.read_table(folder / ERRORS)
        errors = table.cast(ERRORS_SCHEMA)
    if _stamp(table.schema) == manifest.errors_generation:
        return errors
    if Manifest.load_from(folder).generation != manifest.generation:
        raise FileNotFoundError(folder / ERRORS)  # the one of this generation is gone: open_store starts over
    return errors.filter(pc.invert(pc.is_in(errors["path"], value_set=items["path"])))


def errors_stamp(folder: Path) -> int:
    """Generation that errors.parquet was written for."""
    with _named(folder / ERRORS):
        return _stamp(pq.read_schema(folder / ERRORS))


def _stamp(schema: pa.Schema) -> int:
    return int(schema.metadata[GENERATION_KEY])


def _release_pages(vectors: np.ndarray) -> None:
    """Unmap what was read, so that the process does not seem to hold the whole store; the file cache keeps it."""
    if sys.platform == "linux" and isinstance(vectors.base, mmap.mmap):
        vectors.base.madvise(mmap.MADV_DONTNEED)


def _take(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`vectors[rows]`, without a copy where the rows are consecutive."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return vectors[rows[0] : rows[-1] + 1]
    return vectors[rows]
