"""All pairs of vectors that are as similar as a threshold, exact, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.index.vectors import normalized
from clzoo.progress import with_progress

TILE, BLOCK = 1024, 8192
"""Rows of one product of matrices: its similarities take 32 MB, whatever the collection."""

MOST_PAIRS = 20_000_000
"""Pairs that are kept, 20 bytes each and as much again while they are joined: 0.8 GB. More is an error."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows of two collections, or of one.

    Attributes:
        first, second: int64 (P,), rows; of one collection first < second.
        similarity: float32 (P,), cosine, at most 1.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.similarity)

    def where(self, chosen: np.ndarray) -> Pairs:
        """The pairs that a mask (P,) or positions choose, in that order."""
        return Pairs(self.first[chosen], self.second[chosen], self.similarity[chosen])


def unit_vectors(store: Store) -> np.ndarray:
    """All vectors of a store at length one, float32 (N, D), in memory; a zero vector stays zero.

    Raises:
        ClzooError: a vector that is not finite.
    """
    return normalized(store.embeddings(), store)


def pairs_above(
    vectors: np.ndarray, threshold: float, others: np.ndarray | None = None, *, what: str = "comparing"
) -> Pairs:
    """All pairs of unit vectors (N, D), or of them and of `others` (M, D), with a cosine of at least `threshold`.

    Every pair is computed, in float32, in blocks of TILE x BLOCK.

    Raises:
        ClzooError: more than MOST_PAIRS are that similar.
    """
    parts = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    tiles = range(0, len(vectors), TILE)
    count = 0
    found = (part for start in tiles for part in [_of_tile(vectors, threshold, others, start, MOST_PAIRS)])
    for part in with_progress(found, len(tiles), what):
        parts.append(part)
        count += len(part)
        check_count(count, threshold)
    return Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in Pairs.__dataclass_fields__))


def similarity_of(pairs: Pairs, vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`cosines` (P,) of pairs of rows of unit vectors (N, D) and (M, D)."""
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), 65_536):
        part = slice(start, start + 65_536)
        found[part] = cosines(vectors[pairs.first[part]], others[pairs.second[part]])
    return found


def cosines(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosines (P,) of unit vectors (P, D), row by row, in float64: close to 1 the products of float32 are coarse."""
    return np.asarray(1 - np.square(vectors.astype(np.float64) - others).sum(axis=1) / 2)


def check_count(count: int, threshold: float) -> None:
    """Raise ClzooError where more than MOST_PAIRS are as similar as the threshold."""
    if count > MOST_PAIRS:
        raise ClzooError(
            f"more than {MOST_PAIRS:,} pairs are as similar as {threshold:.4f}: the encoder tells these images "
            "apart too little, or the threshold is too low. Give a higher one: --threshold COSINE"
        )


def _of_tile(vectors: np.ndarray, threshold: float, others: np.ndarray | None, start: int, most: int) -> Pairs:
    """The pairs whose first row lies in the tile that begins at `start`."""
    tile = vectors[start : start + TILE]
    first, second, similarity = [], [], []
    for begin, block in _blocks(vectors if others is None else others, 0 if others is not None else start):
        cosines = tile @ block.T  # (t, b)
        near = np.flatnonzero(cosines.ravel() >= threshold)
        rows, columns = np.divmod(near, len(block))
        if others is None:
            is_after = columns + begin > rows + start  # each pair once, and no row with itself
            near, rows, columns = near[is_after], rows[is_after], columns[is_after]
        first.append(rows + start)
        second.append(columns + begin)
        similarity.append(np.minimum(cosines.ravel()[near], 1))
        if sum(map(len, first)) > most:
            break
    return Pairs(np.concatenate(first), np.concatenate(second), np.concatenate(similarity))


def _blocks(vectors: np.ndarray, start: int) -> Iterator[tuple[int, np.ndarray]]:
    for begin in range(start, len(vectors), BLOCK):
        yield begin, vectors[begin : begin + BLOCK]
