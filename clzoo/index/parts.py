"""One index out of parts: inverted files too large to be filled in memory, or filled by several processes or machines.

The index is trained once, by the first process that comes. Each part holds the inverted lists of a range of rows; the
merge writes list after list of all parts into one file, in FAISS's own format, without holding it. On machines that
compute alike it is the file of a whole build, byte for byte. Everything lies in `faiss.parts` in the folder of the
store until the merge is done; each file there counts from the moment its description is renamed into place.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.embed.shares import Share
from clzoo.embed.store import Store, open_store
from clzoo.embed.writer import store_lock
from clzoo.errors import ClzooError
from clzoo.files import atomic_path, read_json, sha256_of, write_json
from clzoo.index import vectors
from clzoo.index.building import (
    Index,
    check_content,
    describe,
    empty,
    filled,
    open_index,
    report,
    sample_sha256,
    trained,
)
from clzoo.index.files import import_faiss, inner_index, map_index, write_index, write_pair
from clzoo.index.recall import tuned_recall
from clzoo.locking import held
from clzoo.temporary import sweep
from clzoo.wording import clzoo_command

log = logging.getLogger("clzoo")

PARTS = "faiss.parts"
"""Folder inside the store's."""

_TRAINED = "trained"
_SAMPLE = "store_sample_sha256"
_LOCK = ".lock"


def build_part(store: Store | str | Path, share: tuple[int, int], *, factory: str) -> Path:
    """Build part `share[0]` (from 1) of `share[1]` of an inverted-file index. A part that is there is left as it is.

    Parts may be built in any order, one after the other or at once, by machines that share the store's folder.
    Memory: the part, a training sample of 1 GiB in the first process, and 16,384 rows.

    Args:
        store: an open store, or its folder.
        share: the number of the part, and how many there are.
        factory: as for `build_index`, of an inverted file: "IVF4096,SQfp16".

    Returns:
        The part's file. `merge_index` makes the index of all of them.

    Raises:
        ClzooError: no inverted file (a graph such as HNSW cannot be merged); parts of another build lie there; all
            that `build_index` raises.
    """
    store = store if isinstance(store, Store) else open_store(store)
    check_content(store)
    number, total = share
    if not 1 <= number <= total:
        raise ClzooError(f"part {number} of {total} does not exist: numbers go from 1 to {total}.")
    folder = store.path / PARTS
    path = folder / f"part-{number}.index"
    _check_kind(empty(factory, store.dim), factory)
    try:
        folder.mkdir(exist_ok=True)
        template = _trained_once(folder, store, factory, total)
        if _described(path).get("trained_sha256") == template["sha256"]:
            log.info("%s is there already", path)
            return path
        started = time.monotonic()
        start, stop = _rows(len(store), Share(number, total))
        index = filled(import_faiss().read_index(str(folder / f"{_TRAINED}.index")), factory, store, start, stop)
        _write(path, index, started, trained_sha256=template["sha256"])
    except OSError as error:
        raise ClzooError(f"{folder} cannot be written: {error}. The same command again continues.") from error
    log.info("%s: %d vectors", path, stop - start)
    return path


def merge_index(store: Store | str | Path) -> Index:
    """Join the parts into the store's index, replacing the one that is there, and delete them.

    Memory: the ids, and one inverted list at a time. The disk holds the vectors twice while it runs.

    Returns:
        The index, memory-mapped as by `open_index(store, mmap=True)`.

    Raises:
        ClzooError: parts are missing, damaged, of different trainings or of another generation of the store.
    """
    folder = store.path if isinstance(store, Store) else Path(store)
    open_store(folder)  # before a lock file is put into a folder that is no store
    with store_lock(folder):
        store = open_store(folder)
        started = time.monotonic()
        build, paths, seconds = _checked_parts(store)
        log.info("merging %d parts of %s", len(paths), build["factory"])

        def write(path: Path) -> dict[str, Any]:
            template = import_faiss().read_index(str(folder / PARTS / f"{_TRAINED}.index"))
            parts = [map_index(part) for part in paths]
            _write_merged(path, template, parts, store)
            merged = map_index(path)
            recall, effort = tuned_recall(merged, store)
            inner_index(template).nprobe = effort["nprobe"]
            del merged
            with path.open("r+b") as file:
                file.write(_head(template, len(store)))  # once more, with the nprobe
            return describe(store, build["factory"], recall, effort, seconds + time.monotonic() - started)

        report(store, write_pair(folder, write))
        _delete_parts(folder / PARTS, paths)
    return open_index(store, mmap=True)


