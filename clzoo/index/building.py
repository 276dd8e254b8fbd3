"""From an embedding store to a FAISS index: which kind, how it is filled, and how good it turned out to be."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import clzoo
from clzoo.embed.store import Store, open_store
from clzoo.embed.writer import store_lock
from clzoo.errors import ClzooError
from clzoo.index.pair import import_faiss, read_description, read_pair, write_pair

log = logging.getLogger("clzoo")

FLAT_LIMIT = 200_000
"""Up to this many vectors the index is Flat (exact); above it SQfp16, as exact at half the size (docs/index.md)."""

RECALL_AT = 10
RECALL_QUERIES = 500
_SEED = 0  # of the rows drawn as queries and for training
_BATCH = 16_384  # rows held at a time
_TRAINING_BYTES = 1 << 30  # of the sample that a trained index learns from
_IVF_RECALL = 0.95  # an inverted file looks into more and more lists until it reaches this
_TIE = 1e-6  # scores closer than this are the same neighbour: float32 sums differ by that much


@dataclass(frozen=True, eq=False)
class Index:
    """A FAISS index in memory, with the store whose rows it finds. `build_index` and `open_index` make one.

    Attributes:
        faiss: a `faiss.IndexIDMap2` over the store's ids, inner product on L2-normalised vectors.
        description: the content of `faiss.json`.
        store: the generation that was indexed.
    """

    faiss: Any
    description: dict[str, Any]
    store: Store

    def __len__(self) -> int:
        return int(self.faiss.ntotal)

    def __repr__(self) -> str:
        return f"Index({str(self.store.path)!r}, {len(self)} vectors, {self.description['factory']})"


def build_index(store: Store | str | Path, *, factory: str | None = None) -> Index:
    """Index a store and write `faiss.index` and `faiss.json` into its folder, replacing both at once.

    The vectors are L2-normalised on the way in, whether or not the store's are, so scores are cosine similarities.
    Memory: the index itself and 16,384 rows.

    Args:
        store: an open store, or its folder.
        factory: a string of FAISS's `index_factory`, without IDMap (the ids are always the store's). Default: "Flat"
            up to 200,000 rows, "SQfp16" above. For an inverted file `nprobe` is doubled until recall reaches 0.95.

    Returns:
        The index, ready for `clzoo.search`; `description["recall_at_10"]` is measured against exact search.

    Raises:
        ClzooError: faiss is missing, an empty store, one that another process is writing or has changed since it was
            opened, a vector that is not finite, a factory string that FAISS refuses, a folder that cannot be written.
    """
    folder = store.path if isinstance(store, Store) else Path(store)
    open_store(folder)  # before a lock file is put into a folder that is no store
    with store_lock(folder):
        newest = open_store(folder)
        if isinstance(store, Store) and store.generation != newest.generation:
            raise ClzooError(
                f"{folder} was opened at generation {store.generation} and is now at {newest.generation}. "
                "Open it again: clzoo.open_store(folder)"
            )
        return _build(newest, factory or _default_factory(newest))


def _build(store: Store, factory: str) -> Index:
    """`build_index`, while the caller holds the store's lock."""
    if len(store) == 0:
        raise ClzooError(f"{store.path} holds no embeddings, so there is nothing to index.")
    if not store.complete:
        log.warning("%s is not complete: only the %d images embedded so far are indexed", store.path, len(store))
    started = time.monotonic()
    index = _filled(_empty(factory, store.dim), factory, store)
    recall, nprobe = _tuned_recall(index, store)
    seconds = time.monotonic() - started
    description = write_pair(store.path, index, _describe(store, factory, recall, nprobe, seconds))
    log.info(
        "index: %d vectors, %s, recall@%d %s against exact search, %.1f s -> %s",
        *(len(store), factory, RECALL_AT, "not measurable" if recall is None else f"{recall:.3f}", seconds),
        store.path / description["index"]["file"],
    )
    if recall is not None and recall < _IVF_RECALL:
        log.warning("%s finds only %.0f %% of the true nearest neighbours; 'Flat' finds all", factory, 100 * recall)
    return Index(index, description, store)


def open_index(store: Store | str | Path) -> Index:
    """Read the index of a store.

    Raises:
        ClzooError: faiss is missing; no index, a damaged one, or one of another generation than the store is at.
    """
    store = store if isinstance(store, Store) else open_store(store)
    index, description = read_pair(store.path, _remedy(store))
    if description["store_generation"] != store.generation:
        raise ClzooError(
            f"the index in {store.path} is older than its store: it was built for generation "
            f"{description['store_generation']}, the store is at {store.generation}. Type: {_remedy(store)}"
        )
    return Index(index, description, store)


def refresh_index(store: Store | str | Path, *, factory: str | None = None) -> Index:
    """`open_index` where the pair is whole, of this generation and of the asked factory; else `build_index`."""
    store = store if isinstance(store, Store) else open_store(store)
    try:
        described = read_description(store.path)
        if described and described["factory"] == (factory or _default_factory(store)):
            return open_index(store)
    except ClzooError as error:
        log.info("the index is built again: %s", error)
    return build_index(store, factory=factory)


def _default_factory(store: Store) -> str:
    return "Flat" if len(store) <= FLAT_LIMIT else "SQfp16"


