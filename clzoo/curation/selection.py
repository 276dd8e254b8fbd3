"""Which images to label next: diverse, typical, or balanced ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clzoo.curation.page import Section, Tile, write_page
from clzoo.curation.pairs import unit_vectors
from clzoo.curation.pictures import Pictures
from clzoo.embed.store import Store, open_store
from clzoo.errors import ClzooError
from clzoo.neighbors import nearest

WAYS = {
    "typical": "the densest image of each of n clusters (Hacohen et al. 2022, arXiv 2202.02794)",
    "diverse": "each next image the farthest from all before (k-center; Sener and Savarese 2018, arXiv 1708.00489)",
    "balanced": "as many from each of 100 clusters, however small: flattens a long tail (our choice)",
}
"""How images are chosen; first what each takes."""

_DENSITY = 20  # neighbors whose mean similarity is an image's density
_CLUSTERS = 100  # of "balanced", at most
_ROUNDS = 10  # of k-means
_BLOCK = 8192  # rows compared with all centers at a time


@dataclass(frozen=True)
class Selection:
    """What `select_images` chose: rows of the store in the order of choice; `labelled` are those that had a label."""

    store: Store
    how: str
    rows: list[int]
    labelled: int

    @property
    def paths(self) -> list[str]:
        """Of the chosen images."""
        return [self.store.paths[row] for row in self.rows]

    def summary(self) -> list[str]:
        """The paths, a line each: what `clzoo embed` takes as a list, from the folder of the images."""
        return self.paths

    def as_json(self) -> dict[str, Any]:
        """What `clzoo curate select --json` prints."""
        return {
            **self.store.identity(),
            "how": self.how,
            "labelled": self.labelled,
            "images": self.paths,
        }

    def write_page(self, path: str | Path) -> Path:
        """Write the chosen images as a page of pictures; returns its path."""
        pictures = Pictures(self.store)
        tiles = [Tile(pictures, row, f"number {number}") for number, row in enumerate(self.rows, start=1)]
        return write_page(
            path,
            title=f"What to label next in {self.store.path.name}",
            facts=[f"{len(self.rows):,} of {len(self.store):,} images", self.store.manifest.model],
            notes=[
                f"{self.how}: {WAYS[self.how]}.",
                f"{self.labelled:,} images had a label and were taken into account.",
            ],
            sections=[Section("In the order of choice", tiles)],
        )


def select_images(
    store: Store | str | Path, n: int, *, how: str = "typical", labels: Sequence[str | None] | None = None
) -> Selection:
    """Choose n images to label next. The same store and labels give the same images; nothing is changed.

    Args:
        store: open, or its folder.
        n: how many.
        how: a key of WAYS.
        labels: of each row the label that it has so far, or None (`clzoo.curation.given_labels.read_labels`). Those
            images are not chosen, and what they stand for counts as covered.

    Raises:
        ClzooError: more images than have no label, an unknown way, vectors that are not finite.
    """
    store = store if isinstance(store, Store) else open_store(store)
    if how not in WAYS:
        raise ClzooError(f"how must be one of {', '.join(WAYS)}; found {how!r}.")
    has_label = np.array([label is not None for label in labels] if labels is not None else [False] * len(store), bool)
    if not 1 <= n <= (~has_label).sum():
        raise ClzooError(
            f"{store.path} has {(~has_label).sum()} images without a label; found n={n}. Ask for 1 to that many."
        )
    vectors = unit_vectors(store)
    known = np.flatnonzero(has_label)
    chosen = {"diverse": diverse, "typical": typical, "balanced": balanced}[how](vectors, n, known)
    return Selection(store, how, chosen, len(known))


def diverse(vectors: np.ndarray, n: int, known: np.ndarray) -> list[int]:
    """Each next the farthest from what is chosen or known; the first the nearest to the mean."""
    nearest_so_far = np.full(len(vectors), -2, np.float32)
    for row in known.tolist():
        np.maximum(nearest_so_far, vectors @ vectors[row], out=nearest_so_far)
    nearest_so_far[known] = np.inf
    chosen: list[int] = []
    while len(chosen) < n:
        first = not chosen and not len(known)
        row = int((vectors @ vectors.mean(axis=0)).argmax() if first else nearest_so_far.argmin())
        chosen.append(row)
        np.maximum(nearest_so_far, vectors @ vectors[row], out=nearest_so_far)
        nearest_so_far[row] = np.inf
    return chosen


def typical(vectors: np.ndarray, n: int, known: np.ndarray) -> list[int]:
    """The densest image of each of the largest clusters that has no label yet."""
    cluster = clusters_of(vectors, min(n + len(known), len(vectors)))
    return _in_turn(cluster, _density(vectors), n, known, largest_first=True)


def balanced(vectors: np.ndarray, n: int, known: np.ndarray) -> list[int]:
    """From the clusters in turn, the densest of each first; those with labels wait until the others have as many."""
    cluster = clusters_of(vectors, min(_CLUSTERS, n + len(known), len(vectors)))
    return _in_turn(cluster, _density(vectors), n, known, largest_first=False)


def _in_turn(cluster: np.ndarray, density: np.ndarray, n: int, known: np.ndarray, *, largest_first: bool) -> list[int]:
    taken = np.bincount(cluster[known], minlength=int(cluster.max()) + 1)
    sizes = np.bincount(cluster)
    is_known = np.zeros(len(cluster), bool)
    is_known[known] = True
    left = [
        [int(row) for row in rows[np.argsort(-density[rows], kind="stable")] if not is_known[row]]
        for rows in (np.flatnonzero(cluster == number) for number in range(len(sizes)))
    ]
    order = np.argsort(-sizes if largest_first else sizes, kind="stable")
    chosen: list[int] = []
    while len(chosen) < n:
        fewest = min(int(taken[number]) for number in order if left[number])
        for number in order.tolist():
            if left[number] and taken[number] == fewest and len(chosen) < n:
                chosen.append(left[number].pop(0))
                taken[number] += 1
    return chosen


def _density(vectors: np.ndarray) -> np.ndarray:
    """Mean cosine (N,) of unit vectors with their nearest others."""
    bank = torch.from_numpy(vectors)
    similarity = nearest(bank, bank, min(_DENSITY + 1, len(bank)))[0]
    return similarity[:, 1:].mean(dim=1).numpy() if similarity.shape[1] > 1 else np.zeros(len(vectors), np.float32)


def clusters_of(vectors: np.ndarray, count: int) -> np.ndarray:
    """Cluster (N,) of unit vectors by spherical k-means, numbered without gaps; random start with seed 0."""
    random = np.random.default_rng(0)
    centers = vectors[random.choice(len(vectors), count, replace=False)]
    cluster = np.zeros(len(vectors), np.int64)
    for _ in range(_ROUNDS):
        for start in range(0, len(vectors), _BLOCK):
            cluster[start : start + _BLOCK] = (vectors[start : start + _BLOCK] @ centers.T).argmax(axis=1)
        order = np.argsort(cluster, kind="stable")
        present, first = np.unique(cluster[order], return_index=True)
        sums = np.add.reduceat(vectors[order], first, axis=0)
        centers[present] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return np.unique(cluster, return_inverse=True)[1]
