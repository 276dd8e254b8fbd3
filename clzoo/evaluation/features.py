"""Raw features of a labelled set: extracted once through the embedding pipeline, cached, shared by all protocols.

    <cache>/features/<key>/    features.npy float32 (N, D), rows.npy int64 (N,), skipped.json

The key is a hash of the weights, the preprocessing and the images (paths, sizes and times of files, or the pixels), so
a folder is never wrong: another model or a changed image has another key. It is filled under a temporary name and
renamed when it is whole. `clzoo cached --rm features` deletes all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clzoo.data.collection import Collection, FileImages, Images
from clzoo.data.parallel import usable_cores
from clzoo.embed.progress import progress_bar
from clzoo.embed.stream import Clock, Readable, Settings, default_batch_size, encode_items
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import filled_folder, read_json, write_json
from clzoo.temporary import sweep
from clzoo.zoo import cache

log = logging.getLogger("clzoo")


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a split, not normalised: each protocol normalises as it says.

    Attributes:
        x: float32 (N, D), finite; on the CPU, may be mapped from disk.
        labels: int64 (N,), positions in `classes`.
        classes: names, C of them; a class may have no images.
        origin: what the user named, for messages.
        fingerprint: which images these are; equal for the same images and labels wherever they lie.
    """

    x: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    origin: str
    fingerprint: dict[str, Any]

    def __len__(self) -> int:
        return len(self.labels)


def extract(encoder: Encoder, collection: Collection, *, cache_dir: str | Path | None = None) -> Features:
    """Features of a labelled collection, computed in float32, from the cache where they lie there.

    Images that cannot be read are named in the log and counted in the fingerprint; they have no row.

    Raises:
        ClzooError: no labels, no image that can be read, or a cache that cannot be written.
    """
    if collection.labels is None:
        raise ClzooError(f"{collection.origin} has no labels. {collection.unlabelled}")
    folder = cache.root(cache_dir) / cache.FEATURES / _key(encoder, collection)
    if not folder.is_dir():
        _fill(folder, encoder, collection)
    x = np.load(folder / "features.npy", mmap_mode="c")  # "c": torch wants memory that it may write to
    rows = np.load(folder / "rows.npy")
    skipped = [*collection.failures, *read_json(folder / "skipped.json")]
    if len(rows) == 0:
        raise ClzooError(f"none of the images of {collection.origin} can be read; the first: {skipped[0]}")
    if skipped:
        log.warning("%s: %d images cannot be read and do not count: %s", collection.origin, len(skipped), skipped[0])
    labels = collection.labels[rows]
    return Features(
        torch.from_numpy(x),
        torch.from_numpy(labels),
        collection.classes,
        collection.origin,
        _fingerprint(collection, rows, labels, len(skipped)),
    )


def _fill(folder: Path, encoder: Encoder, collection: Collection) -> None:
    """Run the images through the encoder into a new folder of the cache."""
    images = collection.images
    log.info("features of %d images of %s by %s", len(images), collection.origin, encoder.config.name)
    try:
        sweep(folder.parent)
        with filled_folder(folder) as temporary:
            path = temporary / "features.npy"
            out = np.lib.format.open_memmap(path, "w+", np.float32, (len(images), encoder.dim))
            rows: list[np.ndarray] = []
            skipped: list[str] = []
            count = 0
            for vectors, positions, failures in _encoded(encoder, images):
                out[count : count + len(vectors)] = vectors
                count += len(vectors)
                rows.append(positions)
                skipped += failures
            out.flush()
            if count < len(images):
                np.save(temporary / "whole.npy", out[:count])
                (temporary / "whole.npy").replace(path)
            np.save(temporary / "rows.npy", np.concatenate(rows) if rows else np.empty(0, np.int64))
            write_json(temporary / "skipped.json", skipped)
    except OSError as error:
        raise ClzooError(
            f"{folder.parent} cannot be written: {error}. Free the place, or set CLZOO_CACHE to another folder."
        ) from error


def _encoded(encoder: Encoder, images: Images) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """(vectors (n, D), rows (n,), "name: reason" of failures) of batch after batch."""
    items: Sequence[Readable] = images.items if isinstance(images, FileImages) else _Numbered.all_of(images)
    settings = Settings(default_batch_size(encoder), usable_cores(), "fp32", "fp32", normalize=False)
    clock = Clock()
    stream = encode_items(items, np.arange(len(items)), encoder, settings, clock)
    with closing(stream), progress_bar(len(items), clock, enabled=log.isEnabledFor(logging.INFO)) as advance:
        for encoded in stream:
            for failure in encoded.failures:
                if "not finite" in failure.reason:  # not the image's fault
                    raise ClzooError(
                        f"{failure.path}: {failure.reason}. The weights of {encoder.config.name} are broken, or its "
                        f"preprocessing is another's. Type: clzoo verify {encoder.config.name}"
                    )
            yield encoded.vectors, encoded.positions, [f"{f.path}: {f.reason}" for f in encoded.failures]
            advance(len(encoded.positions) + len(encoded.failures))


@dataclass(frozen=True)
class _Numbered:
    """An image of an array, a pack or a Hub data set, for the embedding pipeline."""

    images: Images
    row: int
    size: int = 0
    mtime_ns: int = 0

    @classmethod
    def all_of(cls, images: Images) -> list[_Numbered]:
        return [cls(images, row) for row in range(len(images))]

    @property
    def path(self) -> str:
        return self.images.name(self.row)

    def read(self) -> Image.Image:
        return self.images.read(self.row)


def _key(encoder: Encoder, collection: Collection) -> str:
    """Of everything that the features depend on."""
    images = collection.images
    parts = {
        "weights": encoder.weights_sha256,
        "architecture": [encoder.config.architecture, encoder.config.model_args, encoder.config.global_pool],
        "preprocessing": dataclasses.asdict(encoder.config.preprocessing),
        "device": encoder.device.type,
        "images": images.digest(np.arange(len(images))),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    if isinstance(images, FileImages):  # an image replaced by one of the same length has another time
        digest.update(np.array([item.mtime_ns for item in images.items], "<i8").tobytes())
    return digest.hexdigest()[:32]


def _fingerprint(collection: Collection, rows: np.ndarray, labels: np.ndarray, skipped: int) -> dict[str, Any]:
    digest = hashlib.sha256(collection.images.digest(rows).encode())
    digest.update(labels.astype("<i8").tobytes())
    return {
        "images": len(rows),
        "classes": len(collection.classes),
        "skipped": skipped,
        "sha256": digest.hexdigest(),
    }