def _remedy(store: Store) -> str:
    """The command that brings the index up to date, with every option that has to be as it was."""
    manifest = store.manifest
    command = ["clzoo", "embed", manifest.source or "SRC", "--out", str(store.path), "--model", manifest.load]
    if not manifest.normalized:
        command.append("--no-normalize")
    if manifest.dtype == "float32":
        command += ["--store-dtype", "fp32"]
    return shlex.join([*command, "--index", "faiss"])


def _describe(store: Store, factory: str, recall: float | None, nprobe: int | None, seconds: float) -> dict[str, Any]:
    manifest = store.manifest
    return {
        "model": manifest.model,
        "weights_sha256": manifest.weights_sha256,
        "preprocessing": manifest.preprocessing,
        "store_generation": store.generation,
        "count": len(store),
        "dim": store.dim,
        "factory": factory,
        "nprobe": nprobe,
        "metric": "inner_product",
        "normalized": True,
        "store_normalized": manifest.normalized,
        "ids": "IndexIDMap2; first 63 bits of the SHA-256 of the path",
        "recall_at_10": recall,
        "recall_queries": min(RECALL_QUERIES, len(store)),
        "build_seconds": round(seconds, 2),
        "faiss_version": import_faiss().__version__,
        "clzoo_version": clzoo.__version__,
    }


def _empty(factory: str, dim: int) -> Any:
    faiss = import_faiss()
    if factory.startswith("IDMap"):
        raise ClzooError(f"factory {factory!r}: leave IDMap out, clzoo adds the store's ids itself.")
    try:
        inner = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        reason = str(error).rsplit(": ", 1)[-1]
        raise ClzooError(
            f"faiss does not take factory {factory!r} for {dim} dimensions: {reason}. "
            "Examples: Flat, SQfp16, HNSW32, IVF1024,Flat"
        ) from error
    index = faiss.IndexIDMap2(inner)
    inner.this.disown()
    index.own_fields = True
    return index


def _filled(index: Any, factory: str, store: Store) -> Any:
    try:
        if not index.is_trained:
            index.train(_normalized(_sample(store, _TRAINING_BYTES // (4 * store.dim)), store))
        for ids, vectors in _normalized_batches(store):
            index.add_with_ids(vectors, ids)
    except RuntimeError as error:  # e.g. fewer rows than an inverted file has lists
        reason = str(error).rsplit(": ", 1)[-1]
        raise ClzooError(f"faiss cannot build {factory!r} from {len(store)} vectors: {reason}.") from error
    return index


def _normalized_batches(store: Store) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for ids, vectors in store.batches(_BATCH):
        yield ids, _normalized(vectors, store)


def _normalized(vectors: np.ndarray, store: Store) -> np.ndarray:
    """Unit vectors, float32 (n, dim). A zero vector stays zero: it is near to nothing."""
    vectors = vectors.astype(np.float32, copy=False)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise ClzooError(f"{store.path} holds vectors that are not finite; embed again into another folder.")
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)


def _sample(store: Store, limit: int) -> np.ndarray:
    """At most `limit` rows drawn without replacement, always the same ones, in row order."""
    rows = np.arange(len(store))
    if limit < len(rows):
        rows = np.sort(np.random.default_rng(_SEED).choice(len(rows), limit, replace=False))
    return store.raw_rows(rows)


def _tuned_recall(index: Any, store: Store) -> tuple[float | None, int | None]:
    """Recall as built; of an inverted file, after `nprobe` was doubled until it is good. And that nprobe."""
    faiss = import_faiss()
    exact = _ExactNeighbours(store)
    inverted = faiss.try_extract_index_ivf(index)
    recall = exact.recall(index)
    while inverted is not None and recall is not None and recall < _IVF_RECALL and inverted.nprobe < inverted.nlist:
        inverted.nprobe = min(2 * inverted.nprobe, inverted.nlist)
        recall = exact.recall(index)
    return recall, None if inverted is None else int(inverted.nprobe)


class _ExactNeighbours:
    """The true neighbours of up to 500 rows of a store, by brute force in float32, themselves left out."""

    def __init__(self, store: Store) -> None:
        self.store = store
        rows = np.sort(np.random.default_rng(_SEED).permutation(len(store))[:RECALL_QUERIES])
        self.query_ids = store.ids[rows]
        self.queries = _normalized(store.raw_rows(rows), store)
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
        best = np.full((len(self.queries), self.k), -np.inf, np.float32)
        for ids, vectors in _normalized_batches(self.store):
            scores = self.queries @ vectors.T
            scores[self.query_ids[:, None] == ids] = -np.inf
            best = np.partition(np.concatenate([best, scores], axis=1), -self.k, axis=1)[:, -self.k :]
        return best.min(axis=1)

    def _scores_of(self, found: np.ndarray) -> np.ndarray:
        """Exact scores of the found ids (Q, k), -inf where nothing was found."""
        order = np.argsort(self.store.ids)
        positions = np.searchsorted(self.store.ids, found.clip(0), sorter=order)
        vectors = _normalized(self.store.raw_rows(order[positions].ravel()), self.store)
        scores = np.einsum("qd,qkd->qk", self.queries, vectors.reshape(*found.shape, -1))
        return np.where(found >= 0, scores, -np.inf)
