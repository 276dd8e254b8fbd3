"""A test split for labelled images that come without one: by class, by content, the same wherever the images lie.

Rule split:v1 (our choice). Of a class of n images round(n / 5) are tested on, at least one. Which ones is decided by
SHA-256 of the seed and of what each image holds, so names, the order of files and the machine make no difference, and
copies of an image within a class stay on one side, though the share is then a little off. A class without two
different images stays in train.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from clzoo.data.collection import ChosenImages, Collection
from clzoo.data.content import digests
from clzoo.errors import ClzooError

SEED = 0
TEST_SHARE = 0.2

RULE = f"split:v1(seed={SEED},test={TEST_SHARE:.0%},by class,by content)"
"""Id of the rule with every setting that matters, as protocols have one."""

RECORD = {"rule": RULE, "seed": SEED, "test_share": TEST_SHARE}
"""For metrics.json."""


def drawn_splits(whole: Collection, *, cache_dir: str | Path | None = None) -> tuple[Collection, Collection]:
    """Train and test of a labelled collection, each in its order; `drawn` of both says by which rule.

    Reads what no earlier run has read (clzoo.data.content).

    Raises:
        ClzooError: no labels, or no class with two different images.
    """
    if whole.labels is None:
        raise ClzooError(f"{whole.origin} has no labels. {whole.unlabelled}")
    every = np.arange(len(whole.images))
    read = digests(whole.images, every, cache_dir)  # (N, 32)
    keys = [_key(digest.tobytes(), whole.images.name(row)) for row, digest in enumerate(read)]
    is_test = np.zeros(len(every), bool)
    for label in np.unique(whole.labels):
        rows = np.flatnonzero(whole.labels == label)
        is_test[_test_rows(rows, [keys[row] for row in rows])] = True
    if not is_test.any():
        raise ClzooError(
            f"{whole.origin} has no test split, and none can be drawn: no class has two different images. Name both: "
            "--data train=DIR,test=DIR"
        )
    train, test = (_part(whole, every[chosen]) for chosen in (~is_test, is_test))
    return train, dataclasses.replace(test, failures=(), passed_over={})  # which count once


def _key(digest: bytes, name: str) -> bytes:
    """Where an image stands in the order of its class; one that cannot be read by its name."""
    content = digest if any(digest) else name.encode(errors="surrogateescape")
    return hashlib.sha256(f"split:v1 {SEED}\0".encode() + content).digest()


def _test_rows(rows: np.ndarray, keys: list[bytes]) -> np.ndarray:
    """Those of a class's rows (n,) that are tested on: the first by key, copies together."""
    wanted, copies = max(1, round(TEST_SHARE * len(rows))), Counter(keys)
    chosen: set[bytes] = set()
    count = 0
    for key in sorted(copies)[:-1]:  # one is left for train
        if count >= wanted:
            break
        chosen.add(key)
        count += copies[key]
    return rows[np.array([key in chosen for key in keys])]


def _part(whole: Collection, rows: np.ndarray) -> Collection:
    assert whole.labels is not None
    images = ChosenImages(whole.images, rows)
    return dataclasses.replace(whole, images=images, labels=whole.labels[rows], listing=None, drawn=RULE)
