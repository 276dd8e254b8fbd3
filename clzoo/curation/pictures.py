"""The pictures behind a store's rows, and the encoder that made it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import defaultdict
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from clzoo.data.content import digest_of
from clzoo.data.held import HELD
from clzoo.data.listing import shard_of
from clzoo.data.storage import is_remote
from clzoo.embed.manifest import Manifest
from clzoo.embed.store import Store
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import decode_image

if TYPE_CHECKING:
    from clzoo.encoder import Encoder


_INT64 = 2**63 - 1


class ImagesByRow(Protocol):
    """What a page of pictures is made of: a store, or the images of a source."""

    @property
    def paths(self) -> list[str]: ...

    def image_bytes(self, row: int) -> bytes:
        """The encoded image of a row.

        Raises:
            UnreadableImageError: it is not there any more; the reason alone.
        """
        ...


class Pictures:
    """Reads the image of any row, from any thread; the headers of a shard are read once.

    `option` is the command's own that says where they lie now.
    """

    def __init__(self, store: Store, option: str = "--images") -> None:
        self.store, self._option = store, option

    def read(self, row: int) -> bytes:
        """The encoded image, from a source of any kind.

        Raises:
            UnreadableImageError: it is no longer there; the reason alone.
        """
        return self.store.image_bytes(row)

    def image(self, row: int) -> Image.Image:
        """The same, decoded."""
        return decode_image(self.read(row))

    def sha256(self, row: int) -> str | None:
        """Of the encoded image, or of pixels that never were encoded (clzoo.data.content); None: it cannot be read."""
        try:
            return digest_of(self.store.image_content(row)).hex()
        except UnreadableImageError:
            return None

    def pixels_sha256(self, row: int) -> str | None:
        """Of the decoded pixels and their size; None where they cannot be read."""
        try:
            image = self.image(row)
        except UnreadableImageError:
            return None
        return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()

    def pixels(self, row: int) -> int:
        """Width times height, 0 where the picture cannot be read."""
        try:
            image = self.image(row)
        except UnreadableImageError:
            return 0
        return image.width * image.height

    def missing(self) -> ClzooError:
        """What to raise where none of the pictures that are needed is there."""
        return ClzooError(
            f"the pictures of {self.store.path} are not at {self.store.manifest.root} (any more). Say where they lie "
            f"now: {self._option} DIR"
        )


def on_disk(store: Store) -> np.ndarray:
    """Size, time, device and inode (N, 4), int64, of each row's file now; in a shard the row's own size, and no inode.

    -1 where there is none: behind a URL, of what a program held, or not there any more.
    """
    found = np.full((len(store), 4), -1, np.int64)
    if is_remote(store.manifest.root) or store.manifest.source.startswith(HELD):
        return found
    times = lru_cache(maxsize=256)(_time_of_shard)
    sizes = store.items["size"].to_pylist()
    for row, path in enumerate(store.paths):
        shard = shard_of(path, lambda place: times(store.root / place) is not None)
        if shard is not None and (time := times(store.root / shard)) is not None:
            found[row] = (sizes[row], time, -1, -1)
            continue
        with suppress(OSError):
            now = os.stat(store.root / path)  # noqa: PTH116
            found[row] = (now.st_size, now.st_mtime_ns, *(number & _INT64 for number in (now.st_dev, now.st_ino)))
    return found


def _time_of_shard(file: Path) -> int | None:
    """When it was last written; None where it is a folder that is called so, or not there."""
    return file.stat().st_mtime_ns if file.is_file() else None


def changed_rows(store: Store, files: np.ndarray) -> np.ndarray:
    """Rows (k,) whose files, as `on_disk` gives them, are others than those that were embedded.

    By size, and by time too where the images lie as they did: a copy may have the time of its copying.
    """
    size, time = (store.items[column].to_numpy() for column in ("size", "mtime_ns"))
    is_moved = store.manifest.root != Manifest.load_from(store.path).root
    is_other = (files[:, 0] != size) | ((files[:, 1] != time) & (not is_moved))
    return np.flatnonzero((files[:, 0] >= 0) & is_other)


def gone_rows(store: Store, files: np.ndarray) -> np.ndarray:
    """Rows (k,) whose files are not there any more, where others of the store are, at the place that it records."""
    is_moved = store.manifest.root != Manifest.load_from(store.path).root
    gone = files[:, 0] < 0
    return np.flatnonzero(gone) if not is_moved and not gone.all() else np.empty(0, np.int64)


def other_names(store: Store, files: np.ndarray) -> np.ndarray:
    """Rows (k,) that are further names of a file that another row names: links to it, or ways to it through one.

    Of several names the one that is no link stays, else the first by path. Two hard links are two files here.
    """
    root = os.path.realpath(store.root)
    _, place, count = np.unique(files[:, 2:], axis=0, return_inverse=True, return_counts=True)
    names: dict[str, list[tuple[bool, str, int]]] = defaultdict(list)
    for row in np.flatnonzero((files[:, 3] >= 0) & (count[place.ravel()] > 1)).tolist():
        path = os.path.join(root, store.paths[row])  # noqa: PTH118
        real = os.path.realpath(path)
        names[real].append((path != real, store.paths[row], row))
    return np.array(sorted(row for of_file in names.values() for *_, row in sorted(of_file)[1:]), np.int64)


def embed_again(store: Store) -> str:
    """What to type where a store's files are others by now."""
    manifest, recorded = store.manifest, Manifest.load_from(store.path)
    if manifest.root != recorded.root and recorded.source in ("", recorded.root):  # where a folder lies now
        manifest = dataclasses.replace(manifest, source=manifest.root)
    return f"Embed again: {manifest.command(store.path)}"


def encoder_of(store: Store, model: str | Path | Encoder | None = None) -> Encoder:
    """The encoder that made a store, loaded as its manifest names it, or from `model` where it has moved.

    Raises:
        ClzooError: it is not there any more; or `model` has other weights or another preprocessing.
    """
    from clzoo.encoder import Encoder
    from clzoo.loading import load

    if isinstance(model, Encoder):
        store.check_model(model)
        return model
    try:
        encoder = load(model or store.manifest.load, size=store.manifest.preprocessing["size"])
    except ClzooError as error:
        if model is not None:
            raise
        raise ClzooError(
            f"{store.path} remembers its model as {store.manifest.load}, and that cannot be loaded: {error} "
            "If it has moved, say where it is: --model PLACE"
        ) from error
    store.check_model(encoder)
    return encoder
