"""From an embedding store to a FAISS index: which kind, how it is filled, and how good it turned out to be."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import clzoo
from clzoo.embed.store import Store, open_store
from clzoo.embed.writer import store_lock
from clzoo.errors import ClzooError
from clzoo.index.cagra import cagra_index, is_cagra
from clzoo.index.choosing import MOST_WITHOUT_INDEX, ExactSearch, has_faiss
from clzoo.index.files import (
    coarse_index,
    has_index,
    import_faiss,
    map_pair,
    read_description,
    read_pair,
    write_index,
    write_pair,
)
from clzoo.index.recall import GOOD, RECALL_AT, RECALL_QUERIES, tuned_recall
from clzoo.index.vectors import normalized_batches, sample
from clzoo.wording import clzoo_command

log = logging.getLogger("clzoo")

FLAT_LIMIT = 200_000
"""Up to this many vectors the index is Flat (exact); above it SQfp16, as exact at half the size (docs/search.md)."""

_TRAINING_BYTES = 1 << 30  # at most, of the sample that a trained index learns from
_POINTS_PER_LIST = 40  # of that sample, where FAISS warns below 39; three times as many found no more (docs/search.md)
_SAMPLED = 256  # rows by which a store is told from another
_POINTS = 65_536  # at least: quantizers learn from the same sample


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

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.store.ids)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Row of the store of each id, in any shape. Of -1, by which FAISS says that it found nothing, some row."""
        return self._order[np.searchsorted(self.store.ids, ids.clip(0), sorter=self._order)]


def build_index(store: Store | str | Path, *, factory: str | None = None) -> Index:
    """Index a store and write `faiss.index` and `faiss.json` into its folder, replacing both at once.

    The vectors are L2-normalised on the way in, whether or not the store's are, so scores are cosine similarities.
    Memory: the index itself and 16,384 rows.

    Args:
        store: an open store, or its folder.
        factory: a string of FAISS's `index_factory`, without IDMap (the ids are always the store's). Default: "Flat"
            up to 200,000 rows, "SQfp16" above. `nprobe` of an inverted file, `efSearch` of an HNSW graph and `k_factor`
            of a refined index are doubled until recall reaches 0.95. "CAGRA32" is built on a GPU with cuVS, and holds
            all vectors as float32 meanwhile (clzoo.index.cagra).

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
    check_content(store)
    started = time.monotonic()
    if is_cagra(factory):
        index = cagra_index(factory, store)
    else:
        index = filled(trained(empty(factory, store.dim), factory, store), factory, store)
    recall, effort = tuned_recall(index, store)
    seconds = time.monotonic() - started

    def write(path: Path) -> dict[str, Any]:
        write_index(path, index)
        return describe(store, factory, recall, effort, seconds)

    description = write_pair(store.path, write)
    report(store, description)
    return Index(index, description, store)


def check_content(store: Store) -> None:
    """Refuse an empty store, warn about an incomplete one.

    Raises:
        ClzooError: it is empty.
    """
    if len(store) == 0:
        raise ClzooError(f"{store.path} holds no embeddings, so there is nothing to index.")
    if not store.complete:
        log.warning("%s is not complete: only the %d images embedded so far are indexed", store.path, len(store))


def report(store: Store, description: dict[str, Any]) -> None:
    """Log what was built and how good it is."""
    factory, recall = description["factory"], description["recall_at_10"]
    shown = "not measurable" if recall is None else f"{recall:.3f}"
    log.info(
        "index: %d vectors, %s, recall@%d %s against exact search, %.1f s -> %s",
        *(len(store), factory, RECALL_AT, shown, description["build_seconds"]),
        store.path / description["index"]["file"],
    )
    if recall is not None and recall < GOOD:
        log.warning("%s finds only %.0f %% of the true nearest neighbors; 'Flat' finds all", factory, 100 * recall)


def open_index(store: Store | str | Path, *, mmap: bool = False) -> Index:
    """Read the index of a store. Where there is none, or no FAISS, up to 100,000 rows are searched exactly in NumPy.

    Args:
        store: an open store, or its folder.
        mmap: leave the vectors in the file. Opening takes no time, memory holds what searches touch and gives it back
            when others need it, and processes of one machine share it. Checked are then the file's size and 64 places
            in it, not every byte.

    Raises:
        ClzooError: no index or no faiss, and the store is larger; an index that is damaged, or of another generation
            than the store is at; with `mmap`, a kind of index that cannot stay in its file.
    """
    store = store if isinstance(store, Store) else open_store(store)
    without = "faiss is not installed" if not has_faiss() else "" if has_index(store.path) else "there is no index"
    if without and len(store) <= MOST_WITHOUT_INDEX:
        log.info("search: exact, in NumPy among all %d rows (%s)", len(store), without)
        described = {"model": store.manifest.model, "factory": "exact", "recall_at_10": None}
        return Index(ExactSearch(store), described, store)
    index, description = (map_pair if mmap else read_pair)(store.path, _remedy(store))
    if description["store_generation"] != store.generation:
        raise ClzooError(
            f"the index in {store.path} is older than its store: it was built for generation "
            f"{description['store_generation']}, the store is at {store.generation}. Type: {_remedy(store)}"
        )
    _require_fit(index, description, store)
    return Index(index, description, store)


def _require_fit(index: Any, description: dict[str, Any], store: Store) -> None:
    """Refuse an index of other vectors than the store's, wherever its files came from."""
    manifest = store.manifest
    expected = {"weights_sha256": manifest.weights_sha256, "dim": manifest.dim, "count": len(store)}
    found = {"weights_sha256": description.get("weights_sha256"), "dim": index.d, "count": index.ntotal}
    if different := [key for key in expected if found[key] != expected[key]]:
        facts = ", ".join(f"{key} {found[key]}, of the store {expected[key]}" for key in different)
        raise ClzooError(f"the index in {store.path} is of another store ({facts}). Type: {_remedy(store)}")
    if description.get("store_sample_sha256", ours := sample_sha256(store)) != ours:  # older ones do not say
        raise ClzooError(
            f"the index in {store.path} is of another store, of as many rows but other ids or vectors. "
            f"Type: {_remedy(store)}"
        )


