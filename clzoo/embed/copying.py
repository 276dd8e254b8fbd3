"""Whole stores to remote storage and back: `clzoo store copy`.

A store is written and read in a local folder, because its guarantees need locks, renames and memory maps, and object
stores have none of them. What they do have is that one object is replaced whole. So a copy uploads the immutable files
of a generation first and the manifest last, and deletes what the old manifest named after that: whoever reads the
remote manifest first finds all files that it names. Before all, `clzoo-upload.json` says which files are coming; it
goes last. So a later copy knows what one that was cut off left there, and deletes nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clzoo.data.storage import is_remote, join, open_url
from clzoo.embed.manifest import MANIFEST
from clzoo.embed.store import ERRORS, Store, open_store
from clzoo.embed.writer import is_segment, store_lock
from clzoo.errors import ClzooError
from clzoo.files import LONGEST_JSON, atomic_path, filled_folder, parse_json, read_json
from clzoo.temporary import sweep

log = logging.getLogger("clzoo")

_CHUNK = 16 << 20  # bytes
_UPLOAD = "clzoo-upload.json"
_SAME = ("weights_sha256", "preprocessing", "dim", "dtype", "normalized", "source", "shard")


def copy_store(source: str, target: str) -> None:
    """Copy the newest generation of a finished store from a local folder to a URL, or from a URL to a new folder.

    There is no lock in remote storage: of two copies to one URL at once the last manifest counts, and the files that it
    names may be gone. Let one process copy.

    Raises:
        ClzooError: both or neither remote; not a store, or an unfinished one; a target that holds something else, a
            newer generation or another store; storage that cannot be reached. The old remote store is then still whole.
    """
    if is_remote(source) == is_remote(target):
        raise ClzooError(f"{source} and {target}: expected a folder and a URL (s3://..., gs://...), in either order.")
    try:
        if is_remote(target):
            _upload(Path(source), target)
        else:
            _download(source, Path(target))
    except ClzooError:
        raise
    except Exception as error:  # every storage has its own
        raise ClzooError(
            f"{source} could not be copied to {target}: {type(error).__name__}: {error}. What was there before is "
            "still whole; the same command again."
        ) from error


def _upload(folder: Path, url: str) -> None:
    open_store(folder)  # before a lock file is put into a folder that is no store
    files, root = open_url(url)
    root = root.rstrip("/")
    with store_lock(folder):  # else a writer deletes the files that are being sent
        store = open_store(folder)
        if not store.complete:
            raise ClzooError(f"{folder} is not finished. Continue its clzoo embed; then copy.")
        if "file" in files.protocol:
            sweep(Path(root))
        present = _names(files, root)
        old = _manifest(files, root, url) if MANIFEST in present else None
        left = _left(files, root) if _UPLOAD in present else None
        _check_target(store, old, left, present, url)
        before = set() if old is None else _segments_of(old)
        named = {name for segment in store.manifest.segments for name in (segment.embeddings, segment.items)}
        ours = {name for name in before | (left or set()) | named if is_segment(name)}
        announced = json.dumps({"format": _UPLOAD, "names": sorted(ours)}).encode()
        _write(files, f"{root}/{_UPLOAD}", [announced])
        _send(store, before, files, root, url)
        for name in sorted(_names(files, root) & (ours - named)):
            files.rm_file(f"{root}/{name}")
        files.rm_file(f"{root}/{_UPLOAD}")


def _left(files: Any, root: str) -> set[str] | None:
    """The names that a copy which was cut off had announced; None if the file is something else."""
    try:
        upload = _remote_json(files, f"{root}/{_UPLOAD}", _UPLOAD)
        return {str(name) for name in upload["names"]} if upload["format"] == _UPLOAD else None
    except (ClzooError, KeyError, TypeError):
        return None


def _segments_of(manifest: dict[str, Any]) -> set[str]:
    return {segment[kind] for segment in manifest["segments"] for kind in ("embeddings", "items")}


def _send(store: Store, before: set[str], files: Any, root: str, url: str) -> None:
    for segment in store.manifest.segments:
        for name in (segment.embeddings, segment.items):
            if name not in before:
                _put(store.path / name, files, f"{root}/{name}")
            elif not _same_content(store.path / name, files, f"{root}/{name}"):
                raise ClzooError(
                    f"{url} holds a store whose {name} differs: it is not an earlier state of {store.path}. Give "
                    "another URL, or delete that store first."
                )
    _put(store.path / ERRORS, files, f"{root}/{ERRORS}")
    _put(store.path / MANIFEST, files, f"{root}/{MANIFEST}")
    log.info("%s: generation %d, %d vectors", url, store.generation, len(store))


def _download(url: str, folder: Path) -> None:
    if folder.exists():
        raise ClzooError(f"{folder} exists. Give the name of a new folder.")
    files, root = open_url(url)
    root = root.rstrip("/")
    while True:
        if MANIFEST not in _names(files, root):
            raise ClzooError(f"{url} is not an embedding store: it has no {MANIFEST}.")
        manifest = _manifest(files, root, url)
        names = [name for segment in manifest["segments"] for name in (segment["embeddings"], segment["items"])]
        foreign = [name for name in names if not is_segment(name)]
        if foreign:  # such as ../x
            raise ClzooError(f"{url}: its manifest names {foreign[0]!r}, which no store holds.")
        try:
            with filled_folder(folder) as temporary:
                for name in (*names, ERRORS):
                    _get(files, f"{root}/{name}", temporary / name)
                (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
                open_store(temporary)  # whole, or an error that names the file
            return
        except FileNotFoundError:
            files.invalidate_cache()
            if _manifest(files, root, url) == manifest:  # else replaced while we read: once more
                raise


def _check_target(store: Store, old: dict[str, Any] | None, left: set[str] | None, present: set[str], url: str) -> None:
    if old is None:
        foreign = sorted(present - ({_UPLOAD, ERRORS, *left} if left is not None else set()))
        if foreign:
            raise ClzooError(f"{url} is no embedding store and is not empty (it holds {foreign[0]}). Give another URL.")
        return
    ours = read_json(store.path / MANIFEST)
    for key in _SAME:
        if ours.get(key) != old.get(key):
            raise ClzooError(
                f"{url} holds another store ({key} differs). Give another URL, or delete that store first."
            )
    if old["generation"] > store.generation:
        raise ClzooError(
            f"{url} holds generation {old['generation']}, {store.path} the older {store.generation}. Give another URL, "
            "or delete that store first."
        )


def _names(files: Any, root: str) -> set[str]:
    """Names directly below a path; empty where there is nothing."""
    files.invalidate_cache()
    try:
        found = files.ls(root, detail=False)
    except FileNotFoundError:
        return set()
    return {str(name).rstrip("/").rpartition("/")[2] for name in found if str(name).strip("/") != root.strip("/")}


def _manifest(files: Any, root: str, url: str) -> dict[str, Any]:
    place = join(url, MANIFEST)
    manifest = _remote_json(files, f"{root}/{MANIFEST}", place)
    known = isinstance(manifest, dict) and manifest.get("format") == "clzoo-store"
    if known and isinstance(manifest.get("generation"), int):
        return dict(manifest)
    raise ClzooError(f"{place} is not the manifest of an embedding store.")


def _remote_json(files: Any, path: str, where: str) -> Any:
    """A JSON file of remote storage, of a bounded length."""
    with files.open(path, "rb") as file:
        content = file.read(LONGEST_JSON + 1)
    if len(content) > LONGEST_JSON:
        raise ClzooError(f"{where} has more than {LONGEST_JSON:,} bytes. Give the URL of an embedding store.")
    return parse_json(content, where, "Give the URL of an embedding store.")


def _put(path: Path, files: Any, target: str) -> None:
    _write(files, target, _chunks(path))
    if files.size(target) != path.stat().st_size:
        raise OSError(f"{target} has {files.size(target)} bytes after the upload, expected {path.stat().st_size}")


def _write(files: Any, target: str, chunks: Iterable[bytes]) -> None:
    """Replace one object as a whole, which object stores do by themselves and a disk (`file://`) does not."""
    if "file" in files.protocol:
        with atomic_path(Path(target)) as temporary, temporary.open("wb") as out:
            out.writelines(chunks)
        return
    with files.open(target, "wb") as file:
        for chunk in chunks:
            file.write(chunk)


def _get(files: Any, source: str, path: Path) -> None:
    with files.open(source, "rb") as file, path.open("wb") as out:
        while chunk := file.read(_CHUNK):
            out.write(chunk)


def _same_content(path: Path, files: Any, target: str) -> bool:
    if files.size(target) != path.stat().st_size:
        return False
    with files.open(target, "rb") as file:
        return all(file.read(len(chunk)) == chunk for chunk in _chunks(path))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
