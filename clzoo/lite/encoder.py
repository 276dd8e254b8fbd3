"""LiteEncoder: `clzoo.Encoder` on ONNX Runtime. From images to vectors, without torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from clzoo.data.given import Skipped, check_on_error, is_single, pixel_batches_of
from clzoo.graphs.provenance import EMBEDDING, FEATURE, IMAGES, PIXELS
from clzoo.graphs.session import open_session
from clzoo.images import as_rgb
from clzoo.transform import resize_and_crop, resize_and_keep_margin, scale_and_shift

ImageLike = str | Path | bytes | BinaryIO | Image.Image | np.ndarray
"""A path, encoded bytes, a binary file object, a PIL image, a uint8 (H, W, 3) array, or a float one in [0, 1]."""


class LiteEncoder:
    """An exported model in ONNX Runtime: images in, features out. `clzoo.lite.load` makes one.

    Attributes:
        provenance: what the graph says of itself.
        device: "cpu", "cuda", "tensorrt", "openvino" or "coreml": where it really runs.
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
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 64,
        normalize: bool = True,
        on_error: str = "raise",
        progress: bool = False,
    ) -> Any:
        """Embed one image or many, decoded in threads, a few batches ahead of the network.

        Args:
            images: one image, or a list or generator of them (an array (N, H, W, 3) counts as a list).
            normalize: divide each vector by its L2 norm.
            on_error: "skip" leaves out images that cannot be read, and says which.
            progress: show a bar, on a terminal (needs rich).

        Returns:
            float32 (dim,) for one image, (N, dim) for N: what `clzoo.Encoder.embed` returns, to 1e-4 in fp32. With
            on_error="skip" a pair: the vectors of the others, and a list of `Skipped` (position, name, reason).

        Raises:
            ClzooError: an image that cannot be read, named.
        """
        single = is_single(images)
        check_on_error(on_error, single)
        skipped: list[Skipped] | None = [] if on_error == "skip" else None
        given: Any = [images] if single else images
        batches = pixel_batches_of(given, self.pixels, batch_size, skipped=skipped, progress=progress)
        chunks = [self.encode(batch, normalize=normalize) for batch in batches]
        vectors = np.concatenate(chunks) if chunks else np.zeros((0, self.dim), np.float32)
        if skipped is not None:
            return vectors, skipped
        return vectors[0] if single else vectors
