"""LiteEncoder: `clzoo.Encoder` on ONNX Runtime. From images to vectors, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clzoo.data.images import as_rgb
from clzoo.data.parallel import in_order
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.lite.provenance import EMBEDDING, FEATURE, IMAGES, PIXELS
from clzoo.lite.session import open_session
from clzoo.transform import resize_and_crop, resize_and_keep_margin, scale_and_shift

ImageLike = str | Path | bytes | Image.Image | np.ndarray
"""A path, encoded bytes, a PIL image, or a uint8 (H, W, 3) array."""


class LiteEncoder:
    """An exported model in ONNX Runtime: images in, features out. `clzoo.lite.load` makes one.

    Attributes:
        provenance: what the graph says of itself.
        device: "cpu" or "cuda", where it really runs.
        session: the `onnxruntime.InferenceSession`.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.session, self.provenance = open_session(path, device)
        self.device = device

    def __repr__(self) -> str:
        return f"LiteEncoder({self.provenance.model!r}, dim={self.dim}, device={self.device!r})"

    @property
    def dim(self) -> int:
        """Length of one feature."""
        return self.provenance.dim

    def pixels(self, image: ImageLike) -> np.ndarray:
        """One image -> what `encode` takes of it, uint8 (side, side, 3), resized by Pillow.

        `side` is the network's `size`; for a graph with the preprocessing inside it is `resize`, of which that
        cuts out the same `size`.

        Raises:
            UnreadableImageError: the reason, without the path.
            ClzooError: an array of another shape or type.
        """
        fit = resize_and_keep_margin if self.provenance.preprocess else resize_and_crop
        return fit(as_rgb(image), self.provenance.preprocessing)

    def encode(self, pixels: np.ndarray, *, normalize: bool = True) -> np.ndarray:
        """A batch through the graph.

        Args:
            pixels: uint8 (B, side, side, 3), as `pixels` makes them; for a graph with the preprocessing inside, images
                of any one size (B, H, W, 3).
            normalize: divide each vector by its L2 norm.

        Returns:
            float32 (B, dim).
        """
        if self.provenance.preprocess:
            feed = {IMAGES: np.ascontiguousarray(pixels)}
        else:
            scale, shift = (np.array(values, np.float32) for values in scale_and_shift(self.provenance.preprocessing))
            feed = {PIXELS: np.ascontiguousarray((pixels * scale + shift).transpose(0, 3, 1, 2))}
        (vectors,) = self.session.run([EMBEDDING if normalize else FEATURE], feed)
        return vectors

    def embed(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 64, normalize: bool = True
    ) -> np.ndarray:
        """Embed one image or many, decoded in threads.

        Args:
            images: one image, or a sequence of them (a uint8 (N, H, W, 3) array counts as a sequence).
            normalize: divide each vector by its L2 norm.

        Returns:
            float32 (dim,) for one image, (N, dim) for N: what `clzoo.Encoder.embed` returns, to 1e-4 in fp32.

        Raises:
            ClzooError: an image that cannot be read, named.
        """
        single = images.ndim == 3 if isinstance(images, np.ndarray) else isinstance(images, ImageLike)
        batch: Any = [images] if single else images
        if len(batch) == 0:
            raise ClzooError("embed() was given no images; expected one image or a non-empty sequence.")
        decoded = in_order(lambda position: self._pixels_or_named_error(batch[position], position), len(batch))
        chunks = [self.encode(np.stack(part), normalize=normalize) for part in _batched(decoded, batch_size)]
        vectors = np.concatenate(chunks)
        return vectors[0] if single else vectors

    def _pixels_or_named_error(self, image: ImageLike, position: int) -> np.ndarray:
        try:
            return self.pixels(image)
        except UnreadableImageError as error:
            name = str(image) if isinstance(image, str | Path) else f"image {position} of the call"
            raise ClzooError(f"{name} cannot be decoded: {error}.") from error


def _batched(items: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    while part := list(islice(items, size)):
        yield part
