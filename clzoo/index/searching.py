"""Searching an index: queries of any kind in, named neighbors out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from clzoo.data.listing import has_container_suffix
from clzoo.data.opening import is_hub
from clzoo.data.sources import list_images
from clzoo.data.storage import is_remote
from clzoo.device import resolve_device
from clzoo.embed.checks import require_images
from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.index.building import Index, open_index
from clzoo.index.choosing import ExactSearch, is_unchanged, own_row, rows_where, stored_image
from clzoo.wording import clzoo_command

if TYPE_CHECKING:
    from clzoo.encoder import Encoder, ImageLike

log = logging.getLogger("clzoo")

_QUERY_BATCH = 1024  # queries given to FAISS at a time


@dataclass(frozen=True)
class Hit:
    """One neighbor."""

    path: str  # relative to the store's root, as in `store.paths`
    score: float  # cosine similarity as the index computes it; what rounding puts above 1 is 1
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
    exclude_self: bool = False,
    where: Sequence[str] = (),
    threshold: float | None = None,
) -> list[list[Hit]]:
    """Find the k nearest images of each query.

    Args:
        index: an index, or a store (or its folder): its index, or without one exactly (`open_index`).
        query: one image or many, of any kind that `Encoder.embed` takes; a folder, for all images below it
            (`query_images`); the path in the store, or the id, of a stored image; or vectors of the same model, float
            (D,) or (Q, D), normalised here.
        k: how many neighbors at most.
        encoder: the model that made the store; by default it is loaded as the store names it.
        device: where to search: "cpu", or "cuda" for many queries, by FAISS where it can and else exactly in torch
            (`clzoo.index.exact`). Queries that are images are embedded where the encoder is. With `where` it is
            the CPU, with a warning.
        exclude_self: leave out the stored image that a query is itself; queries must be paths.
        where: conditions "column=value" that a hit must fulfil, on path, label, size, id or a column of the list that
            named the images; the search is exact then, among the images that do.
        threshold: the least score of a hit.

    Returns:
        One list per query, best first, equal scores by id; shorter than k where the index holds less. An image that
        is itself in the index finds itself. Queries that the store holds unchanged are not embedded again, unless an
        encoder is given: their stored vectors are taken, and no model is loaded where all are.

    Raises:
        ClzooError: an empty store; an index that is damaged, older than its store, or missing for more than 100,000
            images; a query of another model or dimension; a threshold that is NaN; an image that cannot be read, named.
    """
    if k < 1:
        raise ClzooError(f"k must be at least 1, found {k}.")
    if threshold is not None and math.isnan(threshold):
        raise ClzooError("threshold is nan, which no score reaches; expected a cosine similarity, such as 0.6.")
    index = index if isinstance(index, Index) else open_index(index)
    require_images(index.store)
    paths = _paths(index.store, query)
    if exclude_self and paths is None:
        raise ClzooError("exclude_self needs queries that are paths; of vectors and pixels nobody knows the file.")
    vectors = _query_vectors(index, query if paths is None else paths, encoder)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        worst = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0])
        raise ClzooError(f"query {worst} is a zero or non-finite vector, which is near to nothing.")
    most = min(k + exclude_self, len(index))
    results = _hits(index, np.ascontiguousarray(vectors / norms), most, _search_of(index, where, device, most))
    own = own_rows(index.store, paths) if exclude_self and paths is not None else [None] * len(results)
    return [
        [hit for hit in hits if hit.row != row and (threshold is None or hit.score >= threshold)][:k]
        for hits, row in zip(results, own, strict=True)
    ]


def query_labels(store: Store, queries: Sequence[Path]) -> list[str | None]:
    """The label of each query: its own in the store, else its folder's name where the store has such a label."""
    known = {label for label in store.labels if label is not None}
    folders = (query.absolute().parent.name for query in queries)
    return [
        folder if row is None and folder in known else None if row is None else store.labels[row]
        for row, folder in zip(own_rows(store, queries), folders, strict=True)
    ]


def _search_of(index: Index, where: Sequence[str], device: str, k: int) -> Callable[..., Any]:
    """What searches: exactly among some rows, FAISS, or a GPU."""
    if where:
        rows = rows_where(index.store, where)
        if device != "cpu" and (there := resolve_device(device)).type != "cpu":
            log.warning(
                "search: among the %d images that are left in NumPy, on the CPU and not on %s", len(rows), there
            )
        return ExactSearch(index.store, rows).search
    if device == "cpu":
        search: Callable[..., Any] = index.faiss.search
        return search
    from clzoo.index.exact import search_on  # which needs torch

    return search_on(index, device, k)


