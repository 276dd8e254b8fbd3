"""Which images to label next: diverse, typical, or balanced ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clzoo.curation.page import Section, Tile, write_page
from clzoo.curation.pairs import unit_vectors
from clzoo.embed.checks import require_images
from clzoo.embed.store import Store, open_store
from clzoo.errors import ClzooError
from clzoo.files import output_path
from clzoo.neighbors import nearest

WAYS = {
    "typical": "the most typical image of each of n clusters (TypiClust; Hacohen et al. 2022, arXiv 2202.02794)",
    "diverse": "each next image the farthest from all before (k-center; Sener and Savarese 2018, arXiv 1708.00489)",
    "balanced": "as many from each of up to 100 clusters, however small: flattens a long tail (our choice)",
}
"""How images are chosen; first what each takes."""

_TYPICAL = 20  # neighbors in its cluster whose mean similarity makes an image typical
_MOST = 500  # clusters at most, as published
_CLUSTERS, _EACH = 100, 4  # of "balanced": clusters at most, and images that each gives at least
_ROUNDS, _STARTS = 25, 5  # of k-means
_FITTED = 20_000  # rows that k-means sees, at most; the others go to the nearest center
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
        """The paths, a line each: as a list (or by `write_list`) `clzoo embed` takes them, from the images' folder."""
        return self.paths

    def write_list(self, path: str | Path) -> Path:
        """Write the paths as they are, for `clzoo embed`: a line each, or the column `path` of a .csv.

        Raises:
            ClzooError: a name that such a list cannot hold, or a file that cannot be written.
        """
        path, text = Path(path), io.StringIO(newline="")
        is_table = path.suffix.lower() == ".csv"
        for name in self.paths:
            if name.strip() != name:
                raise ClzooError(
                    f"{name!r} begins or ends with a blank: no list can name it. Rename it, and embed again."
                )
            if not is_table and len(name.splitlines()) > 1:
                raise ClzooError(f"{name!r} holds the end of a line. Write a table: {path.with_suffix('.csv')}")
        if is_table:
            csv.writer(text, lineterminator="\n").writerows([["path"], *([name] for name in self.paths)])
        else:
            text.writelines(f"{name}\n" for name in self.paths)
        with output_path(path) as temporary:
            temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))  # names are bytes on disk
        return path

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
        tiles = [Tile(self.store, row, f"number {number}") for number, row in enumerate(self.rows, start=1)]
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
    require_images(store)
    has_label = np.array([label is not None for label in labels] if labels is not None else [False] * len(store), bool)
    if has_label.all():
        raise ClzooError(f"every image of {store.path} has a label: nothing is left to choose. Embed more into it.")
    if not 1 <= n <= (left := int((~has_label).sum())):
        raise ClzooError(
            f"{store.path} has {left:,} images without a label, found n={n}. Ask for 1 to {left}: -n {left}"
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
    """The most typical image of each of the largest clusters that has no label yet."""
    return _typical(centered(vectors), n, known)


def _typical(vectors: np.ndarray, n: int, known: np.ndarray) -> list[int]:
    cluster = clusters_of(vectors, min(n + len(known), _MOST, len(vectors)))
    typicality = typicality_of(vectors, cluster)
    left = _unlabelled(cluster, typicality, known)
    taken = np.bincount(cluster[known], minlength=len(left))
    order = np.argsort(-np.bincount(cluster), kind="stable").tolist()
    return [left[number].pop(0) for number in _in_turn(taken, list(map(len, left)), order, n)]


def balanced(vectors: np.ndarray, n: int, known: np.ndarray) -> list[int]:
    """As many from each cluster, counting those that have a label; within a cluster the typical ones."""
    vectors = centered(vectors)
    count = (n + len(known)) // _EACH
    cluster = clusters_of(vectors, min(max(count, 2), _CLUSTERS, len(vectors)))
    members = [np.flatnonzero(cluster == number) for number in range(int(cluster.max()) + 1)]
    labelled = [np.flatnonzero(np.isin(rows, known)) for rows in members]
    rooms = [len(rows) - len(own) for rows, own in zip(members, labelled, strict=True)]
    order = np.argsort([len(rows) for rows in members], kind="stable").tolist()
    turns = _in_turn(np.array(list(map(len, labelled))), rooms, order, n)
    chosen = [
        [int(rows[place]) for place in _typical(vectors[rows], turns.count(number), own)] if number in turns else []
        for number, (rows, own) in enumerate(zip(members, labelled, strict=True))
    ]
    return [chosen[number].pop(0) for number in turns]


def centered(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors (N, D) without their mean, at length one again (our choice).

    Features of images share a direction, which says nothing of what is in them and hides it from k-means.
    """
    left: np.ndarray = vectors - vectors.mean(axis=0)
    return (left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _unlabelled(cluster: np.ndarray, typicality: np.ndarray, known: np.ndarray) -> list[list[int]]:
    """Of each cluster the rows without a label, the most typical first."""
    is_known = np.zeros(len(cluster), bool)
    is_known[known] = True
    members = (np.flatnonzero(cluster == number) for number in range(int(cluster.max()) + 1))
    ordered = (rows[np.argsort(-typicality[rows], kind="stable")] for rows in members)
    return [[int(row) for row in rows if not is_known[row]] for rows in ordered]


def _in_turn(taken: np.ndarray, rooms: Sequence[int], order: Sequence[int], n: int) -> list[int]:
    """Whose turn it is, n times: of the clusters with room those of which the fewest are taken, in `order`."""
    taken, left = taken.copy(), list(rooms)
    turns: list[int] = []
    while len(turns) < n:
        fewest = min(int(taken[number]) for number in order if left[number])
        for number in order:
            if left[number] and taken[number] == fewest and len(turns) < n:
                turns.append(number)
                taken[number] += 1
                left[number] -= 1
    return turns


def typicality_of(vectors: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Mean cosine (N,) of unit vectors with their nearest others of the same cluster; 0 of one that is alone."""
    found = np.zeros(len(vectors), np.float32)
    for number in range(int(cluster.max()) + 1):
        rows = np.flatnonzero(cluster == number)
        if len(rows) > 1:
            bank = torch.from_numpy(vectors[rows])
            found[rows] = nearest(bank, bank, min(_TYPICAL + 1, len(rows)))[0][:, 1:].mean(dim=1).numpy()
    return found


def clusters_of(vectors: np.ndarray, count: int) -> np.ndarray:
    """Cluster (N,) of vectors by k-means, numbered without gaps: the best of a few starts by k-means++, with seed 0."""
    random = np.random.default_rng(0)
    seen = vectors
    if len(vectors) > _FITTED:
        seen = vectors[np.sort(random.choice(len(vectors), _FITTED, replace=False))]
    fits = [_fitted(seen, _drawn_apart(seen, count, random)) for _ in range(_STARTS)]
    centers = min(fits, key=lambda fit: fit[1])[0]
    return np.unique(_assigned(vectors, centers)[0], return_inverse=True)[1]


def _drawn_apart(vectors: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Rows (count, D) to start from, each drawn by its squared distance to those before (k-means++)."""
    chosen = [int(random.integers(len(vectors)))]
    squares = np.square(vectors).sum(axis=1)
    left = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        center = vectors[chosen[-1]]
        left = np.minimum(left, np.maximum(squares - 2 * (vectors @ center) + center @ center, 0))
        left[chosen] = 0
        weights = left if left.sum() > 1e-9 else np.ones(len(vectors))
        chosen.append(int(random.choice(len(vectors), p=weights / weights.sum())))
    return vectors[chosen]


def _fitted(vectors: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, float]:
    """Centers (k, D) after Lloyd's rounds, and the sum of squared distances to them."""
    before = None
    for _ in range(_ROUNDS):
        cluster, total = _assigned(vectors, centers)
        if before is not None and (cluster == before).all():
            break
        before = cluster
        order = np.argsort(cluster, kind="stable")
        present, first, sizes = np.unique(cluster[order], return_index=True, return_counts=True)
        centers[present] = np.add.reduceat(vectors[order], first, axis=0) / sizes[:, None]
    return centers, total


def _assigned(vectors: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, float]:
    """The nearest center (N,) of each, and the sum of squared distances."""
    cluster, total = np.zeros(len(vectors), np.int64), 0.0
    offset = np.square(centers).sum(axis=1)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        distances = offset - 2 * (block @ centers.T)  # (b, k), less the block's own squares
        cluster[start : start + _BLOCK] = distances.argmin(axis=1)
        total += float(distances.min(axis=1).sum() + np.square(block).sum())
    return cluster, total
