"""Raw features of a labelled set: extracted once through the embedding pipeline, cached, shared by all protocols.

    <cache>/features/<encoder>-<N>-<images>/    features.npy float32 (N, D), rows.npy int64 (N,), skipped.json

<encoder> is a hash of the weights, the preprocessing and the decoder's rules; <images> of the names and the content of
the N images (clzoo.data.content), so a folder is never wrong: another model or a changed image has another name. It is
filled under a temporary name and renamed when it is whole. `clzoo cached --rm features` deletes all of them.

Every image is read once. What no earlier run has read is hashed on its way through the network; only where the cache
holds features of as many images by this encoder, they may be the same, and reading first is what finds them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clzoo import cache
from clzoo.data.collection import Collection, Images
from clzoo.data.content import Recorder, add_labels, digests, identity, remembered
from clzoo.data.parallel import usable_cores
from clzoo.embed.manifest import preprocessing_of
from clzoo.embed.progress import progress_bar
from clzoo.embed.stream import Clock, Settings, default_batch_size, encode_items
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import filled_folder, read_json, write_json
from clzoo.images import max_pixels
from clzoo.temporary import sweep
from clzoo.wording import clzoo_command

log = logging.getLogger("clzoo")


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a split, not normalised: each protocol normalises as it says.

    Attributes:
        x: float32 (N, D), finite; on the CPU, may be mapped from disk.
        labels: int64 (N,), positions in `classes`; -1 of images without labels.
        classes: names, C of them; a class may have no images.
        origin: what the user named, for messages.
        fingerprint: which images these are; equal for the same images and labels wherever they lie.
        rows: int64 (N,), which images of the collection these are; None where they are of no single collection.
    """

    x: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    origin: str
    fingerprint: dict[str, Any]
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


def extract(
    encoder: Encoder, collection: Collection, *, needs_labels: bool = True, cache_dir: str | Path | None = None
) -> Features:
    """Features of a collection, computed in float32, from the cache where they lie there.

    Images that cannot be read are named in the log and counted in the fingerprint; they have no row.

    Raises:
        ClzooError: no labels though they are needed, no image that can be read, or a cache that cannot be written.
    """
    if collection.labels is None and needs_labels:
        raise ClzooError(f"{collection.origin} has no labels. {collection.unlabelled}")
    folder, sha256 = _features_of(encoder, collection.images, collection.origin, cache_dir)
    x = np.load(folder / "features.npy", mmap_mode="c")  # "c": torch wants memory that it may write to
    rows = np.load(folder / "rows.npy")
    skipped = [*collection.failures, *read_json(folder / "skipped.json")]
    if len(rows) == 0:
        raise ClzooError(f"none of the images of {collection.origin} can be read; the first: {skipped[0]}")
    if skipped:
        log.warning("%s: %d images cannot be read and do not count: %s", collection.origin, len(skipped), skipped[0])
    labels = np.full(len(rows), -1) if collection.labels is None else collection.labels[rows]
    return Features(
        torch.from_numpy(x),
        torch.from_numpy(labels),
        collection.classes,
        collection.origin,
        _fingerprint(collection, rows, labels, sha256[rows], len(skipped)),
        rows,
    )


def _features_of(
    encoder: Encoder, images: Images, origin: str, cache_dir: str | Path | None
) -> tuple[Path, np.ndarray]:
    """The folder of the images' features, filled if need be; digests uint8 (N, 32) of the images."""
    folder = cache.root(cache_dir) / cache.FEATURES
    every = np.arange(len(images))
    prefix = f"{_hash_of(encoder)}-{len(images)}-"
    sha256, is_known = remembered(images, every, cache_dir)
    if not is_known.all() and any(folder.glob(f"{prefix}*")):
        sha256, is_known = digests(images, every, cache_dir), np.ones(len(images), bool)
    if is_known.all():
        found = folder / f"{prefix}{_name(images, sha256)}"
        if found.is_dir():
            return found, sha256
    recorder = Recorder(images)
    log.info("features of %d images of %s by %s", len(images), origin, encoder.config.name)
    _fill(folder / prefix, encoder, recorder)
    recorder.remember(cache_dir)
    return folder / f"{prefix}{_name(images, recorder.sha256)}", recorder.sha256


def _name(images: Images, sha256: np.ndarray) -> str:
    return identity(images, np.arange(len(images)), sha256).hexdigest()[:32]


def _fill(prefix: Path, encoder: Encoder, images: Recorder) -> None:
    """Run the images through the encoder into a new folder of the cache, named by the content that was read."""
    try:
        sweep(prefix.parent)
        with filled_folder(prefix, renamed=lambda: f"{prefix.name}{_name(images, images.sha256)}") as temporary:
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
            f"{prefix.parent} cannot be written: {error}. Free the place, or set CLZOO_CACHE to another folder."
        ) from error


def _encoded(encoder: Encoder, images: Recorder) -> Iterator[tuple[np.ndarray, np.ndarray, list[str]]]:
    """(vectors (n, D), rows (n,), "name: reason" of failures) of batch after batch."""
    items = Collection("", images).items
    settings = Settings(default_batch_size(encoder), usable_cores(), "fp32", "fp32", normalize=False)
    clock = Clock()
    stream = encode_items(items, np.arange(len(items)), encoder, settings, clock)
    with closing(stream), progress_bar(len(items), clock, enabled=log.isEnabledFor(logging.INFO)) as advance:
        for encoded in stream:
            for failure in encoded.failures:
                if "not finite" in failure.reason:  # not the image's fault
                    raise ClzooError(
                        f"{failure.path}: {failure.reason}. The weights of {encoder.config.name} are broken, or its "
                        f"preprocessing is another's. Type: {clzoo_command('verify', encoder.config.name)}"
                    )
            yield encoded.vectors, encoded.positions, [f"{f.path}: {f.reason}" for f in encoded.failures]
            advance(len(encoded.positions) + len(encoded.failures))


def _hash_of(encoder: Encoder) -> str:
    """Of everything that features depend on beside the images."""
    parts = {
        "weights": encoder.weights_sha256,
        "network": encoder.config.network,
        "preprocessing": preprocessing_of(encoder),
        "max_pixels": max_pixels(),
        "device": encoder.device.type,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _fingerprint(
    collection: Collection, rows: np.ndarray, labels: np.ndarray, sha256: np.ndarray, skipped: int
) -> dict[str, Any]:
    """Of names, content (N, 32) and the names of the classes: how a source numbers them is no difference."""
    digest = identity(collection.images, rows, sha256)
    if collection.classes:
        add_labels(digest, labels, collection.classes)
    return {
        "images": len(rows),
        "classes": len(collection.classes),
        "skipped": skipped,
        "sha256": digest.hexdigest(),
        **({} if collection.drawn is None else {"drawn": collection.drawn}),
    }
