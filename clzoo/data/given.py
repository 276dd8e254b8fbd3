"""Images that a caller gives to `embed`: one or many, of any kind, decoded in threads a few batches ahead.

What is decoded and waits is two batches, however long the list: memory does not grow with it, and a generator is read
as it is needed. Imports no torch: `clzoo.lite` takes the same road.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set, Sized
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clzoo.data.parallel import mapped_in_order, stacked
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.progress import with_progress

_AHEAD = 2  # batches


class Skipped(NamedTuple):
    """An image that `embed(..., on_error="skip")` left out."""

    position: int  # among the images that were given, from 0
    name: str  # its path, or "image N of the call"
    reason: str


class Given(NamedTuple):
    """What `embed` was given: batches uint8 (B, side, side, 3), read as they are taken."""

    batches: Iterator[np.ndarray]
    single: bool
    skipped: list[Skipped] | None  # filled while batches are taken; None with on_error="raise"


def given_to_embed(
    images: Any, pixels: Callable[[Any], np.ndarray], batch_size: int, *, on_error: str, progress: bool
) -> Given:
    """The images of a call of `embed`, one or many, as batches of `pixels(image)`.

    Raises:
        ClzooError: neither an image nor images, or an `on_error` that does not fit them.
    """
    single = is_single(images)
    check_on_error(on_error, single)
    skipped: list[Skipped] | None = [] if on_error == "skip" else None
    each = [images] if single else images
    return Given(pixel_batches_of(each, pixels, batch_size, skipped=skipped, progress=progress), single, skipped)


def is_single(images: Any) -> bool:
    """Whether this is one image; False: some iterable of images.

    Raises:
        ClzooError: neither, or without an order.
    """
    if isinstance(images, str | Path | bytes | bytearray | memoryview | Image.Image) or hasattr(images, "read"):
        return True
    if hasattr(images, "ndim") and hasattr(images, "dtype"):  # arrays, and tensors without importing torch
        if images.ndim not in (3, 4):
            raise ClzooError(f"an image has 3 dimensions and a batch 4, found {images.dtype} {tuple(images.shape)}.")
        return bool(images.ndim == 3)
    if isinstance(images, Mapping | Set) or not isinstance(images, Iterable):
        raise ClzooError(
            f"cannot embed a {type(images).__name__}; expected an image (a path, bytes, a file object, a PIL image, "
            "an array or a tensor), or a list or generator of images."
        )
    return False


def pixel_batches_of(
    images: Iterable[Any],
    pixels: Callable[[Any], np.ndarray],
    batch_size: int,
    *,
    skipped: list[Skipped] | None = None,
    progress: bool = False,
) -> Iterator[np.ndarray]:
    """`pixels(image)` of each image in order, stacked to uint8 (B, side, side, 3).

    Args:
        skipped: filled with the images that cannot be read; None: the first of them is an error.
        progress: show a bar, on a terminal.

    Raises:
        ClzooError: no images at all; or an image that cannot be read or is none, named.
    """
    if batch_size < 1:
        raise ClzooError(f"batch_size must be at least 1, found {batch_size}.")

    def attempt(given: tuple[int, Any]) -> np.ndarray | Skipped:
        position, image = given
        name = str(image) if isinstance(image, str | Path) else f"image {position} of the call"
        try:
            return pixels(image)
        except UnreadableImageError as error:
            if skipped is not None:
                return Skipped(position, name, str(error))
            raise ClzooError(f"{name} cannot be decoded: {error}.") from error
        except ClzooError as error:  # no image, or an array of another kind
            raise ClzooError(f"{name}: {error}") from error

    found: Iterable[np.ndarray | Skipped] = mapped_in_order(attempt, enumerate(images), _AHEAD * batch_size)
    if progress:
        found = with_progress(found, len(images) if isinstance(images, Sized) else None, "embedding")

    def readable() -> Iterator[np.ndarray]:
        for result in found:
            if not isinstance(result, Skipped):
                yield result
            elif skipped is not None:
                skipped.append(result)

    nothing = True
    for batch in stacked(readable(), batch_size):
        nothing = False
        yield batch
    if nothing and not skipped:
        raise ClzooError("embed() was given no images; expected one image or a non-empty sequence.")


def require_pixels(pixels: Any, kind: type[Any]) -> None:
    """Refuse what the `encode` of an encoder would take for pixels and is none: it would give vectors of it.

    Raises:
        ClzooError: not a `kind` uint8 (B, H, W, 3).
    """
    usable = isinstance(pixels, kind) and pixels.ndim == 4 and pixels.shape[3] == 3
    if not usable or str(pixels.dtype) not in ("uint8", "torch.uint8"):
        shape = f" {pixels.dtype} {tuple(pixels.shape)}" if hasattr(pixels, "dtype") else ""
        raise ClzooError(
            f"encode takes what `pixels` makes of images, stacked to a {kind.__name__} uint8 (B, H, W, 3); found a "
            f"{type(pixels).__name__}{shape}. To embed images of any kind, call embed."
        )


def check_on_error(on_error: str, single: bool) -> None:
    """Refuse what `on_error` cannot be.

    Raises:
        ClzooError: another word, or "skip" for a single image, of which nothing would be left.
    """
    if on_error not in ("raise", "skip"):
        raise ClzooError(f"on_error must be 'raise' or 'skip', found {on_error!r}.")
    if on_error == "skip" and single:
        raise ClzooError("on_error='skip' is for many images; give a list, also of one.")
