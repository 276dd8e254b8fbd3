"""LiteEncoder: `clzoo.Encoder` on ONNX Runtime. From images to vectors, without torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from clzoo.data.given import given_to_embed, require_pixels
from clzoo.errors import ClzooError
from clzoo.files import parse_json
from clzoo.graphs.provenance import CLASSES, EMBEDDING, FEATURE, IMAGES, PIXELS, PROBABILITIES
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
        classes: of a graph with a classifier (`clzoo curate classify --onnx`) its C names; of others none.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.session, self.provenance = open_session(path, device)
        self.device = device
        self.classes = _classes_of(self.session, path)

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

        Raises:
            ClzooError: other values than uint8, or in another order.
        """
        return self._run(EMBEDDING if normalize else FEATURE, pixels)

    def _run(self, output: str, pixels: np.ndarray) -> np.ndarray:
        require_pixels(pixels, np.ndarray)
        if self.provenance.preprocess:
            feed = {IMAGES: np.ascontiguousarray(pixels)}
        else:
            scale, shift = (np.array(values, np.float32) for values in scale_and_shift(self.provenance.preprocessing))
            feed = {PIXELS: np.ascontiguousarray((pixels * scale + shift).transpose(0, 3, 1, 2))}
        (found,) = self.session.run([output], feed)
        return found

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
        output = EMBEDDING if normalize else FEATURE
        return self._of_all(output, self.dim, images, batch_size, on_error, progress)

    def probabilities(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch_size: int = 64,
        on_error: str = "raise",
        progress: bool = False,
    ) -> Any:
        """How probably one image or many are of each of `classes`; the arguments are those of `embed`.

        Returns:
            float32 (C,) for one image, (N, C) for N, with sums of 1; with on_error="skip" a pair, as of `embed`.

        Raises:
            ClzooError: a graph without a classifier; an image that cannot be read, named.
        """
        if not self.classes:
            raise ClzooError(
                f"{self.provenance.model} is an encoder without a classifier. Fit one and write both as one file: "
                "clzoo curate classify STORE --labels LABELS.csv --onnx classifier.onnx"
            )
        return self._of_all(PROBABILITIES, len(self.classes), images, batch_size, on_error, progress)

    def _of_all(self, output: str, width: int, images: Any, batch_size: int, on_error: str, progress: bool) -> Any:
        batches, single, skipped = given_to_embed(images, self.pixels, batch_size, on_error=on_error, progress=progress)
        chunks = [self._run(output, batch) for batch in batches]
        found = np.concatenate(chunks) if chunks else np.zeros((0, width), np.float32)
        if skipped is not None:
            return found, skipped
        return found[0] if single else found


def _classes_of(session: Any, path: Path) -> tuple[str, ...]:
    """The names of a classifier behind the embedding; none where there is none.

    Raises:
        ClzooError: as many names as probabilities are not there.
    """
    widths = [end.shape[1] for end in session.get_outputs() if end.name == PROBABILITIES and len(end.shape) == 2]
    if not widths:
        return ()
    again = "Write it anew: clzoo curate classify STORE --labels LABELS.csv --onnx FILE"
    told = session.get_modelmeta().custom_metadata_map.get(CLASSES, "")
    names = parse_json(told, f"{path}: its clzoo metadata is damaged: {CLASSES}", again)
    if isinstance(names, list) and all(isinstance(name, str) for name in names) and len(names) == widths[0]:
        return tuple(names)
    raise ClzooError(
        f"{path} gives {widths[0]} probabilities, and its metadata {CLASSES} does not name as many classes: it was "
        f"changed after its export. {again}"
    )