def sample_sha256(store: Store) -> str:
    """SHA-256 of ids and vectors of up to 256 rows, evenly spaced, as stored.

    Generations tell the states of one store; this tells stores whose generation and number of rows are equal.
    """
    rows = np.unique(np.linspace(0, len(store) - 1, min(len(store), _SAMPLED)).round().astype(np.int64))
    digest = hashlib.sha256(store.ids[rows].astype("<i8").tobytes())
    digest.update(store.raw_rows(rows).tobytes())
    return digest.hexdigest()


def refresh_index(store: Store | str | Path, *, factory: str | None = None) -> Index:
    """`open_index` where the pair is whole and of this generation; else `build_index`.

    Args:
        factory: as for `build_index`; None keeps the kind that is there, "Flat" and "SQfp16" by the number of rows.
    """
    store = store if isinstance(store, Store) else open_store(store)
    wanted = factory or _chosen_factory(store) or _default_factory(store)
    try:
        described = read_description(store.path)
        if described and described["factory"] == wanted:
            return open_index(store)
    except ClzooError as error:
        log.info("the index is built again: %s", error)
    if factory is not None or wanted == _default_factory(store):
        return build_index(store, factory=wanted)
    try:
        return build_index(store, factory=wanted)
    except _UnfitKindError as error:  # the rows that are left; nobody asks for that kind now
        log.warning("%s %s is built instead", error, _default_factory(store))
        return build_index(store, factory=_default_factory(store))


def _default_factory(store: Store) -> str:
    return "Flat" if len(store) <= FLAT_LIMIT else "SQfp16"


def _remedy(store: Store) -> str:
    """The command that brings the index up to date, as one of its kind."""
    factory = _chosen_factory(store)
    return clzoo_command("store", "index", store.path, *(("--factory", factory) if factory else ()))


def _chosen_factory(store: Store) -> str | None:
    """The kind of the index that is there, where somebody chose it: "Flat" and "SQfp16" are taken by the rows."""
    with suppress(ClzooError):  # a damaged description does not tell the kind
        factory = str((read_description(store.path) or {}).get("factory", "Flat"))
        return None if factory in ("Flat", "SQfp16") else factory
    return None


def describe(
    store: Store, factory: str, recall: float | None, effort: dict[str, int | None], seconds: float
) -> dict[str, Any]:
    """What `faiss.json` says of an index, but for its file."""
    manifest = store.manifest
    return {
        "model": manifest.model,
        "weights_sha256": manifest.weights_sha256,
        "preprocessing": manifest.preprocessing,
        "store_generation": store.generation,
        "store_sample_sha256": sample_sha256(store),
        "count": len(store),
        "dim": store.dim,
        "factory": factory,
        **effort,
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


def empty(factory: str, dim: int) -> Any:
    """An index as the factory string says, over ids of our own.

    Raises:
        ClzooError: a string that FAISS does not take.
    """
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


def filled(index: Any, factory: str, store: Store, start: int = 0, stop: int | None = None) -> Any:
    """Add the rows from `start` to `stop` to a trained index.

    Raises:
        ClzooError: FAISS refuses.
    """
    with _named_failure(factory, store):
        for rows, vectors in normalized_batches(store, start, stop):
            index.add_with_ids(vectors, store.ids[rows])
    return index


def trained(index: Any, factory: str, store: Store) -> Any:
    """Let the index learn from a sample of the store, if it has to.

    Raises:
        ClzooError: FAISS refuses, e.g. fewer rows than an inverted file has lists.
    """
    with _named_failure(factory, store):
        if not index.is_trained:
            lists = getattr(coarse_index(index), "nlist", 0)
            limit = min(_TRAINING_BYTES // (4 * store.dim), max(_POINTS_PER_LIST * lists, _POINTS))
            index.train(sample(store, limit))
    return index


class _UnfitKindError(ClzooError):
    """FAISS does not build this kind of index of these vectors."""


@contextmanager
def _named_failure(factory: str, store: Store) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).rsplit(": ", 1)[-1]
        flat = clzoo_command("store", "index", store.path, "--factory", "Flat")
        raise _UnfitKindError(
            f"faiss cannot build {factory!r} from {len(store)} vectors: {reason}. Another kind, for example: {flat}."
        ) from error