def _delete_parts(folder: Path, paths: Sequence[Path]) -> None:
    """Delete the files of a build, and their folder if nothing else is in it."""
    for path in (folder / f"{_TRAINED}.index", *paths):
        for file in (path.with_suffix(".json"), path):  # the description first: without it the file does not count
            file.unlink(missing_ok=True)
    sweep(folder)
    (folder / _LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _check_kind(index: Any, factory: str) -> None:
    faiss = import_faiss()
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexIVF) and isinstance(
        faiss.downcast_InvertedLists(inner.invlists), faiss.ArrayInvertedLists
    ):
        return
    why = (
        "a graph cannot be merged" if isinstance(inner, faiss.IndexHNSW) else "only plain inverted files can be merged"
    )
    raise ClzooError(
        f"factory {factory!r} cannot be built in parts: {why}. Build it whole (without --share), "
        "or take an inverted file such as IVF4096,SQfp16."
    )


def _rows(count: int, share: Share) -> tuple[int, int]:
    """First row of a part, and the one after its last: whole batches, so that FAISS computes as for a whole build."""
    batches = -(-count // vectors.BATCH)
    start, stop = (batches * number // share.total * vectors.BATCH for number in (share.number - 1, share.number))
    return start, min(stop, count)


def _trained_once(folder: Path, store: Store, factory: str, total: int) -> dict[str, Any]:
    """The description of the trained, empty index that all parts start from; trains it where nobody has."""
    path = folder / f"{_TRAINED}.index"
    build = {"factory": factory, "parts": total}
    with held(folder / _LOCK, None, f"waiting for another process that trains {factory}"):
        found = _described(path)
        if not found:
            started = time.monotonic()
            of_store = {"store_generation": store.generation, _SAMPLE: sample_sha256(store)}
            _write(path, trained(empty(factory, store.dim), factory, store), started, **build, **of_store)
            log.info("trained %s in %.1f s", factory, time.monotonic() - started)
            found = _described(path)
    _require_store(found, store)
    different = [key for key in build if build[key] != found.get(key)]
    if different:
        shown = [", ".join(f"{key} {values.get(key)}" for key in different) for values in (found, build)]
        raise ClzooError(
            f"{folder} holds parts of another build ({shown[0]}; this is {shown[1]}). "
            f"Finish that one, or delete {folder} and build all parts anew."
        )
    return found


def _write(path: Path, index: Any, started: float, **facts: Any) -> None:
    """An index file, and then the description that makes it count."""
    with atomic_path(path) as temporary:
        write_index(temporary, index)
        facts = {**facts, "sha256": sha256_of(temporary), "seconds": time.monotonic() - started}
    write_json(path.with_suffix(".json"), facts)


def _described(path: Path) -> dict[str, Any]:
    """What `_write` said of an index file; empty where it never came to that."""
    description = path.with_suffix(".json")
    return dict(read_json(description)) if description.exists() and path.exists() else {}


def _checked_parts(store: Store) -> tuple[dict[str, Any], list[Path], float]:
    """The build that the parts belong to, their files in row order, and the seconds they took."""
    folder = store.path / PARTS
    build = _described(folder / f"{_TRAINED}.index")
    if not build:
        build_one = _command(store, "IVF4096,SQfp16")
        raise ClzooError(f"{store.path} holds no parts of an index. Type: {build_one} 1/4, and so on to 4/4")
    _require_store(build, store)
    total = build["parts"]
    paths = [folder / f"part-{number}.index" for number in range(1, total + 1)]
    described = [_described(path) for path in paths]
    again = _command(store, build["factory"])
    missing = [
        number for number, part in enumerate(described, 1) if part.get("trained_sha256") != build["sha256"]
    ]  # or made from another training
    if missing:
        raise ClzooError(
            f"part {missing[0]} of {total} is missing ({len(missing)} of {total} are). Type: {again} "
            f"{missing[0]}/{total}"
        )
    if sha256_of(folder / f"{_TRAINED}.index") != build["sha256"]:
        raise ClzooError(f"{folder / _TRAINED}.index is damaged. Delete {folder} and build all parts anew.")
    for number, (path, part) in enumerate(zip(paths, described, strict=True), 1):
        if sha256_of(path) != part["sha256"]:
            raise ClzooError(f"{path} is damaged. Delete it, and type: {again} {number}/{total}")
    return build, paths, build["seconds"] + sum(part["seconds"] for part in described)


def _command(store: Store, factory: str) -> str:
    """What to type to build a part, but for its number."""
    return clzoo_command("store", "index", store.path, "--factory", factory, "--share")


def _require_store(build: dict[str, Any], store: Store) -> None:
    """Refuse parts of an earlier state of the store, or of another store of the same generation."""
    folder, generation = store.path / PARTS, build["store_generation"]
    other = ""
    if generation != store.generation:
        other = f"generation {generation}, the store is at {store.generation}"
    elif build.get(_SAMPLE) != sample_sha256(store):
        other = "another store"
    if other:
        raise ClzooError(f"{folder} was built for {other}. Delete {folder} and build all parts anew.")


def _write_merged(path: Path, template: Any, parts: Sequence[Any], store: Store) -> None:
    """The index file that FAISS would write of all parts in one, list after list."""
    lists = [inner_index(part).invlists for part in parts]
    starts = np.cumsum([0, *(part.ntotal for part in parts)])
    if starts[-1] != len(store):
        raise ClzooError(f"the parts hold {starts[-1]} vectors, the store {len(store)}. Delete them and begin anew.")
    nlist, code_size = lists[0].nlist, lists[0].code_size
    sizes = np.array([[part.list_size(number) for number in range(nlist)] for part in lists])  # (parts, nlist)
    with path.open("wb") as file:
        file.write(_head(template, len(store)))
        file.write(_list_sizes(sizes.sum(axis=0)))
        for number in range(nlist):
            for part in lists:
                file.write(_memory(part.get_codes(number), part.list_size(number) * code_size).data)
            for part, start in zip(lists, starts, strict=False):
                file.write((_memory(part.get_ids(number), part.list_size(number)) + start).astype("<i8").tobytes())
        file.write(struct.pack("<Q", len(store)))
        file.write(store.ids.astype("<i8").tobytes())


def _head(template: Any, count: int) -> bytes:
    """What FAISS writes of the trained index before the sizes of its lists, with this many vectors said to be in it."""
    inner = inner_index(template)
    for layer in (template, import_faiss().downcast_index(template.index), inner):
        layer.ntotal = count
    content: bytes = import_faiss().serialize_index(template).tobytes()
    tail = _list_sizes(np.zeros(inner.nlist, np.int64)) + struct.pack("<Q", 0)  # no list with rows, no ids
    if not content.endswith(tail):
        raise ClzooError(
            f"faiss {import_faiss().__version__} writes {type(inner).__name__} in a way that clzoo cannot merge. "
            "Build the index whole, without --share."
        )
    return content[: -len(tail)]


def _list_sizes(sizes: np.ndarray) -> bytes:
    """How FAISS writes the sizes of inverted lists: all, or where at most half hold rows, those with their numbers."""
    used = np.flatnonzero(sizes)
    if len(used) > len(sizes) // 2:
        kind, values = b"full", sizes
    else:
        kind, values = b"sprs", np.stack([used, sizes[used]], axis=1).ravel()
    return kind + struct.pack("<Q", len(values)) + values.astype("<u8").tobytes()


def _memory(pointer: Any, count: int) -> np.ndarray:
    """FAISS's memory as an array, without a copy."""
    memory: np.ndarray = import_faiss().rev_swig_ptr(pointer, count) if count else np.empty(0, np.int64)
    return memory
