"""The pictures behind a store's rows, and the encoder that made it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from clzoo.data.content import digest_of
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
        """Of the encoded image; None where it cannot be read."""
        try:
            return digest_of(self.read(row)).hex()
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
