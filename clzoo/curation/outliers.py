"""Images that are like no others of a collection, or like no others of their class."""

from __future__ import annotations

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
from clzoo.neighbors import nearest

NEIGHBOR = 10
"""Which neighbor's distance counts: with the first, a second copy would hide an outlier."""


@dataclass(frozen=True)
class Outlier:
    """An image and its Euclidean distance (0 to 2) to the k-th neighbor."""

    row: int
    path: str
    label: str | None
    distance: float


@dataclass(frozen=True)
class Outliers:
    """What `find_outliers` found: all images that were looked at, the farthest first; `k` as it was used.

    Where classes are looked at, smaller ones use their last neighbor; `alone` are those of one image, which has none.
    """

    store: Store
    ranked: list[Outlier]
    k: int
    by_class: bool
    alone: tuple[str, ...] = ()

    def summary(self, shown: int = 20) -> list[str]:
        """What was found, a sentence each, and the first."""
        distances = [outlier.distance for outlier in self.ranked]
        among = "of its class" if self.by_class else "in the collection"
        lines = [
            f"{len(self.ranked):,} images by the distance to neighbor {self.k} {among}: median "
            f"{np.median(distances):.3f}, 99 % are within {np.quantile(distances, 0.99):.3f}."
        ]
        if self.alone:
            lines.append(
                f"{len(self.alone)} classes have one image, which has no neighbor: {', '.join(self.alone[:5])}."
            )
        return [*lines, *(f"{o.distance:.4f}  {o.path}" for o in self.ranked[:shown])]

    def as_json(self) -> dict[str, Any]:
        """What `clzoo curate outliers --json` prints."""
        return {
            **self.store.identity(),
            "k": self.k,
            "by_class": self.by_class,
            "alone": list(self.alone),
            "images": [{"path": o.path, "label": o.label, "distance": round(o.distance, 5)} for o in self.ranked],
        }

    def write_page(self, path: str | Path) -> Path:
        """Write the first 200 as a page of pictures; returns its path."""
        tiles = [
            Tile(self.store, o.row, f"{o.distance:.3f}" + (f", {o.label}" if o.label else "")) for o in self.ranked
        ]
        return write_page(
            path,
            title=f"Outliers of {self.store.path.name}",
            facts=[f"{len(self.store):,} images", self.store.manifest.model],
            notes=self.summary(shown=0),
            sections=[Section("The farthest first", tiles[:200])],
        )


def find_outliers(store: Store | str | Path, *, k: int = NEIGHBOR, by_class: bool = False) -> Outliers:
    """Rank the images of a store by the distance to their k-th neighbor. Nothing is changed.

    Args:
        store: open, or its folder.
        k: which neighbor, itself not counted; where there are fewer, the last.
        by_class: among the images of the same label, which finds what does not belong there.

    Raises:
        ClzooError: fewer than two images; with `by_class` no labels, or no class of two images; vectors that are not
            finite.
    """
    store = store if isinstance(store, Store) else open_store(store)
    if k < 1:
        raise ClzooError(f"k must be at least 1, found {k}.")
    require_images(store)
    if len(store) < 2:
        raise ClzooError(f"{store.path} has 1 image; an outlier needs others. Embed more into it.")
    labels = store.labels
    groups = [np.arange(len(store))]
    alone: list[str] = []
    if by_class:
        members: dict[str, list[int]] = {}
        for row, label in enumerate(labels):
            if label is not None:
                members.setdefault(label, []).append(row)
        if not members:
            raise ClzooError(f"{store.path} has no labels. Embed its images again with --labels.")
        alone = sorted(label for label, rows in members.items() if len(rows) == 1)
        groups = [np.array(rows) for rows in members.values() if len(rows) > 1]
        if not groups:
            raise ClzooError(
                f"each of the {len(alone)} classes of {store.path} has one image, which has no neighbor in it. Look at "
                "the collection as a whole: leave out --by-class (in Python: by_class=False)."
            )
    k = min(k, max(map(len, groups)) - 1)
    vectors = unit_vectors(store)
    found = [
        (int(row), float(d)) for rows in groups for row, d in zip(rows, kth_distances(vectors[rows], k), strict=True)
    ]
    found.sort(key=lambda pair: (-pair[1], pair[0]))
    ranked = [Outlier(row, store.paths[row], labels[row], distance) for row, distance in found]
    return Outliers(store, ranked, k, by_class, tuple(alone))


def kth_distances(vectors: np.ndarray, k: int) -> np.ndarray:
    """Distance (N,) of unit vectors (N, D) to their k-th nearest other one."""
    bank = torch.from_numpy(vectors)
    similarity = nearest(bank, bank, min(k + 1, len(bank)))[0][:, -1].double()
    return (2 - 2 * similarity).clamp(min=0).sqrt().numpy()
