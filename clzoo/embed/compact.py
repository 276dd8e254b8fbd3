"""Rewriting a store to one segment in path order."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clzoo.data.sources import Failure
from clzoo.embed.manifest import Segment
from clzoo.embed.store import Store, open_store
from clzoo.embed.writer import StoreWriter, VectorFile, store_lock

log = logging.getLogger("clzoo")

_CHUNK = 16 << 20  # bytes of vectors in memory at a time


def compact_store(path: str | Path) -> Store:
    """Rewrite a store to one segment in path order and drop what no longer counts; nothing to do is no new generation.

    Raises:
        ClzooError: not a store, damaged, or being written by another process.
    """
    folder = Path(path)
    open_store(folder)  # before a lock file is put into a folder that is no store
    with store_lock(folder):
        store = open_store(folder)
        if is_compact(store):
            log.info("%s is compact already", folder)
            return store
        writer = StoreWriter(folder, store.manifest, known_errors(store))
        before = len(store.manifest.segments)
        writer.commit((merge(writer, store),), writer.errors or [], complete=store.complete)
        log.info("%s: %d segments are now one of %d vectors", folder, before, len(store))
    return open_store(folder)


def is_compact(store: Store) -> bool:
    """One segment without dropped rows (a segment is in path order from the start), or no rows at all."""
    return len(store) == 0 or (len(store.manifest.segments) == 1 and store.stored_vectors == len(store))


def merge(writer: StoreWriter, store: Store) -> Segment:
    """Write all rows of the store into a new segment in path order, in bounded memory; the caller commits it."""
    order = pc.sort_indices(store.items["path"]).to_numpy()
    vectors = VectorFile(writer.folder, store.dim, store.manifest.dtype)
    rows = max(1, _CHUNK // (store.dim * np.dtype(store.manifest.dtype).itemsize))
    for start in range(0, len(order), rows):
        vectors.append(store.raw_rows(order[start : start + rows]))
    items = store.items.take(order).combine_chunks()
    items = items.set_column(0, "row", pa.array(np.arange(len(order))))
    return writer.add_segment(vectors, items)


def known_errors(store: Store) -> list[Failure]:
    """The store's errors as the writer holds them."""
    return [Failure(**error) for error in store.errors()]
