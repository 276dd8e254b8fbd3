"""How good an index is: its recall against exact search, and the effort of a search that makes it good enough."""

from __future__ import annotations

from typing import Any

import numpy as np

from clzoo.embed.store import Store
from clzoo.index.pair import import_faiss, inner_index
from clzoo.index.vectors import SEED, normalized, normalized_batches

RECALL_AT = 10
RECALL_QUERIES = 500
GOOD = 0.95
"""The effort of a search is doubled until recall@10 reaches this."""

_MOST_CANDIDATES = 4096  # efSearch is not raised above; a graph that needs more than this is the wrong index
_TIE = 1e-6  # scores closer than this are the same neighbour: float32 sums differ by that much


def tuned_recall(index: Any, store: Store) -> tuple[float | None, dict[str, int | None]]:
    """Recall@10, after what a search looks at was doubled until the recall is good: lists, or candidates of a graph.

    Returns:
        The recall (None for a single row), and the `nprobe` of an inverted file and the `efSearch` of an HNSW graph
        that are set now. FAISS writes both into its file.
    """
    owner, name, most = _effort(index)
    exact = _ExactNeighbours(store)
    recall = exact.recall(index)
    while owner is not None and recall is not None and recall < GOOD and getattr(owner, name) < most:
        setattr(owner, name, min(2 * getattr(owner, name), most))
        recall = exact.recall(index)
    tuned = None if owner is None else int(getattr(owner, name))
    return recall, {key: tuned if key == name else None for key in ("nprobe", "efSearch")}


def _effort(index: Any) -> tuple[Any, str, int]:
    """What holds the effort of a search, the attribute's name, and up to where it may be raised."""
    faiss = import_faiss()
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexIVF):
        return inner, "nprobe", inner.nlist
    if isinstance(inner, faiss.IndexHNSW):
        return inner.hnsw, "efSearch", max(inner.hnsw.efSearch, min(_MOST_CANDIDATES, index.ntotal))
    return None, "", 0


class _ExactNeighbours:
    """The true neighbours of up to 500 rows of a store, by brute force in float32, themselves left out."""

    def __init__(self, store: Store) -> None:
        self.store = store
        rows = np.sort(np.random.default_rng(SEED).permutation(len(store))[:RECALL_QUERIES])
        self.query_ids = store.ids[rows]
        self.queries = normalized(store.raw_rows(rows), store)
        self.order = np.argsort(store.ids)
        self.k = min(RECALL_AT, len(store) - 1)
        self.worst = self._kth_score() if self.k else None

    def recall(self, index: Any) -> float | None:
        """Share of the k nearest that `index` finds; of equal scores any will do. None for a single row."""
        if self.worst is None:
            return None
        _, found = index.search(self.queries, self.k + 1)
        is_other = (found != self.query_ids[:, None]) & (found >= 0)
        kept = is_other & (np.cumsum(is_other, axis=1) <= self.k)
        good = (self._scores_of(found) >= self.worst[:, None] - _TIE) & kept
        return float(good.sum() / (len(self.queries) * self.k))

    def _kth_score(self) -> np.ndarray:
        """Exact score of each query's k-th neighbour, (Q,)."""
        faiss = import_faiss()
        best = np.full((len(self.queries), self.k + 1), -np.inf, np.float32)  # one more: the query is among them
        ids = np.full(best.shape, -1, np.int64)
        for rows, vectors in normalized_batches(self.store):
            k = min(self.k + 1, len(vectors))
            # FAISS keeps the best while it multiplies: twice as fast as all products and then np.partition.
            scores, positions = faiss.knn(self.queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
            scores = np.concatenate([best, scores], axis=1)  # (Q, 2 k + 2)
            candidates = np.concatenate([ids, self.store.ids[rows][positions]], axis=1)
            kept = np.argpartition(scores, -self.k - 1, axis=1)[:, -self.k - 1 :]
            best, ids = np.take_along_axis(scores, kept, 1), np.take_along_axis(candidates, kept, 1)
        best[ids == self.query_ids[:, None]] = -np.inf
        return np.sort(best, axis=1)[:, -self.k]

    def _scores_of(self, found: np.ndarray) -> np.ndarray:
        """Exact scores of the found ids (Q, k), -inf where nothing was found."""
        rows = self.order[np.searchsorted(self.store.ids, found.clip(0), sorter=self.order)]
        vectors = normalized(self.store.raw_rows(rows.ravel()), self.store)
        scores = np.einsum("qd,qkd->qk", self.queries, vectors.reshape(*found.shape, -1))
        return np.where(found >= 0, scores, -np.inf)
