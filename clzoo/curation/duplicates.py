"""Groups of images that are one: the same file, the same pixels, or copies that the encoder sees to be one."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clzoo.curation.calibration import FALSE_FLAGS, Calibration, calibrate, check_settings, in_words
from clzoo.curation.grouping import check_keep, components, identical_sets, keep_and_remove, preferences
from clzoo.curation.page import Section, Tile, kinds_table, write_page
from clzoo.curation.pairs import Pairs, unit_vectors
from clzoo.curation.pictures import Pictures, changed_rows, embed_again, on_disk, other_names
from clzoo.data.parallel import in_order
from clzoo.embed.checks import require_images
from clzoo.embed.store import Store, open_store
from clzoo.errors import ClzooError
from clzoo.progress import with_progress

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

log = logging.getLogger("clzoo")

BYTES, PIXELS, NEAR = "byte-identical", "pixel-identical", "near-duplicate"
SAME = 0.9999
"""Cosine from which two rows are looked at for the same pixels: a network gives the same picture the same vector."""


@dataclass(frozen=True)
class Member:
    """One image of a group.

    Attributes:
        kept: itself, or the row that stands for it.
        kind: BYTES, PIXELS or NEAR, to the kept one; "" of a kept one.
        similarity: cosine with the kept one.
        reason: why the other is kept, or this one.
    """

    row: int
    path: str
    kept: int
    kind: str
    similarity: float
    reason: str

    @property
    def is_kept(self) -> bool:
        """Whether the list says to keep it."""
        return self.row == self.kept


@dataclass(frozen=True)
class Duplicates:
    """What `find_duplicates` found; nothing is deleted.

    Attributes:
        groups: the members of each, kept ones first.
        pairs: how many pairs of near-duplicates lie beyond the threshold; of images with the same file or the same
            vector one counts.
        unread: pictures that could not be read to be compared by hash.
        changed: images that are left out, since their files are others now than those that were embedded.
        names: images that are left out, since they are further names of the file of another: links are no copies.
    """

    store: Store
    calibration: Calibration
    groups: list[list[Member]]
    pairs: int
    unread: int
    changed: int = 0
    names: int = 0

    @property
    def removable(self) -> list[Member]:
        """The images that could go."""
        return [member for group in self.groups for member in group if not member.is_kept]

    def count(self, kind: str) -> int:
        """How many could go for this reason."""
        return sum(member.kind == kind for member in self.removable)

    def summary(self) -> list[str]:
        """What was found, a sentence each."""
        found = ", ".join(f"{self.count(kind)} {kind}" for kind in (BYTES, PIXELS, NEAR))
        lines = [
            f"{len(self.groups)} groups among {len(self.store):,} images; {len(self.removable)} could go: {found}.",
            f"{self.pairs} pairs of near-duplicates.",
            *in_words(self.calibration),
        ]
        if self.unread:
            lines.append(f"{self.unread} pictures could not be read: identical files among them are not named.")
        if self.changed:
            left_out = f"{self.changed} files are others than those that were embedded, and are left out."
            lines.append(f"{left_out} {embed_again(self.store)}")
        if self.names:
            lines.append(f"{self.names} paths are links to the file of another path: no copies, and left out.")
        return lines

    def write_page(self, path: str | Path) -> Path:
        """Write the groups as a page of pictures; returns its path."""
        sections = [
            Section(
                f"{len(group)} images",
                [Tile(self.store, m.row, _note(m), "good" if m.is_kept else "bad") for m in group],
            )
            for group in self.groups
        ]
        return write_page(
            path,
            title=f"Duplicates in {self.store.path.name}",
            facts=[f"{len(self.store):,} images", self.store.manifest.model],
            notes=self.summary(),
            tables=[kinds_table(self.calibration)],
            sections=sections,
        )

    def as_json(self) -> dict[str, Any]:
        """What `clzoo curate duplicates --json` prints."""
        paths = self.store.paths
        return {
            **self.store.identity(),
            "images": len(self.store),
            "calibration": self.calibration.as_json(),
            "pairs": self.pairs,
            "unread": self.unread,
            "changed": self.changed,
            "names": self.names,
            "groups": [
                [
                    {
                        "path": member.path,
                        "keep": member.is_kept,
                        **({} if member.is_kept else {"like": paths[member.kept], "kind": member.kind}),
                        "similarity": round(member.similarity, 5),
                        "reason": member.reason,
                    }
                    for member in group
                ]
                for group in self.groups
            ],
        }


def find_duplicates(
    store: Store | str | Path,
    *,
    false_flags: float = FALSE_FLAGS,
    threshold: float | None = None,
    keep: str = "largest",
    encoder: Encoder | str | Path | None = None,
) -> Duplicates:
    """Find the groups of a collection's images that are one, and say which of each to keep.

    Files of the same bytes are found by hash, images of the same pixels by hash among those with the same vector, all
    others by cosine: every pair is compared, in blocks. Nothing is changed.

    Args:
        store: an open store (`open_store(path, images=DIR)` where the pictures have moved), or its folder.
        false_flags: share of false ones among the pairs of near-duplicates that are reported; chooses the threshold,
            see `clzoo.curation.calibration`.
        threshold: a cosine to report from instead.
        keep: "largest", "oldest" or "first".
        encoder: the one that made the store, where it is not where the store says.

    Raises:
        ClzooError: an empty store, vectors that are not finite, pictures that are not there, another encoder.
    """
    check_keep(keep)
    check_settings(false_flags, threshold)
    store = store if isinstance(store, Store) else open_store(store)
    require_images(store)
    pictures = Pictures(store)
    vectors = unit_vectors(store)
    files = on_disk(store)
    changed = changed_rows(store, files)
    names = np.setdiff1d(other_names(store, files), changed)
    compared = np.setdiff1d(np.arange(len(store)), [*changed, *names])
    if not len(compared):
        raise ClzooError(f"all files of {store.path} are others than those that were embedded. {embed_again(store)}")
    hashes = _hashes_of_equal_sizes(pictures, compared)
    sets = _joined(len(store), [*identical_sets(hashes, range(len(store))), *_equal_vectors(vectors, compared)])
    stands_for = np.arange(len(store))
    for rows in sets:
        stands_for[rows] = rows[0]
    single = compared[stands_for[compared] == compared]
    calibration, pairs = calibrate(pictures, vectors, single, false_flags, threshold, encoder)
    groups, unread = _groups(pictures, vectors, sets, pairs, hashes, keep)
    is_near = pairs.similarity >= calibration.threshold
    return Duplicates(store, calibration, groups, int(is_near.sum()), unread, len(changed), len(names))


def _note(member: Member) -> str:
    if member.is_kept:
        return f"keep: {member.reason}"
    return f"{member.kind}, {member.similarity:.4f}; {member.reason}"


def hashes_of(pictures: Pictures, rows: np.ndarray) -> dict[int, str]:
    """SHA-256 of the files of some rows (R,), but of those that cannot be read."""
    found = in_order(lambda place: pictures.sha256(int(rows[place])), len(rows))
    hashes = zip(rows.tolist(), with_progress(found, len(rows), "hashing"), strict=True)
    return {row: sha256 for row, sha256 in hashes if sha256 is not None}


def _hashes_of_equal_sizes(pictures: Pictures, rows: np.ndarray) -> list[str | None]:
    """SHA-256 by row of each of the files (R,) that has as many bytes as another; None where it cannot be read."""
    sizes = pictures.store.items["size"].to_numpy()[rows]
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    hashes = hashes_of(pictures, rows[counts[inverse] > 1])
    return [hashes.get(row) for row in range(len(pictures.store))]


def _equal_vectors(vectors: np.ndarray, rows: np.ndarray) -> list[list[int]]:
    """Those of the rows (R,) whose vectors are the same to the bit, but for vectors of zeros, which say nothing."""
    keys = [vectors[row].tobytes() if vectors[row].any() else None for row in rows]
    return identical_sets(keys, rows.tolist())


def _joined(count: int, sets: list[list[int]]) -> list[list[int]]:
    """Sets that share a row become one."""
    first = np.array([rows[0] for rows in sets for _ in rows[1:]], np.int64)
    second = np.array([row for rows in sets for row in rows[1:]], np.int64)
    return [part.tolist() for part in components(count, Pairs(first, second, np.ones(len(first), np.float32)))]


def _groups(
    pictures: Pictures, vectors: np.ndarray, sets: list[list[int]], pairs: Pairs, hashes: list[str | None], keep: str
) -> tuple[list[list[Member]], int]:
    """The groups with what to keep, and how many pictures could not be read."""
    alike = {rows[0]: rows for rows in sets}
    near = [part.tolist() for part in components(len(vectors), pairs)]
    joined = {row for part in near for row in part}
    parts = [*near, *([row] for row in alike if row not in joined)]
    neighbors = defaultdict(list)
    for a, b in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
        neighbors[a].append(b)
        neighbors[b].append(a)
    members = [row for part in parts for one in part for row in alike.get(one, [one])]
    known = preferences(pictures, members)
    kinds = _Kinds(pictures, hashes)
    groups = []
    for part in sorted(parts, key=min):
        best = {one: min(alike.get(one, [one]), key=lambda row: known[row].key(keep)) for one in part}
        kept, removed = keep_and_remove(part, neighbors, lambda one: known[best[one]].key(keep))  # noqa: B023
        group = []
        for one in [*kept, *sorted(removed)]:
            target = best[removed.get(one, one)]
            for row in sorted(alike.get(one, [one]), key=lambda row: known[row].key(keep)):
                cosine = float(np.clip(1 - np.square(vectors[row].astype(float) - vectors[target]).sum() / 2, -1, 1))
                if row == target:
                    reason = "best of its group" if one == kept[0] else "like none of those that are kept"
                    group.append(Member(row, pictures.store.paths[row], row, "", 1.0, reason))
                else:
                    reason = known[target].reason(known[row], keep)
                    kind = kinds.of(row, target, cosine)
                    group.append(Member(row, pictures.store.paths[row], target, kind, cosine, f"the other: {reason}"))
        groups.append(sorted(group, key=lambda member: not member.is_kept))
    return groups, kinds.unread


class _Kinds:
    """How two rows are the same, with the hashes that were needed so far."""

    def __init__(self, pictures: Pictures, hashes: list[str | None]) -> None:
        self._pictures, self._files = pictures, dict(enumerate(hashes))
        self._pixels: dict[int, str | None] = {}

    @property
    def unread(self) -> int:
        return sum(found is None for found in self._pixels.values())

    def of(self, row: int, other: int, cosine: float) -> str:
        if self._files[row] is not None and self._files[row] == self._files[other]:
            return BYTES
        if cosine < SAME:
            return NEAR
        for each in (row, other):
            if each not in self._pixels:
                self._pixels[each] = self._pictures.pixels_sha256(each)
        same = self._pixels[row] is not None and self._pixels[row] == self._pixels[other]
        return PIXELS if same else NEAR
