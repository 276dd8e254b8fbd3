"""Decoding one image: whatever a file holds, out comes 8-bit RGB, upright."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clzoo.errors import ClzooError, UnreadableImageError

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused (Pillow's own warning threshold for decompression bombs)."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".avif"}
)
"""File names that are taken for images when a folder is searched, in lower case."""


def decode_image(source: Path | bytes) -> Image.Image:
    """Decode a file or its bytes to an 8-bit RGB image.

    EXIF orientation is applied; transparency is laid over white; palette, grey and CMYK are converted; 16-bit grey
    keeps its high byte; of an animation the first frame is taken. (Our choices; a browser shows the same.)

    Raises:
        UnreadableImageError: with the reason: missing, empty, truncated, not an image, too many pixels.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(f"{image.width}x{image.height} pixels, the limit is {MAX_PIXELS}")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"too many pixels, the limit is {MAX_PIXELS}") from error
    except Image.UnidentifiedImageError as error:
        empty = len(source) == 0 if isinstance(source, bytes) else source.stat().st_size == 0
        raise UnreadableImageError(
            "empty file (zero bytes)" if empty else "not an image that Pillow can read"
        ) from error
    except OSError as error:  # missing, unreadable, a symlink loop, truncated
        raise UnreadableImageError(error.strerror or str(error)) from error
    except Exception as error:  # a decoder's own failure on damaged data (SyntaxError, ValueError, struct.error ...)
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def as_rgb(image: str | Path | bytes | Image.Image | np.ndarray) -> Image.Image:
    """What users hold -> an RGB image: a path, encoded bytes, a PIL image, or a uint8 (H, W, 3) array.

    Raises:
        UnreadableImageError: a file or bytes that cannot be decoded.
        ClzooError: an array of another shape or type, or something else altogether.
    """
    if isinstance(image, str | Path):
        return decode_image(Path(image))
    if isinstance(image, bytes):
        return decode_image(image)
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ClzooError(f"an array must be uint8 (H, W, 3), found {image.dtype} {image.shape}.")
        return Image.fromarray(image)
    raise ClzooError(f"cannot embed a {type(image).__name__}; expected a path, bytes, a PIL image or a uint8 array.")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey, opened as I;16* or (by some decoders) as 32-bit I
        high_byte = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(high_byte).convert("RGB")
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels have no agreed range; convert the file to 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
