"""One store out of the shares that `--share` runs made: row for row the store of a single run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from clzoo.data.listing import Failure
from clzoo.embed.compact import items_in_order, known_errors, merge, rows_in_order
from clzoo.embed.manifest import MANIFEST, Manifest
from clzoo.embed.plan import check_removals, check_source
from clzoo.embed.shares import Share, folder_of_whole
from clzoo.embed.store import METADATA, Store, open_store, same_items
from clzoo.embed.writer import StoreWriter, check_folder, store_lock
from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

_SAME_VECTORS = ("weights_sha256", "network", "preprocessing", "dim", "dtype", "normalized")
_SAME = (*_SAME_VECTORS, "labels", "root", "source")  # of shares; an earlier merge may have had others of these three


def merge_stores(out: str | Path, folders: Sequence[str | Path], *, allow_removals: bool = False) -> Store:
    """Join the finished shares of one source into one store: one segment in path order, all errors, not a share itself.

    The shares stay as they are. The same merge again changes nothing; with shares that were updated meanwhile it makes
    a new generation. `clzoo embed SOURCE --out OUT` continues the merged store like any other.

    Args:
        out: folder of the store to make, or of an earlier merge of the same source.
        folders: one store for each share, in any order.
        allow_removals: let an earlier merge lose more than a tenth of its rows.

    Raises:
        ClzooError: a share is missing, unfinished or there twice; shares of different models, settings or sources;
            `out` is something else, or written by another process, or was continued since it was merged, or would lose
            more than a tenth of its rows.
    """
    out = Path(out)
    stores = _checked([Path(folder) for folder in folders])
    if any(out.resolve() == store.path.resolve() for store in stores):
        raise ClzooError(f"{out} is one of the shares. Name another folder for the merged store.")
    check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with store_lock(out):
            return write_merged(out, stores, allow_removals=allow_removals, may_be_continued=False)
    except OSError as error:
        raise ClzooError(
            f"{out} cannot be written: {error.strerror or error}. Nothing half-merged counts; the same command again."
        ) from error


def write_merged(out: Path, stores: Sequence[Store], *, allow_removals: bool, may_be_continued: bool = True) -> Store:
    """As `merge_stores`, of stores that fit together; the caller holds the lock of `out`.

    Args:
        may_be_continued: the shares know the source as it is now, whatever `out` has learnt since it was merged.
    """
    manifest = _merged_manifest(stores)
    errors = sorted((error for store in stores for error in known_errors(store)), key=lambda failure: failure.path)
    old = open_store(out) if (out / MANIFEST).is_file() else None
    if old is not None:
        _check_same(old, stores[0], _SAME_VECTORS)
        check_source(out, old.manifest, manifest)
        as_now = all(getattr(old.manifest, key) == getattr(manifest, key) for key in (*_SAME, "shard"))
        if old.complete and as_now and known_errors(old) == errors and _same_rows(old, stores):
            log.info("%s holds these rows already", out)
            StoreWriter(out, old.manifest, errors).delete_unnamed()  # of a merge that was killed right after its swap
            return old
        if old.manifest.merged is False and not may_be_continued and _knows_more(old, stores, errors):
            raise ClzooError(
                f"{out} was continued after its shares were merged, and holds what none of them does. "
                f"Go on with it: {old.manifest.command(out)}; or delete {out} and merge."
            )
        named = [failure.path for failure in errors]
        gone = set(old.paths).difference(named, *(store.paths for store in stores))
        check_removals(out, len(gone), len(old), allowed=allow_removals)
        manifest = replace(manifest, generation=old.generation, errors_generation=old.manifest.errors_generation)
    # The old store stays whole until the one swap that makes the new one count.
    writer = StoreWriter(out, replace(manifest, merged=True), errors=None)
    writer.commit((merge(writer, stores),) if any(map(len, stores)) else (), errors, complete=True)
    log.info("%s: %d vectors of %d shares", out, writer.manifest.rows, len(stores))
    return open_store(out)


def _checked(folders: list[Path]) -> list[Store]:
    """The stores in the order of their shares."""
    if not folders:
        raise ClzooError("nothing to merge: name the stores of all shares, such as images-embeddings-shard-*.")
    stores: dict[int, Store] = {}
    count = 0
    for folder in folders:
        store = open_store(folder)
        shard = store.manifest.shard
        if shard is None:
            raise ClzooError(f"{folder} is a whole store, not a share of one. Merge what `clzoo embed --share` made.")
        if not store.complete:
            again = _command(store, Share(*shard))
            raise ClzooError(f"{folder}, share {Share(*shard)}, is not finished. Type: {again}; then merge.")
        count = count or shard[1]
        if shard[1] != count:
            raise ClzooError(
                f"{folder} is a share of {shard[1]}, {folders[0]} one of {count}. Merge shares of one run."
            )
        if shard[0] in stores:
            raise ClzooError(f"{folder} and {stores[shard[0]].path} are both share {Share(*shard)}. Name one of them.")
        stores[shard[0]] = store
    first = next(iter(stores.values()))
    missing = [number for number in range(1, count + 1) if number not in stores]
    if missing:
        raise ClzooError(
            f"share {Share(missing[0], count)} is missing ({len(missing)} of {count} are). Name its store too; or make "
            f"it: {_command(first, Share(missing[0], count))}"
        )
    for store in stores.values():
        _check_same(store, first, _SAME)
    ordered = [stores[number] for number in sorted(stores)]
    _check_columns(ordered)
    return ordered


def _command(store: Store, share: Share) -> str:
    """What to type to embed a share beside another one, if that lies where it was made."""
    return store.manifest.command(folder_of_whole(store.path), "--share", str(share))


def _check_same(store: Store, first: Store, keys: Sequence[str]) -> None:
    for key in keys:
        found, expected = getattr(store.manifest, key), getattr(first.manifest, key)
        if found != expected and not (key == "network" and None in (found, expected)):  # not recorded in older stores
            raise ClzooError(
                f"{store.path} and {first.path} do not belong together: {key} is {str(found)[:60]} and "
                f"{str(expected)[:60]}. Embed one of them anew with the other's options, or give another output."
            )


def _check_columns(stores: Sequence[Store]) -> None:
    """A list that changed between two shares may hold another type in a column of the same name."""
    found: dict[str, tuple[pa.DataType, Store]] = {}
    for store in stores:
        for field in store.items.schema:
            kind, first = found.setdefault(field.name, (field.type, store))
            if pa.types.is_null(kind):
                found[field.name] = (field.type, store)
            elif field.type != kind and not pa.types.is_null(field.type):
                again = "; or: ".join(_command(one, Share(*one.manifest.shard or (1, 1))) for one in (first, store))
                raise ClzooError(
                    f"{first.path} and {store.path} are of different versions of the list: its column "
                    f"{field.name.removeprefix(METADATA)} holds {kind} in the one and {field.type} in the other. "
                    f"Embed the older one anew: {again}; then merge."
                )


def _merged_manifest(stores: Sequence[Store]) -> Manifest:
    compute = tuple(dict.fromkeys(kind for store in stores for kind in store.manifest.compute))
    return replace(stores[0].manifest, generation=0, errors_generation=0, segments=(), compute=compute, shard=None)


def _knows_more(old: Store, stores: Sequence[Store], errors: Sequence[Failure]) -> bool:
    """Whether a store has labels, or images as they are now, that none of the shares has."""
    if old.manifest.labels and not stores[0].manifest.labels:
        return True
    known = {row for store in stores for row in _stamps(store)}
    failed = {failure.path for failure in errors}
    return any(stamp not in known and stamp[0] not in failed for stamp in _stamps(old))


def _stamps(store: Store) -> Iterator[tuple[str, int, int]]:
    columns = (store.items[name].to_pylist() for name in ("path", "size", "mtime_ns"))
    return zip(*columns, strict=True)


def _same_rows(old: Store, stores: Sequence[Store]) -> bool:
    if not same_items(items_in_order([old]), items_in_order(stores)):
        return False
    pairs = zip(rows_in_order([old]), rows_in_order(stores), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)
