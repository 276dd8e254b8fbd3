"""A place in the plane for each image: UMAP of the neighbor graph where umap-learn is installed, else PCA."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator

import numpy as np

from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.explorer.graph import Graph
from clzoo.index.vectors import BATCH, normalized

log = logging.getLogger("clzoo")

PROJECTIONS = ("auto", "umap", "pca")

_FEWEST = 5  # images that UMAP is asked to lay out; fewer have no structure that it could keep


def has_umap() -> bool:
    """Whether umap-learn is installed, without importing it (which takes many seconds)."""
    return importlib.util.find_spec("umap") is not None


def check_projection(how: str) -> None:
    """Raise ClzooError where it is none of PROJECTIONS, or "umap" and umap-learn is not installed."""
    if how not in PROJECTIONS:
        raise ClzooError(f"the projection is one of {', '.join(PROJECTIONS)}; found {how!r}.")
    if how == "umap" and not has_umap():
        raise ClzooError('UMAP needs umap-learn. Type: pip install "clzoo[explore]"; or take the other: --map pca')


def project(store: Store, rows: np.ndarray, graph: Graph, how: str = "auto") -> tuple[np.ndarray, str]:
    """Places of some rows (N,) of a store, and the projection in words.

    Args:
        graph: of the same rows; UMAP lays out this one and computes none of its own.
        how: "umap", "pca", or "auto" for UMAP where it is installed.

    Returns:
        float32 (N, 2) from -1 to 1, the larger extent filled; and what the page says of it.

    Raises:
        ClzooError: "umap" without umap-learn, another name, vectors that are not finite.
    """
    check_projection(how)
    places, share = principal_components(store, rows)
    if how == "pca" or len(rows) < _FEWEST or not np.ptp(places, axis=0).any():  # UMAP makes NaN of a single place
        return _scaled(places), f"PCA, {share:.0%} of the variance"
    if not has_umap():
        log.info('map: PCA, as umap-learn is not installed; UMAP is clearer: pip install "clzoo[explore]"')
        return _scaled(places), f"PCA, {share:.0%} of the variance (umap-learn is not installed)"
    log.info("map: UMAP of the neighbor graph")
    return _scaled(_umap(_scaled(places), graph)), f"UMAP of {graph.k} neighbors ({graph.how})"


def principal_components(store: Store, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """The first two principal components (N, 2) of unit vectors, in bounded memory, and their share of the variance."""
    if len(rows) < 2:
        return np.zeros((len(rows), 2), np.float32), 0.0
    mean = np.sum([part.sum(axis=0, dtype=np.float64) for _, part in _parts(store, rows)], axis=0) / len(rows)
    covariance = np.zeros((store.dim, store.dim))
    for _, part in _parts(store, rows):
        centered = (part - mean).astype(np.float32)
        covariance += centered.T @ centered
    values, directions = np.linalg.eigh(covariance)  # ascending
    first = directions[:, ::-1][:, :2]  # (D, 2), or (1, 1) of a single dimension
    # A direction and its opposite are as good: the one whose largest entry is positive is taken, on every machine.
    first = first * np.where(first[np.abs(first).argmax(axis=0), range(first.shape[1])] < 0, -1, 1)
    places = np.zeros((len(rows), 2), np.float32)
    for chosen, part in _parts(store, rows):
        places[chosen, : first.shape[1]] = (part - mean) @ first
    total = values.clip(min=0).sum()
    return places, float(values[::-1][:2].clip(min=0).sum() / total) if total > 0 else 0.0


def _parts(store: Store, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(rows), BATCH):
        chosen = slice(start, start + BATCH)
        yield chosen, normalized(store.raw_rows(rows[chosen]), store)


def _umap(start: np.ndarray, graph: Graph) -> np.ndarray:
    """The graph laid out (N, 2), from PCA on; always the same on one machine."""
    with warnings.catch_warnings():  # of what is not there and not needed: tensorflow, a search structure
        warnings.simplefilter("ignore")
        from umap import UMAP

        own = np.arange(len(start), dtype=np.int32)[:, None]  # UMAP counts an image as the first of its neighbors
        rows = np.concatenate([own, graph.rows], axis=1)
        distances = np.concatenate([np.zeros_like(own, np.float32), 1 - graph.similarity], axis=1)
        layout = UMAP(
            n_neighbors=rows.shape[1],
            precomputed_knn=(rows, distances),
            init=10 * start,  # UMAP's own scale
            random_state=0,
            n_jobs=1,
        )
        return np.asarray(layout.fit_transform(start), np.float32)  # of what it is given only the number counts


def _scaled(places: np.ndarray) -> np.ndarray:
    """Moved and scaled into -1 to 1, with the proportions kept."""
    if not len(places):
        return places
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float((high - low).max())
    return ((places - (low + high) / 2) * (2 / extent if extent > 0 else 0)).astype(np.float32)
