"""How many pairs of distinct images a collection has within a distance.

Distinct images of a collection get rarer the nearer they are. What is looked at is the number of their pairs within a
distance r (r^2 = 2 - 2 cosine): near its small end it falls as a power, n(r) = n0 (r / r0)^d, d the dimension that the
collection has for this encoder (the correlation dimension of Grassberger and Procaccia 1983). d is taken from the
distances from a sample of rows to all rows, by the median of log(r0 / r), which a minority of true copies among them
moves little, and to the careful side. So the number of distinct pairs beyond a threshold is known also where there are
too few to be counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clzoo.curation.pairs import pairs_above, similarity_of

FEWEST = 30
"""Images from which distinct pairs can be told; with fewer the threshold is what mild copies reach."""

_NEIGHBORS = 4  # pairs of each row of the sample, on average, that are looked at
_SMALLEST = 1e-3  # distance below which half-precision vectors do not tell anything
_LEAST_RADIUS = 2 * _SMALLEST  # of a fit: within less, those that tell nothing would make it


@dataclass(frozen=True)
class Distinct:
    """How many pairs of distinct images are expected within a distance.

    Attributes:
        pairs: of the whole collection within `radius`.
        radius: r0.
        dimension: d.
    """

    pairs: float
    radius: float
    dimension: float

    def beyond(self, similarity: np.ndarray | float) -> np.ndarray:
        """Expected number of distinct pairs with a cosine of at least `similarity`, of any shape.

        Of those within `radius`: farther out it stays at `pairs`.
        """
        share = distance(similarity) / self.radius
        return np.asarray(self.pairs * np.minimum(share, 1.0) ** self.dimension)

    def expected(self, similarity: float) -> float | None:
        """As `beyond`; None farther out than `radius`, where the fit tells nothing."""
        return float(self.beyond(similarity)) if distance(similarity) <= self.radius else None

    def similarity_of(self, pairs: float) -> float:
        """The cosine beyond which so many are expected."""
        radius = self.radius * min(pairs / self.pairs, 1.0) ** (1 / self.dimension)
        return float(1 - radius**2 / 2)


def distance(similarity: np.ndarray | float) -> np.ndarray:
    """Euclidean distance of two unit vectors of this cosine."""
    return np.sqrt(np.maximum(2 - 2 * np.asarray(similarity, np.float64), 0.0))


def fit_distinct(vectors: np.ndarray, rows: np.ndarray, others: np.ndarray | None = None) -> Distinct | None:
    """How distinct images of a collection get rarer, from some of its `rows` against all of it, or against `others`.

    Args:
        vectors: unit vectors (N, D).
        rows: (S,) of them.

    Returns:
        None where there are too few pairs, or all are the same as far as stored vectors tell.
    """
    bank = vectors if others is None else others
    if len(rows) < FEWEST // 2 or len(bank) < FEWEST // 2:
        return None
    wanted = min(_NEIGHBORS * len(rows), len(rows) * (len(bank) - 1) // 4)
    floor = _floor_of(vectors[rows], bank, wanted + (len(rows) if others is None else 0))
    found = pairs_above(vectors[rows], floor, bank, what="distances")
    if others is None:
        found = found.where(rows[found.first] != found.second)  # each row is nearest to itself
    radii = distance(similarity_of(found, vectors[rows], bank))
    radius = float(radii.max(initial=0.0))
    ratios = np.log(radius / np.maximum(radii, _SMALLEST)) if radius >= _LEAST_RADIUS else np.zeros(0)
    if len(ratios) < FEWEST or np.median(ratios) <= 0:
        return None
    whole = len(radii) * len(vectors) / len(rows) / (2 if others is None else 1)
    return Distinct(whole, radius, float(np.log(2) / np.median(ratios)))


def _floor_of(queries: np.ndarray, bank: np.ndarray, wanted: int) -> float:
    """About the cosine that so many pairs of the two reach, told from up to 250 of the queries."""
    some = queries[np.linspace(0, len(queries) - 1, min(len(queries), 250)).round().astype(int)]
    cosines = np.concatenate([(row[None] @ bank.T).ravel() for row in some])
    place = max(1, min(len(cosines) - 1, round(wanted * len(some) / len(queries))))
    return float(np.partition(cosines, -place)[-place])
