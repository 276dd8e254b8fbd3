"""Rewriting a store to one segment in path order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clzoo.data.listing import Failure
from clzoo.embed.manifest import Segment
from clzoo.embed.store import Store, joined, open_store
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
        writer = StoreWriter(folder, store.manifest, known_errors(store))
        if is_compact(store):
            log.info("%s is compact already", folder)
            writer.delete_unnamed()  # of a run that was killed right after its swap
            return store
        before = len(store.manifest.segments)
        writer.commit((merge(writer, [store]),), writer.errors or [], complete=store.complete)
        log.info("%s: %d segments are now one of %d vectors", folder, before, len(store))
    return open_store(folder)


def is_compact(store: Store) -> bool:
    """One segment without dropped rows (a segment is in path order from the start), or no rows at all."""
    return len(store) == 0 or (len(store.manifest.segments) == 1 and store.stored_vectors == len(store))


def merge(writer: StoreWriter, stores: Sequence[Store]) -> Segment:
    """Write all rows of the stores into a new segment in path order, in bounded memory; the caller commits it."""
    vectors = VectorFile(writer.folder, stores[0].dim, stores[0].manifest.dtype)
    for rows in rows_in_order(stores):
        vectors.append(rows)
    return writer.add_segment(vectors, items_in_order(stores))


def items_in_order(stores: Sequence[Store]) -> pa.Table:
    """The items of all stores in path order, their `row` counted anew."""
    items = joined([store.items for store in stores])
    items = items.take(pc.sort_indices(items["path"])).combine_chunks()
    return items.set_column(0, "row", pa.array(np.arange(len(items)), pa.int64()))


def rows_in_order(stores: Sequence[Store]) -> Iterator[np.ndarray]:
    """The vectors of all stores in path order, a part (n, dim) at a time, in the stores' own dtype."""
    order = pc.sort_indices(pa.chunked_array([chunk for store in stores for chunk in store.items["path"].chunks]))
    starts = np.cumsum([0, *map(len, stores)])
    step = max(1, _CHUNK // (stores[0].dim * np.dtype(stores[0].manifest.dtype).itemsize))
    for start in range(0, len(order), step):
        positions = order[start : start + step].to_numpy().astype(np.int64)
        owners = np.searchsorted(starts, positions, side="right") - 1
        rows = np.empty((len(positions), stores[0].dim), stores[0].manifest.dtype)
        for owner in np.unique(owners):
            chosen = owners == owner
            rows[chosen] = stores[owner].raw_rows(positions[chosen] - starts[owner])
        yield rows


def known_errors(store: Store) -> list[Failure]:
    """The store's errors as the writer holds them."""
    return [Failure(**error) for error in store.errors()]
