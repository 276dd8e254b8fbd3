"""Images that an adaptation trains on, chooses by and is judged on: three parts, by what the images hold.

Rule hold-out:v1 (our choice). A fifth of the images, 5,000 at most, is held out for the verdict; a tenth of all, 1,000
at most, chooses between pilots; the rest is trained on. Which ones is decided by SHA-256 of the seed and of each
image's bytes: names, order and machine make no difference, and copies of an image stay together. Labels are not looked
at. The seed cannot be chosen, so that nobody chooses a lucky one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.data.collection import Images
from clzoo.data.content import digests

SEED = 0
HELD_SHARE, MOST_HELD = 0.2, 5000
PILOT_SHARE, MOST_PILOT = 0.1, 1000

RULE = f"hold-out:v1(seed={SEED},held={HELD_SHARE:.0%}<={MOST_HELD},pilots={PILOT_SHARE:.0%}<={MOST_PILOT},by content)"
"""Id of the rule with every setting that matters."""


@dataclass(frozen=True)
class Parts:
    """Sorted numbers of images, int64, each in one part.

    Attributes:
        judged: of the held-out ones the first of each content: copies tell nothing more, and an interval that counted
            them would be too narrow.
        distinct: how many different images there are.
    """

    train: np.ndarray
    pilots: np.ndarray
    held: np.ndarray
    judged: np.ndarray
    distinct: int

    def to_json(self, images: Images) -> dict[str, Any]:
        """The rule and the names of what is not trained on, to be kept."""
        names = {name: [images.name(int(row)) for row in getattr(self, name)] for name in ("held", "pilots")}
        return {"rule": RULE, "train": len(self.train), "distinct": self.distinct, **names}


def parts_of(images: Images, cache_dir: str | Path | None = None) -> Parts:
    """The parts of a collection; reads what no earlier run has read (clzoo.data.content)."""
    read = digests(images, np.arange(len(images)), cache_dir)  # (N, 32)
    keys = np.array([_key(digest.tobytes(), images.name(row)) for row, digest in enumerate(read)])
    # (N,) copies have the same number; numbers in the order of keys
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    counts = np.bincount(group)
    upto = np.cumsum(counts) - counts  # images in the groups before
    held = min(MOST_HELD, round(HELD_SHARE * len(keys)))
    pilots = held + min(MOST_PILOT, round(PILOT_SHARE * len(keys)))
    before = upto[group]
    rows = np.arange(len(keys))
    return Parts(
        train=rows[before >= pilots],
        pilots=rows[(before >= held) & (before < pilots)],
        held=rows[before < held],
        judged=np.sort(first[before[first] < held]),
        distinct=len(counts),
    )


def _key(digest: bytes, name: str) -> str:
    """Where an image stands in the order; one that cannot be read by its name."""
    content = digest if any(digest) else name.encode(errors="surrogateescape")
    return hashlib.sha256(f"hold-out:v1 {SEED}\0".encode() + content).hexdigest()
