"""Decoded data sets on disk: images of one size as a memory-mapped array, so that training decodes nothing.

A pack is a folder:

    pixels.npy      uint8 (N, size, size, 3); numpy.load(..., mmap_mode="r") reads it anywhere
    items.parquet   path and label (null without labels) of each row
    pack.json       size, classes, what was left out and why, hashes, the source's fingerprint

It is made beside its place and renamed into it (see clzoo.data.packing), so that a folder with a pack.json is whole. A
source with splits becomes a folder of packs, one for each.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from clzoo.data.collection import ArrayImages, Collection
from clzoo.data.splits import SPLITS
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.images import DECODING
from clzoo.wording import clzoo_command

log = logging.getLogger("clzoo")

FORMAT = 1
"""Of the files; another one is refused."""


def find_packs(source: Path, split: str) -> list[Path]:
    """The packs of a split, the preferred first: `source` itself (the training split), or its sub-folders."""
    if split == "train" and (source / "pack.json").is_file():
        return [source]
    return [source / name for name in SPLITS[split] if (source / name / "pack.json").is_file()]


def open_pack(folder: Path) -> Collection:
    """A pack as a collection; the pixels are mapped, not read.

    Raises:
        ClzooError: a file is missing, damaged, or of an unknown format.
    """
    import pyarrow.parquet as pq

    summary = read_json(folder / "pack.json")
    again = f"Make it again: {clzoo_command('pack', 'SRC', '--size', summary.get('size', 256), '--out', folder)}"
    if summary.get("format") != FORMAT:
        raise ClzooError(f"{folder / 'pack.json'} has format {summary.get('format')!r}, expected {FORMAT}. {again}")
    shape = (summary["images"], summary["size"], summary["size"], 3)
    try:
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        items = pq.read_table(folder / "items.parquet")
    except (OSError, ValueError) as error:
        raise ClzooError(f"{folder} is damaged: {error}. {again}") from error
    if pixels.shape != shape or pixels.dtype != np.uint8 or items.num_rows != len(pixels):
        raise ClzooError(
            f"{folder / 'pixels.npy'} holds {pixels.dtype} {pixels.shape} for {items.num_rows} items; expected uint8 "
            f"{shape}. {again}"
        )
    if summary.get("decoding", 1) != DECODING:  # 1: a pack that does not say
        log.warning("%s holds pixels of another version of the decoder's rules (docs/store.md). %s", folder, again)
    labels = items["label"].to_numpy().astype(np.int64) if summary["classes"] else None
    images = ArrayImages(pixels, summary["sha256"])
    passed_over = summary.get("passed_over", {})
    classes, skipped = tuple(summary["classes"]), tuple(summary["skipped"])
    return Collection(str(folder), images, labels, classes, skipped, passed_over=passed_over)
