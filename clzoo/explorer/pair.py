"""Two stores of the same images by different encoders: which rows belong together, and where the two disagree."""

from __future__ import annotations

import logging

import numpy as np

from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.explorer.graph import Graph
from clzoo.wording import clzoo_command

log = logging.getLogger("clzoo")

COMPARED = 10
"""Neighbors of an image that are compared."""


def same_images(first: Store, second: Store) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The rows (N,) of each store of the images that both hold, by path and size, in the order of the first.

    Returns:
        The rows, and notes of what is left out.

    Raises:
        ClzooError: they have no image in common, or are of one encoder.
    """
    one, two = first.manifest, second.manifest
    if (one.weights_sha256, one.preprocessing) == (two.weights_sha256, two.preprocessing):
        raise ClzooError(
            f"{first.path} and {second.path} are both of {one.model} ({one.weights_sha256[:12]}): there is nothing to "
            "compare. Embed with another: "
            f"{clzoo_command('embed', 'IMAGES', '--model', 'NAME', '--out', f'{second.path}-other')}"
        )
    keys = [list(zip(store.paths, store.items["size"].to_pylist(), strict=True)) for store in (first, second)]
    row_of = {key: row for row, key in enumerate(keys[1])}
    rows = np.array([row for row, key in enumerate(keys[0]) if key in row_of], np.int64)
    if not len(rows):
        raise ClzooError(
            f"{first.path} ({len(first):,} images of {one.root}) and {second.path} ({len(second):,} of {two.root}) "
            "have no image in common, by path and size. Embed the same ones: "
            f"{clzoo_command('embed', one.root, '--model', two.load, '--out', f'{second.path}-same')}"
        )
    notes = [
        f"Left out: {len(store) - len(rows):,} of the {len(store):,} images of {store.path.name}, which the other "
        "store does not hold."
        for store in (first, second)
        if len(store) > len(rows)
    ]
    for note in notes:
        log.warning(note)
    return rows, np.array([row_of[keys[0][row]] for row in rows], np.int64), notes


def agreement(first: Graph, second: Graph) -> np.ndarray:
    """The share (N,) of the nearest 10 under one encoder that are among the nearest 10 under the other."""
    k = min(COMPARED, first.k)
    if k == 0:
        return np.ones(len(first.rows), np.float32)
    one, two = np.sort(first.rows[:, :k], axis=1), np.sort(second.rows[:, :k], axis=1)
    # Rows of one image are made numbers of their own, so that one intersection serves all images.
    offset = np.arange(len(one), dtype=np.int64)[:, None] * len(one)
    common = np.isin((one + offset).ravel(), (two + offset).ravel()).reshape(one.shape)
    return common.mean(axis=1).astype(np.float32)
