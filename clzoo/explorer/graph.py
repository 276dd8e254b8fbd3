"""The neighbor graph of some rows of a store: exact up to 200,000 rows, above that through the store's index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.index.building import open_index
from clzoo.index.choosing import ExactSearch
from clzoo.index.vectors import normalized
from clzoo.neighbors import nearest
from clzoo.progress import with_progress

MOST_EXACT = 200_000
"""Rows up to which every pair is compared."""

NEIGHBORS = 15
"""Of each image: what the page shows, and UMAP's own default."""

_QUERIES = 4096  # rows between two steps of the progress bar
_AT_ONCE = 512  # rows that are compared with all others without the index


@dataclass(frozen=True, eq=False)
class Graph:
    """The nearest others of each of N images, best first.

    Attributes:
        rows: int32 (N, k), positions among the N.
        similarity: float32 (N, k), cosine, at most 1.
        how: in words, how they were found.
    """

    rows: np.ndarray
    similarity: np.ndarray
    how: str

    @property
    def k(self) -> int:
        """Neighbors of an image: 15, or all others where there are fewer."""
        return self.rows.shape[1]


def neighbor_graph(store: Store, rows: np.ndarray, k: int = NEIGHBORS) -> Graph:
    """The k nearest others of some rows (N,) of a store, among those rows.

    Raises:
        ClzooError: vectors that are not finite; more than 200,000 rows and no index, or not all rows of the store.
    """
    k = max(0, min(k, len(rows) - 1))
    if k == 0:
        normalized(store.raw_rows(rows), store)  # one that is not finite is refused also where it is alone
        empty = np.empty((len(rows), 0))
        return Graph(empty.astype(np.int32), empty.astype(np.float32), "there are no others")
    if len(rows) > MOST_EXACT:
        return _through_index(store, rows, k)
    vectors = torch.from_numpy(normalized(store.raw_rows(rows), store))
    starts = range(0, len(rows), _QUERIES)
    parts = (nearest(vectors, vectors[start : start + _QUERIES], k + 1) for start in starts)
    found = list(with_progress(parts, len(starts), "neighbors"))
    similarity = torch.cat([part[0] for part in found]).numpy()
    return _without_self(torch.cat([part[1] for part in found]).numpy(), similarity, "exact")


def _through_index(store: Store, rows: np.ndarray, k: int) -> Graph:
    if len(rows) < len(store):
        raise ClzooError(
            f"{len(rows):,} of the {len(store):,} images of {store.path} are more than {MOST_EXACT:,}, up to which "
            f"neighbors are found without an index. Take fewer: --sample {MOST_EXACT}"
        )
    index = open_index(store)
    starts = range(0, len(rows), _QUERIES)
    parts = []
    for start in with_progress(starts, len(starts), "neighbors"):
        vectors = normalized(store.raw_rows(rows[start : start + _QUERIES]), store)
        similarity, ids = index.faiss.search(vectors, k + 1)
        _compare_with_all(store, vectors, similarity, ids)
        parts.append((index.rows_of(ids), similarity))
    recall = index.description["recall_at_10"]
    how = f"{index.description['factory']} index" + ("" if recall is None else f", recall@10 {recall:.3f}")
    return _without_self(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), how)


def _compare_with_all(store: Store, vectors: np.ndarray, similarity: np.ndarray, ids: np.ndarray) -> None:
    """Fill in, in place, what an index left open: where the lists that it looks at hold fewer, it says -1."""
    short = np.flatnonzero((ids < 0).any(axis=1))
    for start in range(0, len(short), _AT_ONCE):
        some = short[start : start + _AT_ONCE]
        similarity[some], ids[some] = ExactSearch(store).search(vectors[some], ids.shape[1])


def _without_self(found: np.ndarray, similarity: np.ndarray, how: str) -> Graph:
    """Of the k + 1 nearest (N, k + 1) the k others; of more equal images than that, an image may not be among them."""
    is_self = found == np.arange(len(found))[:, None]
    is_self[~is_self.any(axis=1), -1] = True  # the last goes
    shape = len(found), found.shape[1] - 1
    rows = found[~is_self].reshape(shape).astype(np.int32)
    return Graph(rows, np.minimum(similarity[~is_self].reshape(shape), 1).astype(np.float32), how)
