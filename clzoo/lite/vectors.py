"""Vectors of images in one .npz file, and exact search among them: NumPy and nothing else.

The arrays are those of `clzoo store export --format npz` (id, path, label, embedding, model, weights_sha256,
preprocessing), so either side reads what the other wrote.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from clzoo.errors import ClzooError
from clzoo.files import parse_json, read_json
from clzoo.wording import clzoo_command

_ROWS = 16_384  # of vectors that are compared at a time
_DAMAGES = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, EOFError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What NumPy, zipfile and pyarrow raise at files that are damaged or of something else."""


class Found(NamedTuple):
    """One neighbor."""

    path: str
    score: float  # cosine similarity; what rounding puts above 1 is 1
    id: int
    label: str | None


@dataclass(frozen=True)
class Vectors:
    """The vectors (N, dim) of N images, and whose they are."""

    paths: list[str]
    labels: list[str | None]
    ids: np.ndarray  # int64 (N,)
    embeddings: np.ndarray  # (N, dim)
    model: str = ""
    weights_sha256: str = ""  # "" where the file does not say
    preprocessing: Mapping[str, Any] = field(default_factory=dict)  # as a store records it; empty where none is said

    def __len__(self) -> int:
        return len(self.paths)

    def row(self, query: str) -> int | None:
        """The row of an image that is named by its path here or its id; None if there is none."""
        if query in self.paths:
            return self.paths.index(query)
        is_id = query.isdecimal() and len(query) <= 19 and int(query) < 2**63
        rows = np.flatnonzero(self.ids == int(query)).tolist() if is_id else []
        return rows[0] if rows else None

    def search(self, queries: np.ndarray, k: int = 10) -> list[list[Found]]:
        """The k nearest by cosine similarity of each query (Q, dim), exactly; best first, equal scores by id.

        Raises:
            ClzooError: k below 1, queries of another length, or a zero or non-finite one.
        """
        if k < 1:
            raise ClzooError(f"k must be at least 1, found {k}.")
        queries = np.atleast_2d(np.asarray(queries, np.float32))
        if queries.ndim != 2 or queries.shape[1] != self.embeddings.shape[1]:
            raise ClzooError(f"queries have shape {queries.shape}; expected (Q, {self.embeddings.shape[1]}).")
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise ClzooError("a query is a zero or non-finite vector, which is near to nothing.")
        scores = np.concatenate([_cosines(queries / lengths, part) for part in self._parts()], axis=1)  # (Q, N)
        return [[self._found(row, each[row]) for row in np.lexsort((self.ids, -each))[:k]] for each in scores]

    def save(self, path: Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            ClzooError: it cannot be written.
        """
        write_whole(path, self._write)

    def _write(self, file: BinaryIO) -> None:
        np.savez(
            file,
            id=self.ids,
            path=np.array(self.paths, np.str_),
            label=np.array([label or "" for label in self.labels], np.str_),
            embedding=np.asarray(self.embeddings, np.float32),
            model=np.array(self.model),
            weights_sha256=np.array(self.weights_sha256),
            preprocessing=np.array(json.dumps(dict(self.preprocessing))),
        )

    def _parts(self) -> list[np.ndarray]:
        return [self.embeddings[start : start + _ROWS] for start in range(0, max(len(self), 1), _ROWS)]

    def _found(self, row: int, score: float) -> Found:
        return Found(self.paths[row], min(float(score), 1.0), int(self.ids[row]), self.labels[row])


def _cosines(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float32).tiny)
    return queries @ vectors.T / lengths


def open_vectors(place: str | Path) -> Vectors:
    """Read an .npz file; or the folder of a store, for whose Parquet files pyarrow must be installed.

    Raises:
        ClzooError: nothing there, no such file, damaged, or a folder without pyarrow.
    """
    place = Path(place)
    if place.is_dir():
        return _of_store(place)
    try:
        with np.load(place, allow_pickle=False) as arrays:
            paths = [str(path) for path in arrays["path"]]
            labels = [str(label) or None for label in arrays["label"]]
            said = {name: str(arrays[name]) for name in ("model", "weights_sha256", "preprocessing") if name in arrays}
            how = dict(parse_json(said.pop("preprocessing", "{}"), f"{place}: its preprocessing", "Make it anew."))
            found = Vectors(paths, labels, arrays["id"], arrays["embedding"], **said, preprocessing=how)
            return _checked(found, place)
    except FileNotFoundError:
        raise ClzooError(
            f"{place} does not exist. Type: python -m clzoo.lite embed IMAGES --model FILE.onnx --out {place}"
        ) from None
    except _DAMAGES as error:
        raise ClzooError(
            f"{place} is not a file of vectors ({error}). It is made by: clzoo store export DIR --format npz, or "
            "python -m clzoo.lite embed"
        ) from error


def _of_store(folder: Path) -> Vectors:
    try:
        manifest: dict[str, Any] = read_json(folder / "manifest.json")
        segments = manifest["segments"]
    except (ClzooError, KeyError, TypeError) as error:
        raise ClzooError(f"{folder} is not an embedding store: {error}. Name a store or an .npz file.") from error
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ClzooError(
            f"{folder} keeps its paths in Parquet, and pyarrow is not installed. Type: pip install pyarrow; or where "
            f"clzoo is installed whole: {clzoo_command('store', 'export', folder, '--format', 'npz')}"
        ) from error
    if not segments:
        raise ClzooError(f"{folder} holds no embeddings.")
    try:
        items = [parquet.read_table(folder / segment["items"]) for segment in segments]
        vectors = [
            np.load(folder / segment["embeddings"], mmap_mode="r", allow_pickle=False)[table["row"].to_numpy()]
            for segment, table in zip(segments, items, strict=True)
        ]
        columns = {name: [value for table in items for value in table[name].to_pylist()] for name in ("path", "id")}
        labels = [value for table in items for value in table["label"].to_pylist()]
        ids = np.array(columns["id"], np.int64)
        said = manifest["model"], manifest["weights_sha256"], dict(manifest["preprocessing"])
        return _checked(Vectors(columns["path"], labels, ids, np.concatenate(vectors), *said), folder)
    except _DAMAGES as error:
        raise ClzooError(
            f"the store {folder} is damaged, or is being written ({error}). Try again; else embed again: clzoo embed"
        ) from error


def _checked(found: Vectors, place: Path) -> Vectors:
    lengths = {len(found.paths), len(found.labels), len(found.ids), len(found.embeddings)}
    if len(lengths) != 1 or found.embeddings.ndim != 2 or not np.isfinite(found.embeddings).all():
        raise ClzooError(f"{place} is damaged: {sorted(lengths)} rows, or vectors that are not finite. Make it anew.")
    return found


def require_place(path: Path) -> None:
    """Refuse, before the work, a place where no file can be written; folders that lack above it are made.

    Raises:
        ClzooError: there is a folder, or it cannot be written.
    """
    with _part_of(path) as part:
        if path.is_dir():
            raise ClzooError(f"{path} is a folder; expected the name of a file, e.g. {path / 'NAME'}")
        part.touch()


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """A file that appears whole or not at all, without the packages that `clzoo.files` needs for it.

    Raises:
        ClzooError: it cannot be written.
    """
    require_place(path)
    with _part_of(path) as part:
        with part.open("wb") as file:  # given a name, numpy would add a suffix
            write(file)
        part.replace(path)


@contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """A place beside the file, emptied at the end."""
    part = path.parent / f"{path.name}.{os.getpid()}.part"  # clzoo.temporary needs filelock, which is not here
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
    except OSError as error:
        raise ClzooError(f"{path} cannot be written: {error.strerror or error}. Name another file.") from error
    finally:
        with suppress(OSError):  # nothing can be there where none could be written
            part.unlink()
