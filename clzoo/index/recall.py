"""How good an index is: its recall against exact search, and the effort of a search that makes it good enough."""

from __future__ import annotations

from typing import Any

import numpy as np

from clzoo.embed.store import Store
from clzoo.index.files import coarse_index, import_faiss, inner_index
from clzoo.index.vectors import SEED, normalized, normalized_batches

RECALL_AT = 10
RECALL_QUERIES = 500
GOOD = 0.95
"""The effort of a search is doubled until recall@10 reaches this."""

_MOST_CANDIDATES = 4096  # efSearch is not raised above; a graph that needs more than this is the wrong index
_MOST_REFINED = 256  # times k, as above
_TIE = 1e-6  # scores closer than this are the same neighbor: float32 sums differ by that much


def tuned_recall(index: Any, store: Store) -> tuple[float | None, dict[str, int | None]]:
    """Recall@10, after what a search looks at was doubled until the recall is good.

    That is the lists of an inverted file, the candidates of a graph, and how many times k candidates are refined. Where
    an index has two of them, each doubling goes to the one that gains more.

    Returns:
        The recall (None for a single row), and the `nprobe`, `efSearch` and `k_factor` that are set now, None for what
        the index does not have. FAISS writes them into its file.
    """
    efforts = _efforts(index)
    exact = _ExactNeighbors(store)
    recall = exact.recall(index)
    while recall is not None and recall < GOOD:
        tried = []
        for owner, name, most in efforts:
            before = int(getattr(owner, name))
            if before < most:
                setattr(owner, name, min(2 * before, most))
                tried.append((exact.recall(index) or 0.0, name))
                setattr(owner, name, before)
        if not tried:
            break
        recall, best = max(tried, key=lambda each: each[0])
        owner, name, most = next(effort for effort in efforts if effort[1] == best)
        setattr(owner, name, min(2 * int(getattr(owner, name)), most))
    set_now = {name: int(getattr(owner, name)) for owner, name, _ in efforts}
    return recall, {name: set_now.get(name) for name in ("nprobe", "efSearch", "k_factor")}


def _efforts(index: Any) -> list[tuple[Any, str, int]]:
    """What holds the effort of a search, the attribute's name, and up to where it may be raised; none: all is seen."""
    faiss = import_faiss()
    found: list[tuple[Any, str, int]] = []
    if isinstance(refined := inner_index(index), faiss.IndexRefine):
        found.append((refined, "k_factor", max(1, min(_MOST_REFINED, index.ntotal // RECALL_AT))))
    coarse = coarse_index(index)
    if isinstance(coarse, faiss.IndexIVF):
        found.append((coarse, "nprobe", coarse.nlist))
    if isinstance(coarse, faiss.IndexHNSW):
        found.append((coarse.hnsw, "efSearch", max(coarse.hnsw.efSearch, min(_MOST_CANDIDATES, index.ntotal))))
    return found


class _ExactNeighbors:
    """The true neighbors of up to 500 rows of a store, by brute force in float32, themselves left out."""

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
        """Exact score of each query's k-th neighbor, (Q,)."""
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
