"""From the colors that a file has to 8-bit sRGB: bit depths, color keys, alpha, embedded profiles."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from clzoo.errors import UnreadableImageError

_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}
"""Modes that an embedded profile may be of, and what the profile calls them."""

_TIFF_PHOTOMETRIC, _TIFF_BITS = 262, 258
_WHITE_IS_ZERO = 0
_SAME = 2  # levels of 255 by which two ways of writing sRGB differ


def to_srgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode -> RGB: high bytes of 16-bit grey, sRGB by the embedded profile, alpha over white.

    It is the image itself where nothing is to be done.

    Raises:
        UnreadableImageError: pixels without an agreed range (32-bit integers, floating point).
    """
    colors, alpha = _split(image)
    rgb = _managed(colors, image.info.get("icc_profile"))
    if alpha is None or (image.format == "BMP" and alpha.getextrema() == (0, 0)):  # a fourth byte that nobody filled
        return rgb
    rgba = rgb.copy() if rgb is image else rgb
    rgba.putalpha(alpha)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def changes_nothing(profile: Any, mode: str = "RGB") -> bool:
    """Whether colors of this mode stay as they are under a profile: none, sRGB in any spelling, or a broken one."""
    return not isinstance(profile, bytes) or _transform(profile, mode) is None


# Colors and alpha ---------------------------------------------------------------------------------------------------


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """(colors in RGB, L, CMYK or LAB; alpha in L, or None)."""
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):
        return _from_integers(image)
    if mode == "F":
        raise UnreadableImageError("floating-point pixels have no agreed range; convert the file to 8 bits")
    if mode in ("1", "L", "RGB") and "transparency" in image.info:
        return _by_key(image)
    if mode in ("La", "RGBa"):  # colors multiplied by alpha
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    elif mode == "PA" or (mode == "P" and _transparent_palette(image)):
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    if image.mode in _SPACES:
        return image, None
    return image.convert("L" if mode == "1" else "RGB"), None


def _transparent_palette(image: Image.Image) -> bool:
    return "transparency" in image.info or (image.palette is not None and image.palette.mode.endswith("A"))


def _from_integers(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Grey of 9 to 16 bits: the high byte; its key color is compared at full depth."""
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    bits = 16 if tags is None else int(np.max(tags.get(_TIFF_BITS, 16)))
    if image.mode == "I" and image.format not in ("PNG", "PPM", "JPEG2000"):
        kind = "signed 16-bit" if tags is not None and bits == 16 else "32-bit"
        raise UnreadableImageError(f"{kind} integer pixels have no agreed range; convert the file to 8 bits")
    values = np.asarray(image)  # (H, W) of 16 or 32 bits
    grey = np.clip(values >> (bits - 8), 0, 255).astype(np.uint8)
    if tags is not None and tags.get(_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO:
        grey = 255 - grey
    key = image.info.get("transparency")
    alpha = None if not isinstance(key, int) else Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    return Image.fromarray(grey), alpha


def _by_key(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """One color of the image is transparent."""
    colors = image.convert("L") if image.mode == "1" else image
    key = np.atleast_1d(np.asarray(image.info["transparency"], np.int64))  # (channels,)
    if key.max() > 255:  # of a 16-bit file, whose pixels have kept their high byte
        key >>= 8
    pixels = np.asarray(colors)
    is_key = (pixels.reshape(*pixels.shape[:2], -1) == key).all(axis=2)  # (H, W)
    return colors, Image.fromarray(np.where(is_key, 0, 255).astype(np.uint8))


# Profiles -----------------------------------------------------------------------------------------------------------


def _managed(colors: Image.Image, profile: Any) -> Image.Image:
    """RGB, L, CMYK or LAB -> RGB in sRGB, by the profile where it is one and changes anything."""
    if not isinstance(profile, bytes):
        profile = b""
    if colors.mode == "LAB":
        profile = profile or _lab()
    transform = _transform(profile, colors.mode) if profile else None
    if transform is not None:
        from PIL import ImageCms

        converted = ImageCms.applyTransform(colors, transform)
        assert converted is not None  # only in place there is none
        return converted
    return colors if colors.mode == "RGB" else colors.convert("RGB")


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any:
    """littleCMS's transform of a mode to sRGB, relative colorimetric; None where colors stay as they are.

    They do under a profile that is damaged or of another color space than the pixels (browsers ignore those too), and
    under one that moves no color by more than 2 of 255 levels: sRGB, in one of its many spellings.
    """
    try:
        from PIL import ImageCms

        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except ImportError as error:
        raise UnreadableImageError(
            "its colors need littleCMS, which this Pillow was built without. Type: pip install --force-reinstall pillow"
        ) from error
    except (OSError, ValueError, TypeError):
        return None
    if opened.profile.xcolor_space != _SPACES.get(mode):
        return None
    try:
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.NOCACHE,  # one transform serves all threads
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode in ("RGB", "L"):
        samples = _samples(mode)
        moved = np.asarray(ImageCms.applyTransform(samples, transform), np.int64) - np.asarray(samples.convert("RGB"))
        if np.abs(moved).max() <= _SAME:
            return None
    return transform


def _samples(mode: str) -> Image.Image:
    """Colors all over the space, one pixel each."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)  # 16 of each channel
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1)  # (16, 16, 16, 3)
    return Image.fromarray(grid.reshape(64, 64, 3))


@lru_cache(maxsize=1)
def _lab() -> bytes:
    """Lab pixels need a profile to become RGB; files seldom hold one."""
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