def own_rows(store: Store, queries: Sequence[Path]) -> list[int | None]:
    """The row of each query that is itself one of the store's images."""
    # A list may have named URLs; as the path of a query one has a single slash.
    row_of = {str(PurePosixPath(path)) if is_remote(path) else path: row for row, path in enumerate(store.paths)}
    return [own_row(store, query, row_of) for query in queries]


def _paths(store: Store, query: Any) -> list[Path] | None:
    """The files that queries are; None for anything but paths."""
    if isinstance(query, str | Path):
        return query_images(query, store)
    if isinstance(query, list | tuple) and query and all(isinstance(each, str | Path) for each in query):
        return [Path(each) for each in query]
    return None


def query_images(query: str | Path, store: Store | None = None) -> list[Path]:
    """The images that a path stands for: itself, or all below a folder, in path order.

    With a store also one of its images, by its path there or its id.

    Raises:
        ClzooError: nothing there, a folder without images, or one with images that cannot be queried (named).
    """
    path = Path(query)
    if has_container_suffix(path.name) and path.is_file():
        raise ClzooError(f"{path} holds many images; a query is an image or a folder. Unpack it; or {_embedded(path)}.")
    if not path.is_dir():
        if not path.exists():
            if store is not None and (stored := stored_image(store, str(query))) is not None:
                return [stored]
            if is_remote(str(query)) or is_hub(query):
                raise ClzooError(
                    f"{query} is not on this machine; a query is an image or a folder here. Download it; or "
                    f"{_embedded(query)}."
                )
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


def _embedded(source: str | Path) -> str:
    """How to search by an image of a source that is no query."""
    return f"embed it ({clzoo_command('embed', source)}) and search by the path or id of an image in that store"


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
    if encoder is None and isinstance(query, list) and all(isinstance(each, Path) for each in query):
        return _stored_or_embedded(index, query)
    encoder = encoder or load_encoder(index)
    index.store.check_model(encoder)
    return np.atleast_2d(encoder.embed(query))


def _stored_or_embedded(index: Index, queries: list[Path]) -> np.ndarray:
    """Vectors of files: the store's own where it holds them unchanged, else embedded."""
    store = index.store
    own = [
        row if row is not None and is_unchanged(store, row, query) else None
        for row, query in zip(own_rows(store, queries), queries, strict=True)
    ]
    vectors = np.empty((len(queries), store.dim), np.float32)
    known = np.array([row is not None for row in own], bool)
    vectors[known] = store.raw_rows(np.array([row for row in own if row is not None], np.int64))
    if not known.all():
        encoder = load_encoder(index)
        vectors[~known] = encoder.embed([query for query, row in zip(queries, own, strict=True) if row is None])
    return vectors


def load_encoder(index: Index, model: str | Path | None = None) -> Encoder:
    """The model that made the index's store, loaded as its manifest names it; or from `model`, where it has moved.

    Raises:
        ClzooError: it is not there any more; or `model` has other weights or another preprocessing.
    """
    from clzoo.loading import load

    manifest = index.store.manifest
    try:
        encoder = load(model or manifest.load, size=manifest.preprocessing["size"])
    except ClzooError as error:
        if model is not None:
            raise
        raise ClzooError(
            f"{index.store.path} remembers its model as {manifest.load}, and that cannot be loaded: {error} "
            "If it has moved, say where it is: "
            f"{clzoo_command('search', index.store.path, 'QUERY', '--model', 'PLACE')}"
        ) from error
    index.store.check_model(encoder)
    return encoder


def _hits(index: Index, queries: np.ndarray, k: int, found: Callable[..., Any]) -> list[list[Hit]]:
    store = index.store
    results = []
    for start in range(0, len(queries), _QUERY_BATCH):
        scores, ids = found(queries[start : start + _QUERY_BATCH], k)
        rows = index.rows_of(ids)
        for query_scores, query_ids, query_rows in zip(scores, ids, rows, strict=True):
            ranked = [i for i in np.lexsort((query_ids, -query_scores)) if query_ids[i] >= 0]  # -1: fewer than k found
            results.append([_hit(store, int(query_rows[i]), min(float(query_scores[i]), 1.0)) for i in ranked])
    return results


def _hit(store: Store, row: int, score: float) -> Hit:
    return Hit(path=store.paths[row], score=score, id=int(store.ids[row]), label=store.labels[row], row=row)
