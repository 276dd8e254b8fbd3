"""From pairs to groups, and which image of a group to keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from clzoo.curation.pairs import Pairs
from clzoo.curation.pictures import Pictures
from clzoo.errors import ClzooError

KEEP = ("largest", "oldest", "first")
"""Which image of a group to keep: of most pixels, then of most bytes; of the oldest file; or the first by path."""


@dataclass(frozen=True)
class Preference:
    """What is known of an image when it is chosen among its like; the smallest key is kept."""

    pixels: int
    size: int
    mtime_ns: int
    path: str

    def key(self, keep: str) -> tuple[Any, ...]:
        """Sorts the image to keep to the front; what `keep` does not decide, the others do."""
        largest, oldest, first = (-self.pixels, -self.size), (self.mtime_ns,), (self.path,)
        order = {
            "largest": (*largest, *oldest, *first),
            "oldest": (*oldest, *largest, *first),
            "first": (*first, *largest, *oldest),
        }[keep]
        return (self.pixels == 0, *order)  # what cannot be read is no reason to give anything away

    def reason(self, other: Preference, keep: str) -> str:
        """Why this one is kept and not the other, in words."""
        tests = {
            "largest": [
                ("more pixels", self.pixels > other.pixels),
                ("more bytes", self.pixels == other.pixels and self.size > other.size),
            ],
            "oldest": [("older file", self.mtime_ns < other.mtime_ns)],
            "first": [("first by path", True)],
        }
        if other.pixels == 0 < self.pixels:
            return "can be read"
        order = [keep, *(name for name in KEEP if name != keep)]
        return next(words for name in order for words, holds in tests[name] if holds)


def preferences(pictures: Pictures, rows: Iterable[int]) -> dict[int, Preference]:
    """What is known of some rows; pixels are 0 where the picture cannot be read."""
    store = pictures.store
    sizes, times = store.items["size"].to_numpy(), store.items["mtime_ns"].to_numpy()
    return {row: Preference(pictures.pixels(row), int(sizes[row]), int(times[row]), store.paths[row]) for row in rows}


def check_keep(keep: str) -> None:
    """Raise ClzooError unless it is one of KEEP."""
    if keep not in KEEP:
        raise ClzooError(f"keep must be one of {', '.join(KEEP)}, found {keep!r}.")


def components(count: int, pairs: Pairs) -> list[np.ndarray]:
    """Rows that pairs join, directly or through others: sorted groups of at least two, in the order of their first."""
    if not len(pairs):
        return []
    ones = np.ones(len(pairs), bool)
    _, group = connected_components(coo_array((ones, (pairs.first, pairs.second)), (count, count)), directed=False)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def identical_sets(keys: Sequence[object], rows: Sequence[int]) -> list[list[int]]:
    """Rows with the same key, in order, where at least two have it; a key of None is like no other."""
    sets = defaultdict(list)
    for key, row in zip(keys, rows, strict=True):
        if key is not None:
            sets[key].append(row)
    return [found for found in sets.values() if len(found) > 1]


def keep_and_remove(
    members: Sequence[int], neighbors: dict[int, list[int]], key: Callable[[int], Any]
) -> tuple[list[int], dict[int, int]]:
    """Of a group the rows to keep, and of each other row the kept one that it is a neighbor of.

    The best is kept and its neighbors go, then the best of what is left: so in a long chain nothing goes that is only
    like something that goes too.
    """
    kept: list[int] = []
    removed: dict[int, int] = {}
    for row in sorted(members, key=key):
        if row in removed:
            continue
        kept.append(row)
        for other in neighbors.get(row, ()):
            if other not in kept and other not in removed:
                removed[other] = row
    return kept, removed
