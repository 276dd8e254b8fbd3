"""The two files of an index, `faiss.index` and `faiss.json`: written so that they never mix, read so that it shows.

FAISS's own file says neither which model its vectors come from nor which store its ids mean; the description beside
it does, and carries the index file's SHA-256. Two files cannot be renamed in one step, so the new description is
first laid down as `faiss.next.json`. After a kill at any instant exactly one description fits the index file that is
there, and a reader takes that one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

from clzoo.errors import ClzooError
from clzoo.files import atomic_path, fsync_folder, read_json, write_json

SCHEMA = 1
"""Version of `faiss.json`; a reader refuses a higher one."""

INDEX_FILE = "faiss.index"
DESCRIPTION_FILE = "faiss.json"
_NEXT_DESCRIPTION = "faiss.next.json"


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
            'Type: pip install "clzoo[cpu]", or for an NVIDIA GPU: pip install "clzoo[gpu]"'
        ) from error
    return faiss


def write_pair(folder: Path, index: Any, description: dict[str, Any]) -> dict[str, Any]:
    """Replace the pair in `folder`; returns the description completed with the index file's size and SHA-256.

    The caller holds the store's lock.

    Raises:
        ClzooError: the folder cannot be written.
    """
    try:
        _clear_up(folder)
        with atomic_path(folder / INDEX_FILE) as temporary:
            size, sha256 = _write_index(temporary, index)
            file = {"file": INDEX_FILE, "size": size, "sha256": sha256}
            description = {"schema": SCHEMA, "index": file, **description}
            write_json(folder / _NEXT_DESCRIPTION, description)
        (folder / _NEXT_DESCRIPTION).replace(folder / DESCRIPTION_FILE)
        fsync_folder(folder)
    except OSError as error:
        raise ClzooError(
            f"the index cannot be written into {folder}: {error}. What was there before is still valid."
        ) from error
    return description


def read_pair(folder: Path, remedy: str) -> tuple[Any, dict[str, Any]]:
    """Read the index and the description that fits it; `remedy` is the command that errors tell the user to type.

    The whole file is hashed before FAISS parses it, through the one open file: what was checked is what is loaded.

    Raises:
        ClzooError: no index, a description without its index, a damaged or foreign file, a newer schema.
    """
    faiss = import_faiss()
    path = folder / INDEX_FILE
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ClzooError(f"{folder} holds no FAISS index ({INDEX_FILE} is missing). Type: {remedy}") from None
    with file:
        description = _fitting_description(folder, _sha256(file), remedy)
        file.seek(0)
        try:
            return faiss.read_index(faiss.PyCallbackIOReader(file.read)), description
        except RuntimeError as error:  # whole and ours, but written by a FAISS that knows more than this one
            raise ClzooError(
                f"faiss {faiss.__version__} cannot read {path}, written by faiss {description.get('faiss_version')}: "
                f"{error}. Type: pip install --upgrade faiss-cpu, or {remedy}"
            ) from error


def read_description(folder: Path) -> dict[str, Any] | None:
    """`faiss.json` alone, without FAISS and without reading the index: for a quick look. None where there is none."""
    path = folder / DESCRIPTION_FILE
    return _read_checked(path) if path.exists() else None


def _clear_up(folder: Path) -> None:
    """Finish or undo what a killed build left: else the next one could overwrite the only description that fits."""
    following = folder / _NEXT_DESCRIPTION
    if following.exists():
        if _next_fits(folder):
            following.replace(folder / DESCRIPTION_FILE)
        else:
            following.unlink()
    for temporary in folder.glob(".tmp-*-faiss.*"):
        temporary.unlink(missing_ok=True)


def _next_fits(folder: Path) -> bool:
    try:
        with (folder / INDEX_FILE).open("rb") as file:
            return bool(_read_checked(folder / _NEXT_DESCRIPTION)["index"]["sha256"] == _sha256(file))
    except (FileNotFoundError, ClzooError):  # killed before there was an index; or damaged since
        return False


def _write_index(path: Path, index: Any) -> tuple[int, str]:
    """Write an index file; returns its size in bytes and its SHA-256."""
    faiss = import_faiss()
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def write(data: bytes) -> int:
            digest.update(data)
            return file.write(data)

        # Through a callback: FAISS's own file names are not Unicode on Windows, and it hides why a write failed.
        faiss.write_index(index, faiss.PyCallbackIOWriter(write))
        return file.tell(), digest.hexdigest()


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
    raise ClzooError(
        f"{folder / INDEX_FILE} is damaged or is not the one that {DESCRIPTION_FILE} describes "
        f"(SHA-256 found {sha256[:12]}..., expected {_read_checked(folder / DESCRIPTION_FILE)['index']['sha256'][:12]}"
        f"...). Type: {remedy}"
    )


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


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
