"""The two files of an index, `faiss.index` and `faiss.json`: written so that they never mix, read so that it shows.

FAISS's own file says neither which model its vectors come from nor which store its ids mean; the description beside
it does, and carries the index file's SHA-256. Two files cannot be renamed in one step, so the new description is
first laid down as `faiss.next.json`. After a kill at any instant exactly one description fits the index file that is
there, and a reader takes that one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from clzoo.errors import ClzooError
from clzoo.files import atomic_path, fsync_folder, read_json, sha256_of, write_json

SCHEMA = 1
"""Version of `faiss.json`; a reader refuses a higher one."""

INDEX_FILE = "faiss.index"
DESCRIPTION_FILE = "faiss.json"
_NEXT_DESCRIPTION = "faiss.next.json"

_PLACES, _PLACE_BYTES = 64, 16 << 10  # of a file that is checked without being read


def import_faiss() -> Any:
    """The module faiss: imported here alone, and only when an index is used (it brings its own OpenMP).

    Raises:
        ClzooError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ClzooError(
            f"faiss cannot be imported ({error}); indexes need it. "
            "Type: pip install faiss-cpu, or for an NVIDIA GPU: pip install faiss-gpu"
        ) from error
    return faiss


def inner_index(index: Any) -> Any:
    """What holds the vectors, below the id map and transforms such as PCA; of a refined index, both of its halves."""
    faiss = import_faiss()
    inner = faiss.downcast_index(index.index)
    return faiss.downcast_index(inner.index) if isinstance(inner, faiss.IndexPreTransform) else inner


def coarse_index(index: Any) -> Any:
    """What a search looks into first: `inner_index`, or of one that is refined (`RaBitQ,Refine(SQfp16)`) its base."""
    faiss = import_faiss()
    inner = inner_index(index)
    while isinstance(inner, faiss.IndexRefine | faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.base_index if isinstance(inner, faiss.IndexRefine) else inner.index)
    return inner


