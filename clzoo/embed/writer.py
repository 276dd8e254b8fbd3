"""Writing an embedding store: new files first, the manifest last. The guarantees: docs/store.md."""

from __future__ import annotations

import io
import os
import re
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clzoo.data.listing import Failure
from clzoo.embed.manifest import MANIFEST, Manifest, Segment
from clzoo.embed.store import ERRORS, ERRORS_SCHEMA, GENERATION_KEY, errors_stamp
from clzoo.errors import ClzooError
from clzoo.files import atomic_path, fsync_folder
from clzoo.locking import held
from clzoo.temporary import is_temporary, sweep, temporary_folder, was_left

LOCK = ".lock"

_NUMBERED = re.compile(r"(?:embeddings|items)-(\d+)\.(?:npy|parquet)")
_BEGUN = "a store without a manifest"  # purpose of a temporary folder in it


def store_lock(folder: Path) -> AbstractContextManager[None]:
    """Hold the right to write a store.

    Raises:
        ClzooError: another process writes this store.
    """
    return held(
        folder / LOCK,
        f"{folder} is being written by another clzoo process. Wait until it ends, or give another --out.",
    )


class VectorFile:
    """An `.npy` file (N, dim) that grows by appending; a temporary file until `finish` gives it its name."""

    def __init__(self, folder: Path, dim: int, dtype: str) -> None:
        self._dim, self._dtype, self._rows = dim, np.dtype(dtype), 0
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(temporary_folder(folder, "vectors")) / "embeddings.npy"
        self._file = self._temporary.open("wb")
        self._header_size = self._file.write(self._header(0))

    def append(self, vectors: np.ndarray) -> None:
        """Add rows (n, dim) of the file's dtype.

        Raises:
            ClzooError: rows of another length, which would shift all that follow.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self._dim:
            raise ClzooError(
                f"vectors of shape {list(vectors.shape)} do not go into {self._temporary.parent}, whose rows have "
                f"{self._dim} values. The model and its config.json do not fit: clzoo verify MODEL"
            )
        self._file.write(np.ascontiguousarray(vectors, dtype=self._dtype).data)
        self._rows += len(vectors)

    def finish(self, path: Path, rows: int) -> None:
        """Keep the first `rows` rows, write the true shape into the header, sync, and rename onto `path`."""
        header = self._header(rows)
        if rows > self._rows:
            raise AssertionError(f"{path.name} shall have {rows} rows, {self._rows} were written")
        if len(header) != self._header_size:  # numpy pads headers so that they can grow in place
            raise AssertionError(f"the .npy header is {len(header)} bytes, {self._header_size} were reserved")
        self._file.flush()
        self._file.truncate(len(header) + rows * self._dim * self._dtype.itemsize)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(path)
        fsync_folder(path.parent)
        self._stack.close()

    def _header(self, rows: int) -> bytes:
        content = io.BytesIO()
        shape = {"descr": self._dtype.str, "fortran_order": False, "shape": (rows, self._dim)}
        np.lib.format.write_array_header_1_0(content, shape)
        return content.getvalue()


class StoreWriter:
    """Swaps generations of one store; the caller holds `store_lock`.

    Attributes:
        manifest: the newest generation, on disk once `commit` was called.
        errors: the content of its errors.parquet.
    """

    def __init__(self, folder: Path, manifest: Manifest, errors: list[Failure] | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.errors = errors  # None: there is no errors.parquet yet
        # Of a run that was killed between its two renames: the next commit writes errors.parquet in any case.
        self._errors_ahead = errors is not None and errors_stamp(folder) != manifest.errors_generation
        # Names are never reused, not even those of files that a killed run left behind.
        numbers = [int(match[1]) for path in folder.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
        self._next = max([manifest.generation, manifest.errors_generation, *numbers]) + 1
        self._begun = ExitStack()  # until there is a manifest, a mark says that the segments here are clzoo's
        if not (folder / MANIFEST).is_file():
            self._begun.enter_context(temporary_folder(folder, _BEGUN))

    def begin(self) -> None:
        """Say in the manifest that the store is no longer complete, before anything is added to it."""
        if self.manifest.complete:
            self.commit(self.manifest.segments, self.errors or [], complete=False)

    def add_segment(self, vectors: VectorFile, items: pa.Table) -> Segment:
        """Finish a segment's two files, named after the coming generation. `commit` makes them count."""
        embeddings = f"embeddings-{self._next}.npy"
        vectors.finish(self.folder / embeddings, items.num_rows)
        return Segment(embeddings, self._write_items(items), items.num_rows)

    def replace_items(self, segment: Segment, items: pa.Table) -> Segment:
        """The same vectors with another items file, of rows that still count. `commit` makes it count."""
        name = self._write_items(items)
        self._next += 1  # several segments may get new items in one generation
        return replace(segment, items=name, rows=items.num_rows)

    def commit(self, segments: tuple[Segment, ...], errors: list[Failure], *, complete: bool) -> None:
        """Swap the manifest for one that names these segments, then delete the files that nobody names any more."""
        generation, errors_generation = self._next, self.manifest.errors_generation
        if errors != self.errors or self._errors_ahead:
            self._write_errors(errors, generation)
            self.errors, errors_generation, self._errors_ahead = list(errors), generation, False
        self.manifest = replace(
            self.manifest,
            generation=generation,
            complete=complete,
            segments=segments,
            rows=sum(segment.rows for segment in segments),
            errors=len(errors),
            errors_generation=errors_generation,
        )
        self.manifest.save(self.folder)
        self._begun.close()
        self._next = generation + 1
        self.delete_unnamed()

    def delete_unnamed(self) -> None:
        """Delete the segments that the manifest on disk does not name, and what dead processes left half-written."""
        named = {name for segment in self.manifest.segments for name in (segment.embeddings, segment.items)}
        for path in list(self.folder.iterdir()):
            if _NUMBERED.fullmatch(path.name) and path.name not in named:
                # Windows refuses while a reader has the file open; the next commit tries again.
                with suppress(PermissionError):
                    path.unlink(missing_ok=True)
        sweep(self.folder)

    def _write_items(self, items: pa.Table) -> str:
        name = f"items-{self._next}.parquet"
        with atomic_path(self.folder / name) as temporary:
            pq.write_table(items, temporary)
        return name

    def _write_errors(self, errors: list[Failure], generation: int) -> None:
        rows = [failure._asdict() for failure in errors]
        schema = ERRORS_SCHEMA.with_metadata({GENERATION_KEY: str(generation)})
        with atomic_path(self.folder / ERRORS) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def is_segment(name: str) -> bool:
    """Whether a name is one that a file of a segment has."""
    return _NUMBERED.fullmatch(name) is not None


