"""Searching an index: queries of any kind in, named neighbours out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clzoo.data.sources import list_images
from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.index.building import Index, open_index

if TYPE_CHECKING:
    from clzoo.encoder import Encoder, ImageLike

_QUERY_BATCH = 1024  # queries given to FAISS at a time


@dataclass(frozen=True)
class Hit:
    """One neighbour."""

    path: str  # relative to the store's root, as in `store.paths`
    score: float  # cosine similarity as the index computes it
    id: int
    label: str | None
    row: int  # in the store: `store.image_bytes(row)` is its image

    def as_json(self) -> dict[str, Any]:
        """What `clzoo search --json` prints of it: all but the row, which only means something to an open store."""
        return {"path": self.path, "score": self.score, "id": self.id, "label": self.label}


def search(
    index: Index | Store | str | Path,
    query: ImageLike | Iterable[ImageLike] | np.ndarray,
    k: int = 10,
    *,
    encoder: Encoder | None = None,
    device: str = "cpu",
) -> list[list[Hit]]:
    """Find the k nearest images of each query.

    Args:
        index: an index, or a store (or its folder) that has one.
        query: one image or many, of any kind that `Encoder.embed` takes; a folder, for all images below it
            (`query_images`); or vectors of the same model, float (D,) or (Q, D), normalised here.
        k: how many neighbours at most.
        encoder: the model that made the store; by default it is loaded as the store names it.
        device: where to search: "cpu", or "cuda" for many queries, by FAISS where it can and else exactly in torch
            (`clzoo.index.exact`). Queries that are images are embedded where the encoder is.

    Returns:
        One list per query, best first, equal scores by id; shorter than k where the index holds less. An image that
        is itself in the index finds itself.

    Raises:
        ClzooError: an index that is missing, damaged or older than its store; a query of another model or dimension;
            an image that cannot be read, named.
    """
    if k < 1:
        raise ClzooError(f"k must be at least 1, found {k}.")
    index = index if isinstance(index, Index) else open_index(index)
    vectors = _query_vectors(index, query, encoder)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        worst = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0])
        raise ClzooError(f"query {worst} is a zero or non-finite vector, which is near to nothing.")
    return _hits(index, np.ascontiguousarray(vectors / norms), min(k, len(index)), device)


def query_images(query: str | Path) -> list[Path]:
    """The images that a path stands for: itself, or all below a folder, in path order.

    Raises:
        ClzooError: nothing there, a folder without images, or one with images that cannot be queried (named).
    """
    path = Path(query)
    if not path.is_dir():
        if not path.exists():
            raise ClzooError(f"{path} does not exist; a query is an image or a folder of images.")
        return [path]
    listing = list_images(path)
    if listing.failures:
        failure = listing.failures[0]
        raise ClzooError(f"{path / failure.path} cannot be searched for: {failure.reason}. Take it out of {path}.")
    in_shards = [item.path for item in listing.items if item.offset is not None]
    if in_shards:
        raise ClzooError(f"{path / in_shards[0]} lies inside a shard; queries are image files. Unpack it first.")
    return [path / item.path for item in listing.items]


def _query_vectors(index: Index, query: Any, encoder: Encoder | None) -> np.ndarray:
    """float32 (Q, dim), as they come."""
    image = isinstance(query, np.ndarray) and query.ndim in (3, 4) and query.shape[-1] == 3
    if isinstance(query, np.ndarray) and np.issubdtype(query.dtype, np.floating) and not image:
        vectors = np.atleast_2d(query).astype(np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != index.store.dim:
            raise ClzooError(
                f"query vectors have shape {query.shape}; the index of {index.store.manifest.model} takes "
                f"({index.store.dim},) or (Q, {index.store.dim})."
            )
        return vectors
    images = query_images(query) if isinstance(query, str | Path) else query
    encoder = encoder or load_encoder(index)
    index.store.check_model(encoder)
    return np.atleast_2d(encoder.embed(images))


def load_encoder(index: Index, model: str | Path | None = None) -> Encoder:
    """The model that made the index's store, loaded as its manifest names it; or from `model`, where it has moved.

    Raises:
        ClzooError: it is not there any more; or `model` has other weights or another preprocessing.
    """
    from clzoo.zoo import load

    manifest = index.store.manifest
    try:
        encoder = load(model or manifest.load)
    except ClzooError as error:
        if model is not None:
            raise
        raise ClzooError(
            f"{index.store.path} remembers its model as {manifest.load}, and that cannot be loaded: {error} "
            f"If it has moved, say where it is: clzoo search {index.store.path} QUERY --model PLACE"
        ) from error
    index.store.check_model(encoder)
    return encoder


def _hits(index: Index, queries: np.ndarray, k: int, device: str) -> list[list[Hit]]:
    store = index.store
    if device == "cpu":
        found = index.faiss.search
    else:
        from clzoo.index.exact import search_on  # which needs torch

        found = search_on(index, device, k)
    results = []
    for start in range(0, len(queries), _QUERY_BATCH):
        scores, ids = found(queries[start : start + _QUERY_BATCH], k)
        rows = index.rows_of(ids)
        for query_scores, query_ids, query_rows in zip(scores, ids, rows, strict=True):
            ranked = [i for i in np.lexsort((query_ids, -query_scores)) if query_ids[i] >= 0]  # -1: fewer than k found
            results.append([_hit(store, int(query_rows[i]), float(query_scores[i])) for i in ranked])
    return results


def _hit(store: Store, row: int, score: float) -> Hit:
    return Hit(path=store.paths[row], score=score, id=int(store.ids[row]), label=store.labels[row], row=row)
