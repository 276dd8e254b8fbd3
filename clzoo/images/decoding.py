"""Decoding one image: whatever a file holds, out comes 8-bit sRGB, upright.

Everything that clzoo calls an image takes this road: files, bytes and PIL images, in every command and in `clzoo.lite`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images.color import to_srgb
from clzoo.images.metadata import PNG, orientation_of, pixels_only

DECODING = 2
"""Version of the rules below, which a store records: images that they treat otherwise have other vectors.

1 ignored embedded profiles and color keys of RGB files, took 16-bit WhiteIsZero for BlackIsZero, 32-bit integers by
their second byte, and PIL images without turning them upright; it turned by XMP where EXIF said nothing.
"""

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused unless `set_max_pixels` allows them (Pillow's own threshold for bombs)."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".avif"}
)
"""File names that are taken for images when a folder is searched, in lower case."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "PPM", "AVIF")
"""What Pillow may open, whatever a file is called. None of their readers starts a process, as PostScript's does."""

_READABLE = frozenset({*_FORMATS, "MPO"})  # as Pillow calls what these give: MPO are several JPEGs in one file

_METADATA = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Where else Pillow looks for an orientation; browsers and other readers look into EXIF alone."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""

_OPENED = tuple(Lock() for _ in range(64))  # one of them belongs to each PIL image: threads must not share its file


_limit = MAX_PIXELS


def max_pixels() -> int:
    """Images with more pixels are refused."""
    return _limit


def set_max_pixels(pixels: int) -> None:
    """Set the largest image that this process decodes from now on (`--max-pixels` of the commands).

    Pillow's own limit (`PIL.Image.MAX_IMAGE_PIXELS`, of the whole process too) is raised with it, and never lowered. An
    image takes 4 bytes a pixel in each thread that decodes, and twice that where its colors are converted.

    Raises:
        ClzooError: less than 1.
    """
    global _limit  # a protection of the process, as Pillow's is; it changes no pixel
    if pixels < 1:
        raise ClzooError(f"max_pixels must be at least 1, found {pixels}.")
    _limit = pixels
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, pixels)


def _too_large(what: str) -> UnreadableImageError:
    return UnreadableImageError(
        f"{what}, the limit is {_limit}; to allow more: --max-pixels N (in Python: clzoo.set_max_pixels(N))"
    )


