"""The pictures behind a store's rows, and the encoder that made it."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from clzoo.data.content import digest_of
from clzoo.data.held import HELD
from clzoo.data.opening import stored_content
from clzoo.data.storage import is_remote
from clzoo.embed.manifest import Manifest
from clzoo.embed.store import Store
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import decode_image

if TYPE_CHECKING:
    from clzoo.encoder import Encoder


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
        manifest = self.store.manifest
        try:
            return digest_of(stored_content(manifest.root, self.store.paths[row], manifest.source)).hex()
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


def changed_rows(store: Store) -> np.ndarray:
    """Rows (k,) whose files are others now than those that were embedded: by size, and where they lie as then by time.

    Asked of files on this machine; what is in a shard or behind a URL, or is not there, is not known to have changed.
    """
    m = store.manifest
    if is_remote(m.root) or m.source.startswith(HELD):
        return np.empty(0, np.int64)
    sizes, times = (store.items[column].to_numpy() for column in ("size", "mtime_ns"))
    is_moved = m.root != Manifest.load_from(store.path).root  # a copy may have the times of its copying
    changed = []
    for row, path in enumerate(store.paths):
        try:
            now = os.stat(store.root / path)  # noqa: PTH116
        except OSError:
            continue
        if now.st_size != sizes[row] or (not is_moved and now.st_mtime_ns != times[row]):
            changed.append(row)
    return np.array(changed, np.int64)


def other_names(store: Store) -> np.ndarray:
    """Rows (k,) that are further names of a file that another row names: links to it, or ways to it through one.

    Of several names the one that is no link stays, else the first by path. Two hard links are two files here.
    """
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, path in enumerate(store.paths if not is_remote(store.manifest.root) else []):
        try:
            now = os.stat(store.root / path)  # noqa: PTH116
        except OSError:
            continue
        places[now.st_dev, now.st_ino].append(row)
    further: list[int] = []
    root = os.path.realpath(store.root)
    for rows in places.values():
        of_file: dict[str, list[int]] = defaultdict(list)
        for row in rows if len(rows) > 1 else ():
            of_file[os.path.realpath(os.path.join(root, store.paths[row]))].append(row)  # noqa: PTH118
        for real, names in of_file.items():
            named = sorted(names, key=lambda row: (os.path.join(root, store.paths[row]) != real, store.paths[row]))  # noqa: PTH118
            further += named[1:]
    return np.array(sorted(further), np.int64)


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