def write_pair(folder: Path, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Replace the pair in `folder`; returns the description completed with the index file's size and digests.

    The caller holds the store's lock. `write` fills the path that it is given with an index, and describes it.

    Raises:
        ClzooError: the folder cannot be written.
    """
    try:
        _clear_up(folder)
        with atomic_path(folder / INDEX_FILE) as temporary:
            description = write(temporary)
            with temporary.open("rb") as file:
                digests = {"sha256": sha256_of(file), "sample_sha256": _sample_sha256(file)}
            file_facts = {"file": INDEX_FILE, "size": temporary.stat().st_size, **digests}
            description = {"schema": SCHEMA, "index": file_facts, **description}
            write_json(folder / _NEXT_DESCRIPTION, description)
        (folder / _NEXT_DESCRIPTION).replace(folder / DESCRIPTION_FILE)
        fsync_folder(folder)
    except OSError as error:
        raise ClzooError(
            f"the index cannot be written into {folder}: {error}. What was there before is still valid."
        ) from error
    return description


def write_index(path: Path, index: Any) -> None:
    """Write one index file."""
    faiss = import_faiss()
    with path.open("wb") as file:
        # Through a callback: FAISS's own file names are not Unicode on Windows, and it hides why a write failed.
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def read_pair(folder: Path, remedy: str) -> tuple[Any, dict[str, Any]]:
    """Read the index and the description that fits it; `remedy` is the command that errors tell the user to type.

    The whole file is hashed before FAISS parses it, through the one open file: what was checked is what is loaded.

    Raises:
        ClzooError: no index, a description without its index, a damaged or foreign file, a newer schema.
    """
    faiss = import_faiss()
    while True:
        with _opened(folder, remedy) as file:
            try:
                description = _fitting_description(folder, sha256_of(file), remedy)
            except ClzooError:
                if _is_at(file, folder / INDEX_FILE):
                    raise
                continue  # while we hashed it, writers replaced both files, or did so twice
            file.seek(0)
            with _readable(folder / INDEX_FILE, description, remedy):
                return faiss.read_index(faiss.PyCallbackIOReader(file.read)), description


def map_pair(folder: Path, remedy: str) -> tuple[Any, dict[str, Any]]:
    """As `read_pair`, with the vectors left in the file, and without reading all of it: see `_sampled_description`.

    Raises:
        ClzooError: as `read_pair`; a kind of index that cannot be mapped.
    """
    path = folder / INDEX_FILE
    while True:
        with _opened(folder, remedy) as file:
            # FAISS opens the file by its name. If that is still the file we hold, no writer came between.
            try:
                description = _sampled_description(folder, file, remedy)
                with _readable(path, description, remedy):
                    index = map_index(path)
            except ClzooError:
                if _is_at(file, path):
                    raise
                continue
            if _is_at(file, path):
                return index, description


def map_index(path: Path) -> Any:
    """One index file with its vectors left in it. FAISS's own errors pass through.

    Raises:
        ClzooError: a FAISS, or a kind of index, that cannot do that.
    """
    faiss = import_faiss()
    if not hasattr(faiss, "IO_FLAG_MMAP_IFC"):
        raise ClzooError(
            f"faiss {faiss.__version__} cannot leave vectors in their file. Open the index without mmap, or type: "
            "pip install --upgrade faiss-cpu"
        )
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    if not _is_mapped(index):
        raise ClzooError(
            f"{path}: faiss {faiss.__version__} reads {type(inner_index(index)).__name__} into memory whatever it is "
            "told. Open it without mmap, or build Flat, SQfp16, HNSW32 or IVF4096,SQfp16 (--factory)."
        )
    return index


def read_description(folder: Path) -> dict[str, Any] | None:
    """`faiss.json` alone, without FAISS and without reading the index: for a quick look. None where there is none."""
    path = folder / DESCRIPTION_FILE
    return _read_checked(path) if path.exists() else None


def has_index(folder: Path) -> bool:
    """Whether either file of a pair is there."""
    return (folder / INDEX_FILE).exists() or (folder / DESCRIPTION_FILE).exists()


def _clear_up(folder: Path) -> None:
    """Finish or undo what a killed build left: else the next one could overwrite the only description that fits."""
    following = folder / _NEXT_DESCRIPTION
    if following.exists():
        if _next_fits(folder):
            following.replace(folder / DESCRIPTION_FILE)
        else:
            following.unlink()


def _next_fits(folder: Path) -> bool:
    try:
        with (folder / INDEX_FILE).open("rb") as file:
            return bool(_read_checked(folder / _NEXT_DESCRIPTION)["index"]["sha256"] == sha256_of(file))
    except (FileNotFoundError, ClzooError):  # killed before there was an index; or damaged since
        return False


def _opened(folder: Path, remedy: str) -> BinaryIO:
    try:
        return (folder / INDEX_FILE).open("rb")
    except FileNotFoundError:
        raise ClzooError(f"{folder} holds no FAISS index ({INDEX_FILE} is missing). Type: {remedy}") from None


@contextmanager
def _readable(path: Path, description: dict[str, Any], remedy: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # whole and ours, but written by a FAISS that knows more than this one
        raise ClzooError(
            f"faiss {import_faiss().__version__} cannot read {path}, written by faiss "
            f"{description.get('faiss_version')}: {error}. Type: pip install --upgrade faiss-cpu, or {remedy}"
        ) from error


def _is_mapped(index: Any) -> bool:
    """Whether the vectors (and the graph over them) are views of the file."""
    faiss = import_faiss()
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexIVF):
        return isinstance(faiss.downcast_InvertedLists(inner.invlists), faiss.ArrayInvertedLists)
    if isinstance(inner, faiss.IndexHNSW):
        return not (inner.hnsw.neighbors.is_owned or faiss.downcast_index(inner.storage).codes.is_owned)
    return not getattr(getattr(inner, "codes", None), "is_owned", True)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sampled_description(folder: Path, file: BinaryIO, remedy: str) -> dict[str, Any]:
    """The description of an open index file, by its size and 64 places in it.

    That finds truncation, holes and foreign files, not every flipped bit. Which of two descriptions is meant can only
    be told from all bytes: where a second one lies there, or the first has no sample, the whole file is hashed.
    """
    two = (folder / _NEXT_DESCRIPTION).exists()  # asked first: a writer renames it away after the index file
    with suppress(FileNotFoundError):
        description = _read_checked(folder / DESCRIPTION_FILE)
        expected = description["index"].get("sample_sha256")
        if expected and not two:
            found = _sample_sha256(file)
            if found != expected:
                raise _damaged(folder, found, expected, remedy)
            return description
    return _fitting_description(folder, sha256_of(file), remedy)


def _damaged(folder: Path, found: str, expected: str, remedy: str) -> ClzooError:
    return ClzooError(
        f"{folder / INDEX_FILE} is damaged or is not the one that {DESCRIPTION_FILE} describes "
        f"(SHA-256 found {found[:12]}..., expected {expected[:12]}...). Type: {remedy}"
    )


def _fitting_description(folder: Path, sha256: str, remedy: str) -> dict[str, Any]:
    # The first name again at the end: a writer may be between its two renames while we look.
    for name in (DESCRIPTION_FILE, _NEXT_DESCRIPTION, DESCRIPTION_FILE):
        path = folder / name
        try:
            description = _read_checked(path)
        except FileNotFoundError:
            continue
        if description["index"]["sha256"] == sha256:
            return description
    if not (folder / DESCRIPTION_FILE).exists():
        raise ClzooError(f"{folder / DESCRIPTION_FILE} is missing; {INDEX_FILE} alone means nothing. Type: {remedy}")
    raise _damaged(folder, sha256, _read_checked(folder / DESCRIPTION_FILE)["index"]["sha256"], remedy)


def _read_checked(path: Path) -> dict[str, Any]:
    """One description; FileNotFoundError passes through."""
    try:
        description = read_json(path)
    except ClzooError:
        path.stat()  # missing from the start, or renamed by a writer since
        raise
    schema = description.get("schema") if isinstance(description, dict) else None
    if not isinstance(schema, int) or "sha256" not in description.get("index", {}):
        raise ClzooError(f"{path} is not the description of a clzoo index. Delete it and build the index again.")
    if schema > SCHEMA:
        raise ClzooError(
            f"{path}: schema is {schema}, this clzoo reads up to {SCHEMA}. Type: pip install --upgrade clzoo"
        )
    return description


def _sample_sha256(file: BinaryIO) -> str:
    """SHA-256 of a file's size and of 16 KiB at 64 evenly spaced places, first and last included; up to 1 MiB, all."""
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.sha256(str(size).encode())
    for place in range(_PLACES):
        file.seek(max(0, size - _PLACE_BYTES) * place // (_PLACES - 1))
        digest.update(file.read(_PLACE_BYTES))
    return digest.hexdigest()
