"""One run that brings a store up to date with a listing. What a kill at any instant leaves: docs/store.md."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from clzoo.data.listing import Failure, Listing, label_of_item
from clzoo.data.splits import are_splits
from clzoo.data.storage import join
from clzoo.embed.compact import is_compact, known_errors, merge
from clzoo.embed.manifest import MANIFEST, Manifest, Segment
from clzoo.embed.plan import check_same_kind, items_table, make_plan, renewed, says_more_than_paths
from clzoo.embed.store import Store, open_store, same_items
from clzoo.embed.stream import Encoded
from clzoo.embed.writer import StoreWriter, VectorFile
from clzoo.encoder import Encoder
from clzoo.wording import clzoo_command
from clzoo.zoo.entries import can_be_loaded

log = logging.getLogger("clzoo")

FLUSH_ROWS, FLUSH_SECONDS = 4096, 60.0
"""A run saves at the latest after so many rows or seconds ..."""
FLUSH_SHARE = 32
"""... or after this fraction of what it did so far, if that is more: so the segments of the longest run stay few."""

CHEAP_MERGE = 1 << 30
"""At its end a run merges all segments into one if their vectors take at most so many bytes ..."""
MERGE_SHARE = 8
"""... or if at least this fraction of the rows are its own; other stores wait for `clzoo store compact`."""
_MANY_SEGMENTS = 100  # merged before a run adds to them: each costs a reader a memory map


class Run:
    """Call `embed`, then `finish`; the caller holds the store's lock.

    Attributes:
        plan: what there is to do.
        embedded: rows added so far.
        failures: files that could not be embedded, in path order once finished.
    """

    def __init__(
        self,
        folder: Path,
        listing: Listing,
        fresh: Manifest,
        encoder: Encoder,
        labels: bool | None,
        check_removals: Callable[[int, int], None],
    ) -> None:
        self._listing = listing
        self.embedded = 0
        self.failures: list[Failure] = list(listing.failures)
        self._vectors: VectorFile | None = None  # of the segment being written
        self._positions: list[np.ndarray] = []  # of its rows, in the listing
        self._started = self._flushed = time.monotonic()
        self._moved = False  # source or model lie elsewhere than the manifest says

        store = open_store(folder) if (folder / MANIFEST).is_file() else None
        if store is not None:
            check_same_kind(folder, store.manifest, fresh, encoder)
        self.plan = make_plan(listing, store)
        check_removals(self.plan.dropped, 0 if store is None else len(store))  # before anything is written
        if store is None:
            self.writer = StoreWriter(folder, replace(fresh, labels=bool(labels)), errors=None)
            self.writer.commit((), self.failures, complete=False)
        else:
            wanted = store.manifest.labels if labels is None else labels
            continued = self._continued(store, fresh)
            self._moved = any(
                getattr(store.manifest, key) != getattr(continued, key) for key in ("root", "source", "load")
            )
            self.writer = StoreWriter(folder, continued, known_errors(store))
            self._drop_rows(store, wanted)
            if len(self.plan.todo) and len(self.writer.manifest.segments) > _MANY_SEGMENTS:
                self.writer.commit((merge(self.writer, [self._reopened()]),), self.writer.errors or [], complete=False)

        if self.writer.manifest.labels:
            _warn_of_splits(listing)

    def embed(self, stream: Iterable[Encoded], advance: Callable[[int], None]) -> None:
        """Store what the stream brings. Cut short by Ctrl-C or any error of the model, it saves what it has first."""
        try:
            for encoded in stream:
                self._add(encoded)
                advance(len(encoded.positions) + len(encoded.failures))
                if self._flush_is_due():
                    self._flush()
        except OSError:  # the store cannot be written
            raise
        except BaseException:
            self._flush()
            log.warning("%d images of this run are saved; the same command continues", self.embedded)
            raise

    def finish(self) -> None:
        """Save the rest, merge the segments where that is cheap, and declare the store complete."""
        self.failures.sort(key=lambda failure: failure.path)
        nothing_new = self.embedded == 0 and self.failures == self.writer.errors and not self._moved
        if nothing_new and self.writer.manifest.complete:
            self.writer.delete_unnamed()  # of a run that was killed right after its last swap
            return  # the generation stays, and so does an index built on it
        self.writer.begin()
        if self._positions and not self.writer.manifest.segments:
            self.writer.commit((self._close_segment(),), self.failures, complete=True)
            return
        self._flush()
        store = self._reopened()
        is_cheap = store.stored_vectors * store.dim * np.dtype(store.manifest.dtype).itemsize <= CHEAP_MERGE
        if not is_compact(store) and (is_cheap or self.embedded * MERGE_SHARE >= len(store)):
            segments: tuple[Segment, ...] = (merge(self.writer, [store]),)
        else:
            segments = store.manifest.segments
        self.writer.commit(segments, self.failures, complete=True)
        if len(segments) > 1:
            log.info("%d segments; to merge them: clzoo store compact %s", len(segments), self.writer.folder)

    def _continued(self, store: Store, fresh: Manifest) -> Manifest:
        """The old manifest with what this run may change: a moved source or model, another compute type."""
        old, compute = store.manifest, store.manifest.compute
        # What nothing is found of has not moved there: its rows are kept because nobody reached them.
        is_none_found = not np.isin(store.ids, self._listing.ids).any()
        is_elsewhere = self.plan.alive.any() and not len(self.plan.todo) and is_none_found
        root, source = (old.root, old.source) if is_elsewhere else (fresh.root, fresh.source)
        load = fresh.load if not can_be_loaded(old.load) and can_be_loaded(fresh.load) else old.load
        if len(self.plan.todo) and fresh.compute[-1] != old.compute[-1]:
            compute = (*(each for each in compute if each not in fresh.compute), *fresh.compute)  # the newest last
            log.warning("the store's rows were computed in %s; this run adds rows in %s", old.compute[-1], compute[-1])
        # Terms and network are those of the same weights; older stores do not have them.
        old = replace(old, license=fresh.license, license_note=fresh.license_note, network=fresh.network)
        merged = None if old.merged is None else False
        return replace(old, root=root, source=source, load=load, compute=compute, merged=merged)

    def _drop_rows(self, store: Store, labels: bool) -> None:
        """Take away the rows of deleted and changed files; renew labels and metadata where they are others now."""
        renew = labels != store.manifest.labels or says_more_than_paths(self._listing, store.items)
        if self.plan.alive.all() and not renew:
            return
        segments = []
        for number, segment in enumerate(store.manifest.segments):
            rows = slice(store.starts[number], store.starts[number + 1])
            alive = self.plan.alive[rows]
            before = store.items[rows]
            items = before.filter(pa.array(alive))
            if renew or not alive.all():
                items = renewed(items, self._listing, labels)
            if same_items(items, before):
                segments.append(segment)
            elif alive.any():
                segments.append(self.writer.replace_items(segment, items))
        if tuple(segments) == store.manifest.segments and labels == store.manifest.labels:
            return
        self.writer.manifest = replace(self.writer.manifest, labels=labels)
        self.writer.commit(tuple(segments), self.writer.errors or [], complete=False)

    def _add(self, encoded: Encoded) -> None:
        self.failures += encoded.failures
        if len(encoded.positions) == 0:
            return
        if self._vectors is None:
            self.writer.begin()
            self._vectors = VectorFile(self.writer.folder, self.writer.manifest.dim, self.writer.manifest.dtype)
        self._vectors.append(encoded.vectors)
        # Last: rows that Ctrl-C cut off half-written are not in this list, and VectorFile.finish cuts them away.
        self._positions.append(encoded.positions)
        self.embedded += len(encoded.positions)

    def _flush_is_due(self) -> bool:
        now = time.monotonic()
        rows = sum(map(len, self._positions))
        return rows >= max(FLUSH_ROWS, self.embedded // FLUSH_SHARE) or (
            now - self._flushed >= max(FLUSH_SECONDS, (now - self._started) / FLUSH_SHARE)
        )

    def _flush(self) -> None:
        """Make what was added count, in a store that is not complete."""
        if self._positions:
            self.writer.begin()
            segment = self._close_segment()
            self.writer.commit((*self.writer.manifest.segments, segment), self.failures, complete=False)
        self._flushed = time.monotonic()

    def _close_segment(self) -> Segment:
        assert self._vectors is not None
        positions = np.concatenate(self._positions)
        vectors, self._vectors, self._positions = self._vectors, None, []
        return self.writer.add_segment(vectors, items_table(self._listing, positions, self.writer.manifest.labels))

    def _reopened(self) -> Store:
        return Store(self.writer.folder, self.writer.manifest)


def _warn_of_splits(listing: Listing) -> None:
    """Of labels that are `train` and `test`, since the folders in the source are its splits."""

    def of_paths() -> Iterator[str]:
        return (label for item in listing.items if item.label is None and (label := label_of_item(item)) is not None)

    if are_splits(of_paths()):  # of classes the first one ends the search, however many images there are
        labels = set(of_paths())
        log.warning(
            "the labels are %s: the first sub-folders, which are splits and hold the classes. For those labels type: "
            "%s",
            " and ".join(sorted(labels)),
            clzoo_command("embed", join(str(listing.root), min(labels)), "--labels"),
        )
