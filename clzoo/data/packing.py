"""Writing packs: decode every image once, to one size; the format is described in clzoo.data.packed."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import clzoo
from clzoo.data.collection import Collection, Images
from clzoo.data.content import Recorder, identity
from clzoo.data.decoding import decode_rows
from clzoo.data.opening import open_source, splits_of
from clzoo.data.packed import FORMAT
from clzoo.errors import ClzooError
from clzoo.files import atomic_path, filled_folder, write_json
from clzoo.images import DECODING

log = logging.getLogger("clzoo")


def pack(source: str | Path, size: int, out: Path) -> list[dict[str, Any]]:
    """Pack a folder, tar shards or a Hub data set: into `out`, or each split of the source into a sub-folder of it.

    Args:
        source: as `--data` of clzoo pretrain.
        size: side in pixels; the shorter side is resized to it and the centre is cut out.

    Returns:
        For each pack what its pack.json holds, and its `folder`.

    Raises:
        ClzooError: as `write_pack`; or the source is a pack already or a data set of small arrays.
    """
    splits = splits_of(source)
    places = [(split, out / split) for split in splits] if splits else [("train", out)]
    return [{"folder": str(place), **write_pack(open_source(source, split), size, place)} for split, place in places]


def write_pack(collection: Collection, size: int, out: Path) -> dict[str, Any]:
    """Decode a collection into the pack `out`; unreadable images are left out, named and counted.

    Returns:
        What pack.json holds.

    Raises:
        ClzooError: `out` is there already or being written, the disk has too little room, or nothing can be decoded.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClzooError(f"{out} exists already. Delete it, or choose another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    need, free = len(collection.images) * size * size * 3, shutil.disk_usage(out.parent).free
    if need > free:
        raise ClzooError(
            f"{len(collection.images)} images of {size} px take {need / 2**30:.1f} GiB, but {out.parent} has "
            f"{free / 2**30:.1f} GiB free. Choose another --out, or a smaller --size."
        )
    try:
        refusal = f"{out} is being written by another clzoo pack. Wait for it, or choose another --out."
        with filled_folder(out, refusal=refusal) as temporary:
            summary = _write_files(collection, size, temporary)
    except OSError as error:
        raise ClzooError(f"{out} cannot be written: {error.strerror or error}. Nothing is left of it.") from error
    return summary


# Writing --------------------------------------------------------------------------------------------------------------


def _write_files(collection: Collection, size: int, folder: Path) -> dict[str, Any]:
    recorder = Recorder(collection.images)
    kept, skipped, digest = _write_pixels(recorder, size, folder / "pixels.npy")
    recorder.remember()
    if not kept:
        raise ClzooError(f"none of the images of {collection.origin} can be decoded; the first: {skipped[0]}")
    _write_items(collection, kept, folder / "items.parquet")
    listed = np.arange(len(collection.images))
    source = identity(collection.images, listed, recorder.sha256)
    summary = {
        "format": FORMAT,
        "decoding": DECODING,
        "clzoo_version": clzoo.__version__,
        "images": len(kept),
        "size": size,
        "classes": list(collection.classes),
        "skipped": [*collection.failures, *skipped],
        "passed_over": dict(collection.passed_over),
        "sha256": digest,  # of the pixels in their order
        "source": {"origin": collection.origin, "images": len(listed), "sha256": source.hexdigest()},
    }
    write_json(folder / "pack.json", summary)
    return summary


def _write_pixels(images: Images, size: int, path: Path) -> tuple[list[int], list[str], str]:
    """Write the array row by row: (rows kept, "name: reason" of the others, SHA-256 of the pixels)."""
    rows = np.arange(len(images))
    kept: list[int] = []
    skipped: list[str] = []
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        start = _write_header(file, len(rows), size)
        for row, result in enumerate(decode_rows(images, rows, size, "packing")):
            if isinstance(result, str):
                skipped.append(result)
                continue
            data = np.ascontiguousarray(result).data
            digest.update(data)
            file.write(data)
            kept.append(row)
        file.seek(0)
        if _write_header(file, len(kept), size) != start:  # numpy pads headers so that the count may change
            raise ClzooError(f"{path}: this numpy's header depends on the count of images. Type: pip install -U numpy")
    return kept, skipped, digest.hexdigest()


def _write_header(file: BinaryIO, count: int, size: int) -> int:
    """Write an .npy header and return its length in bytes."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _write_items(collection: Collection, kept: list[int], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [None] * len(kept) if collection.labels is None else collection.labels[kept].tolist()
    names = [collection.images.name(row) for row in kept]
    table = pa.table({"path": pa.array(names, pa.string()), "label": pa.array(labels, pa.int64())})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