def decode_image(source: Path | bytes) -> Image.Image:
    """Decode a file or its bytes to an 8-bit sRGB image.

    EXIF orientation is applied; an embedded color profile is converted to sRGB (relative colorimetric), a broken one
    ignored; transparency is laid over white; palette, grey and CMYK are converted; grey of 9 to 16 bits keeps its high
    byte; of an animation the first frame is taken. Metadata that no pixel needs never cost an image, and none stay with
    it. (Our choices; a color-managed browser shows the same.)

    Raises:
        UnreadableImageError: with the reason: missing, empty, truncated, not an image, too many pixels, pixels without
            an agreed range.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:  # missing, unreadable, a symlink loop
        raise UnreadableImageError(error.strerror or str(error)) from error
    if not data:
        raise UnreadableImageError("empty file (zero bytes)")
    # Pillow keeps the texts of a PNG where it keeps what it knows of the pixels: one called "interlace" changes them.
    if data.startswith(PNG) and (pixels := pixels_only(data)) is not None:
        return _decoded(*pixels)
    try:
        return _decoded(data)
    except UnreadableImageError:
        if (pixels := pixels_only(data)) is None:
            raise
        with suppress(UnreadableImageError):  # else the metadata were not to blame
            return _decoded(*pixels)
        raise


def as_rgb(image: Any) -> Image.Image:
    """What users hold -> an RGB image.

    A path, encoded bytes, a file object opened in binary mode, a PIL image, a uint8 (H, W, 3) array, or a float one
    with values in [0, 1].

    A PIL image is treated as the file that it was opened from: upright, in sRGB, transparency over white.

    Raises:
        UnreadableImageError: a file or bytes that cannot be decoded, a PIL image of pixels without an agreed range.
        ClzooError: an array of another shape or type, or something else altogether.
    """
    if isinstance(image, str | Path):
        return decode_image(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if hasattr(image, "read"):
        return decode_image(_content_of(image))
    raise ClzooError(
        f"cannot embed a {type(image).__name__}; expected a path, bytes, a file object, a PIL image or an array."
    )


def as_levels(values: Any) -> Any:
    """Float values in [0, 1] of an array or a tensor -> whole numbers in [0, 255], of the same kind.

    Rounded to 8 bits, so that every kind of input takes the same road through Pillow's antialiased resize.

    Raises:
        ClzooError: values outside of [0, 1], or not finite.
    """
    low, high = (float(value) for value in (values.min(), values.max()))
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ClzooError(
            f"float values must lie in [0, 1], found [{low:.3g}, {high:.3g}]: divide by 255, and do not "
            "normalise them yourself (the encoder does)."
        )
    return (values * 255).round()


def _from_array(array: np.ndarray) -> Image.Image:
    floating = np.issubdtype(array.dtype, np.floating)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape or not (floating or array.dtype == np.uint8):
        turned = array.ndim == 3 and array.shape[0] == 3
        raise ClzooError(
            f"an array must be uint8 (H, W, 3), or float with values in [0, 1]; found {array.dtype} {array.shape}."
            + (" Put the channels last: array.transpose(1, 2, 0)" if turned else "")
        )
    return Image.fromarray(as_levels(np.float32(array)).astype(np.uint8) if floating else array)


def _content_of(file: Any) -> bytes:
    """All bytes of a file object from its start, where it has one; its position stays as it is."""
    try:
        position = file.tell() if file.seekable() else None
        if position is not None:
            file.seek(0)
        content = file.read()
        if position is not None:
            file.seek(position)
    except (OSError, ValueError, AttributeError) as error:  # closed, or write-only
        raise UnreadableImageError(f"the file object cannot be read: {error}") from error
    if not isinstance(content, bytes):
        raise ClzooError(f"a file object must give bytes, found {type(content).__name__}. Open it with mode 'rb'.")
    return content


def _from_pil(image: Image.Image) -> Image.Image:
    if isinstance(image, ImageFile.ImageFile) and image.format not in _READABLE:
        raise UnreadableImageError(
            f"its format, {image.format}, is none that clzoo reads. If you trust the file, give image.copy()"
        )
    with _OPENED[id(image) % len(_OPENED)], _named_failures():
        unread = bool(getattr(image, "tile", None)) and getattr(image, "fp", None) is not None
        if not unread or not _first_frame(image):
            rgb = _finished(image)
            return _bare(rgb.copy() if rgb is image else rgb)
        data = _file_of(image)
    return decode_image(data)


def _first_frame(image: Image.Image) -> bool:
    return int(getattr(image, "tell", lambda: 0)()) == 0


def _file_of(image: Any) -> bytes:
    """The whole file behind an image that Pillow has not decoded yet; its position stays as it is."""
    position = image.fp.tell()
    image.fp.seek(0)
    try:
        content: bytes = image.fp.read()
    finally:
        image.fp.seek(position)
    return content


# One file -----------------------------------------------------------------------------------------------------------


def _decoded(data: bytes, orientation: int | None = None, profile: bytes | None = None) -> Image.Image:
    """Open and finish; orientation and profile are given where they were taken out of the file."""
    with _named_failures(), Image.open(io.BytesIO(data), formats=_formats()) as image:
        if image.width * image.height > _limit:
            raise _too_large(f"{image.width}x{image.height} pixels")
        for name in _METADATA:
            image.info.pop(name, None)
        if profile is not None:
            image.info["icc_profile"] = profile
        alpha = _alpha_by_key(image, data)
        return _bare(_finished(image, orientation, alpha))


def _bare(image: Image.Image) -> Image.Image:
    """The image without what its file said beside the pixels: Pillow writes comments into the next file, or fails."""
    image.info = {}
    return image


def _finished(image: Image.Image, orientation: int | None = None, alpha: Image.Image | None = None) -> Image.Image:
    """Loaded, in sRGB, upright; the image itself if it is all that already."""
    image.load()
    turn = _TURNS.get(orientation or _orientation(image) or 1)
    if alpha is not None:
        image = image.copy()
        del image.info["transparency"]
        image.putalpha(alpha)
    rgb = to_srgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int | None:
    """1 to 8 by the EXIF that came with the image, whatever else is odd in it; Pillow has turned a TIFF already."""
    exif = image.info.get("exif")
    return orientation_of(exif) if isinstance(exif, bytes) else None


def _alpha_by_key(image: Image.Image, data: bytes) -> Image.Image | None:
    """Alpha of a PNG of 2, 4 or 3 x 16 bits with one transparent color, before it is loaded; None for all others.

    The key has the depth of the file, and Pillow's pixels have 8 bits: the key of the shallow ones is scaled here, and
    of the deep ones the low bytes are read too.
    """
    if image.format != "PNG" or "transparency" not in image.info or not getattr(image, "tile", None):
        return None
    depth = image.tile[0][3]  # type: ignore[attr-defined]
    if depth in ("L;2", "L;4"):
        key = image.info["transparency"] * {"L;2": 85, "L;4": 17}[depth]
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    if depth == "RGB;16B":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as low:
            low.tile = [low.tile[0]._replace(args="RGB;16L")]
            high_bytes, low_bytes = np.divmod(image.info["transparency"], 256)  # (3,) each
            is_key = (np.asarray(image) == high_bytes).all(axis=2) & (np.asarray(low) == low_bytes).all(axis=2)
        return Image.fromarray(np.where(is_key, 0, 255).astype(np.uint8))
    return None


@contextmanager
def _named_failures() -> Iterator[None]:
    """Whatever a decoder raises becomes an UnreadableImageError with the reason."""
    try:
        yield
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large("too many pixels") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError("not an image that Pillow can read") from error
    except OSError as error:  # truncated
        raise UnreadableImageError(error.strerror or str(error)) from error
    except Exception as error:  # a decoder's own failure on damaged data (SyntaxError, ValueError, struct.error ...)
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
