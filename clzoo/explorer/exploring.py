"""`explore`: a store, or two of the same images, becomes a map with neighbors, flags and scores, to be looked at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clzoo.embed.store import Store, open_store
from clzoo.errors import ClzooError
from clzoo.explorer.findings import FLAGS, Findings, Score, check_flags, find_all, leaks_of
from clzoo.explorer.graph import Graph, neighbor_graph
from clzoo.explorer.pair import agreement, same_images
from clzoo.explorer.projection import check_projection, project

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

log = logging.getLogger("clzoo")


@dataclass(frozen=True, eq=False)
class Seen:
    """The images of the map under one encoder.

    Attributes:
        store: where their vectors are.
        rows: int64 (N,), of the store.
        graph: their neighbors among themselves.
        places: float32 (N, 2), from -1 to 1.
        projection: where the places come from, in words.
    """

    store: Store
    rows: np.ndarray
    graph: Graph
    places: np.ndarray
    projection: str


@dataclass(frozen=True, eq=False)
class Exploration:
    """What `explore` made. `write_page` and `serve` show it; nothing in the collection is changed.

    Attributes:
        seen: by the encoder of the store, and of a second store if there is one; the same N images in one order.
        findings: flags and scores, by rows of the first store.
        agreement: of two encoders, float32 (N,): which share of an image's nearest 10 both find. None of one.
        notes: what is left out, and what could not be looked for.
        encoder: the one that made the store, or where it is; None for where the store says.
    """

    seen: tuple[Seen, ...]
    findings: Findings
    agreement: np.ndarray | None
    notes: tuple[str, ...]
    encoder: Encoder | str | Path | None = None

    def __len__(self) -> int:
        return len(self.seen[0].rows)

    @property
    def store(self) -> Store:
        """The first store, whose pictures, labels and columns are shown."""
        return self.seen[0].store

    def summary(self) -> list[str]:
        """What is on the map, a sentence each."""
        lines = [f"{len(self):,} images of {self.store.path}, {self.seen[0].projection}."]
        lines += [
            f"{len(np.intersect1d(flag.rows, self.seen[0].rows)):,} flagged as {flag.name}."
            for flag in self.findings.flags
        ]
        if self.agreement is not None and len(self):
            lines.append(f"The two encoders share {self.agreement.mean():.0%} of the nearest 10 of an image.")
        return [*lines, *self.notes]

    def write_page(self, path: str | Path) -> Path:
        """Write the map as one file that needs no server, at most 60 MB; returns its path.

        Raises:
            ClzooError: more than 20,000 images, or pictures that do not fit.
        """
        from clzoo.explorer.page import write_page

        return write_page(self, Path(path))

    def serve(self, port: int = 0, *, browser: bool = True, announce: Callable[[str], object] = log.info) -> None:
        """Show the map in a browser until Ctrl-C (in a notebook: until the cell is interrupted), from 127.0.0.1 alone.

        Args:
            port: 0 takes a free one.
            browser: open one, where there is a screen.
            announce: is told the address.

        Raises:
            ClzooError: Starlette or uvicorn is not installed (extra `[explore]`), or the port is in use.
        """
        from clzoo.explorer.server import serve

        serve(self, port, browser=browser, announce=announce)


def explore(
    store: Store | str | Path,
    other: Store | str | Path | None = None,
    *,
    flags: Sequence[str] = FLAGS,
    leaks: str | Path | None = None,
    projection: str = "auto",
    sample: int | None = None,
    encoder: Encoder | str | Path | None = None,
) -> Exploration:
    """Make a map of a collection of images, with neighbors, flags and scores. Nothing is changed.

    Args:
        store: an open store (`open_store(path, images=DIR)` where the pictures have moved), or its folder.
        other: a store of the same images by another encoder, to see where the two disagree.
        flags: of "duplicates", "labels" and "outliers", what is looked for; what cannot be looked for is noted.
        leaks: a certificate of `clzoo curate leaks` that names the store.
        projection: "umap", "pca", or "auto" for UMAP where umap-learn is installed.
        sample: at most so many images, drawn at random, always the same ones.
        encoder: the one that made the store, where it is not where the store says.

    Raises:
        ClzooError: another flag or projection, vectors that are not finite, two stores without an image in common or of
            one encoder, a certificate of other stores.
    """
    check_flags(flags)
    check_projection(projection)
    first = store if isinstance(store, Store) else open_store(store)
    leaked = None if leaks is None else leaks_of(first, leaks)
    notes: list[str] = []
    if other is None:
        rows = [np.arange(len(first))]
        stores = [first]
    else:
        second = other if isinstance(other, Store) else open_store(other)
        *rows, notes = same_images(first, second)
        stores = [first, second]
    if sample is not None and sample < 1:
        raise ClzooError(f"sample must be at least 1, found {sample}.")
    if sample is not None and sample < len(rows[0]):
        chosen = np.sort(np.random.default_rng(0).choice(len(rows[0]), sample, replace=False))
        notes.append(f"A sample: {sample:,} of {len(rows[0]):,} images; neighbors are those in the sample.")
        rows = [each[chosen] for each in rows]
    seen = tuple(_seen(each, chosen, projection) for each, chosen in zip(stores, rows, strict=True))
    findings = find_all(first, rows[0], seen[0].graph, wanted=flags, leaks=leaked, encoder=encoder)
    shared = agreement(seen[0].graph, seen[1].graph) if len(seen) == 2 else None
    if shared is not None:
        values = np.full(len(first), np.nan, np.float32)
        values[rows[0]] = shared
        meaning = "the share of the nearest 10 that both encoders find"
        findings.scores.insert(0, Score("agreement", meaning, values))
    if not first.complete:
        notes.append(f"{first.path} is not complete: the same clzoo embed goes on with it.")
    return Exploration(seen, findings, shared, (*notes, *findings.notes), encoder)


def _seen(store: Store, rows: np.ndarray, projection: str) -> Seen:
    graph = neighbor_graph(store, rows)
    places, words = project(store, rows, graph, projection)
    return Seen(store, rows, graph, places, words)