def check_folder(folder: Path) -> None:
    """Refuse to write a store among files that are something else.

    Raises:
        ClzooError: a file, or a folder that is no store and holds foreign files.
    """
    if folder.exists() and not folder.is_dir():
        raise ClzooError(f"{folder} is a file; --out names the folder of the store.")
    if not folder.exists() or (folder / MANIFEST).is_file():
        return
    begun = was_left(folder, _BEGUN)
    foreign = [path.name for path in folder.iterdir() if not _is_left_by_a_kill(path, begun)]
    if foreign:
        raise ClzooError(
            f"{folder} is no embedding store and is not empty (it holds {foreign[0]}). Give another --out."
        )


def make_folder(folder: Path) -> None:
    """Make the folder of a store, if `check_folder` takes it.

    Raises:
        ClzooError: as there; or it cannot be made.
    """
    try:
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClzooError(f"{folder} cannot be written: {error.strerror or error}. Give another --out.") from error


def _is_left_by_a_kill(path: Path, begun: bool) -> bool:
    """Whether a file in a folder without a manifest is that of a run that was killed before it wrote one."""
    if path.name == ERRORS:
        try:
            return GENERATION_KEY in (pq.read_schema(path).metadata or {})
        except (OSError, pa.ArrowInvalid):
            return False
    return path.name == LOCK or is_temporary(path) or (begun and is_segment(path.name))


def delete_store(folder: Path) -> None:
    """Delete a store that clzoo made for itself: its own files, and the folder if nothing else is in it.

    The manifest goes first: what a kill leaves is then no store, and the next run begins it anew.
    """
    with temporary_folder(folder, _BEGUN):
        (folder / MANIFEST).unlink()
        for path in list(folder.iterdir()):
            if path.name == ERRORS or is_segment(path.name):
                path.unlink(missing_ok=True)
    sweep(folder)
    (folder / LOCK).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: somebody put something there
        folder.rmdir()
