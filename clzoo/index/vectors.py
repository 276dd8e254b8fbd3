"""The vectors of a store as an index takes them: float32, unit length, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clzoo.embed.checks import not_finite
from clzoo.embed.store import Store

BATCH = 16_384
"""Rows held at a time. Parts of an index begin at multiples of it, so that FAISS sees the batches of a whole build."""

SEED = 0
"""Of the rows drawn as queries and for training."""


def normalized(vectors: np.ndarray, store: Store) -> np.ndarray:
    """Unit vectors, float32 (n, dim), in place where they are float32. A zero vector stays zero: it is near to nothing.

    Raises:
        ClzooError: a vector that is not finite.
    """
    vectors = vectors.astype(np.float32, copy=False)
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    if not np.isfinite(norms).all():
        raise not_finite(store)
    vectors /= np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
    return vectors


def normalized_batches(store: Store, start: int = 0, stop: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows from `start` to `stop` of a store: which they are, and their vectors."""
    stop = len(store) if stop is None else stop
    for first in range(start, stop, BATCH):
        rows = slice(first, min(first + BATCH, stop))
        yield rows, normalized(store.raw_rows(np.arange(rows.start, rows.stop)), store)


def sample(store: Store, limit: int) -> np.ndarray:
    """At most `limit` rows drawn without replacement, always the same ones, in row order; normalized."""
    rows = np.arange(len(store))
    if limit < len(rows):
        rows = np.sort(np.random.default_rng(SEED).choice(len(rows), limit, replace=False))
    return normalized(store.raw_rows(rows), store)
