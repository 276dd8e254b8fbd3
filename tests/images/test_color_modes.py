"""to_srgb by way of decode_image: color keys, bit depths and embedded profiles give the colors that were meant."""

from __future__ import annotations

import io
import struct
import zlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from clzoo.errors import UnreadableImageError
from clzoo.images import decode_image
from clzoo.images.color import changes_nothing, to_srgb

WHITE = (255, 255, 255)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(width: int, depth: int, color: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: Pillow writes neither 16-bit RGB nor color keys below 8 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = b"".join(chunk(*each) for each in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(bits: int, photometric: int, data: bytes, *, format: int = 1) -> bytes:
    """An uncompressed little-endian grey TIFF of 8 x 8 pixels; format 1: unsigned, 2: signed, 3: floating point."""
    entries = [(256, 4, 8), (257, 4, 8), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 0)]
    entries += [(277, 3, 1), (278, 4, 8), (279, 4, len(data)), (339, 3, format)]
    start = 8 + 2 + 12 * len(entries) + 4
    values = [
        struct.pack("<HH" if kind == 3 else "<I", *((v, 0) if kind == 3 else (v or start,))) for _, kind, v in entries
    ]
    body = b"".join(struct.pack("<HHI", tag, kind, 1) + v for (tag, kind, _), v in zip(entries, values, strict=True))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + data


def profile(gamma: float, primaries: list[tuple[float, float, float]] | None = None) -> bytes:
    """A matrix profile (RGB) or a grey one of a pure power curve, written by hand."""
    s15 = lambda *v: b"".join(struct.pack(">i", round(x * 65536)) for x in v)  # noqa: E731
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = [(b"desc", description), (b"wtpt", b"XYZ \0\0\0\0" + s15(0.9642, 1, 0.8249))]
    if primaries is None:
        tags += [(b"kTRC", curve)]
    else:
        for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True):
            tags += [(name + b"XYZ", b"XYZ \0\0\0\0" + s15(*xyz)), (name + b"TRC", curve)]
    space = b"GRAY" if primaries is None else b"RGB "
    return icc_file(b"mntr", space, b"XYZ ", tags)


def icc_file(kind: bytes, space: bytes, connection: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    """Header, table of tags, tags."""
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags:
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size, date = 128 + len(table) + len(body), struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, kind, space, connection) + date + b"acsp" + bytes(28)
    white = b"".join(struct.pack(">i", round(x * 65536)) for x in (0.9642, 1, 0.8249))
    return head + white + bytes(48) + table + body


PROPHOTO = [(0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03135, 0.00009, 0.82521)]
ADOBE = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
WIDE = {"ProPhoto": profile(1.8, PROPHOTO), "Adobe RGB": profile(2.2, ADOBE)}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def colors() -> np.ndarray:
    y, x = np.mgrid[:64, :96]
    return np.stack([120 + x, 60 + y, 90 + (x + y) // 2], 2).clip(0, 255).astype(np.uint8)


# Color keys ---------------------------------------------------------------------------------------------------------


def test_the_key_color_of_an_rgb_png_is_transparent() -> None:
    row = bytes((10, 20, 30)) + bytes((10, 20, 31))
    decoded = decode_image(png(2, 8, 2, [row], (b"tRNS", struct.pack(">HHH", 10, 20, 30))))
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [WHITE, (10, 20, 31)]


def test_the_key_color_of_16_bit_rgb_is_compared_at_full_depth() -> None:
    row = struct.pack(">6H", 0x0A01, 0x1402, 0x1E03, 0x0A01, 0x1402, 0x1E04)
    decoded = decode_image(png(2, 16, 2, [row], (b"tRNS", struct.pack(">HHH", 0x0A01, 0x1402, 0x1E03))))
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [WHITE, (10, 20, 30)]


def test_the_key_grey_of_16_bits_is_compared_at_full_depth() -> None:
    decoded = decode_image(png(2, 16, 0, [struct.pack(">HH", 0x4001, 0x4002)], (b"tRNS", struct.pack(">H", 0x4001))))
    assert [decoded.getpixel((x, 0)) for x in range(2)] == [WHITE, (64, 64, 64)]


@pytest.mark.parametrize(
    ("depth", "row", "shown"), [(1, b"\x40", 255), (2, b"\x10", 85), (4, b"\x01", 17), (8, b"\0\1", 1)]
)
def test_the_key_grey_of_shallow_pngs_has_their_depth(depth: int, row: bytes, shown: int) -> None:
    """Two pixels, 0 and 1: first 0 is the key, then 1."""
    for key, expected in ((0, (255, shown)), (1, (0, 255))):
        decoded = decode_image(png(2, depth, 0, [row], (b"tRNS", struct.pack(">H", key))))
        assert tuple(decoded.getpixel((x, 0))[0] for x in range(2)) == expected


def test_colors_multiplied_by_alpha_are_divided_again() -> None:
    multiplied = Image.new("RGBA", (4, 4), (200, 100, 50, 128)).convert("RGBa")
    assert np.allclose(np.asarray(to_srgb(multiplied))[0, 0], (228, 177, 152), atol=2)


# Grey ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "stored"), [(8, bytes(64)), (16, bytes(128))])
def test_white_is_zero_at_every_depth(bits: int, stored: bytes) -> None:
    assert decode_image(tiff(bits, 0, stored)).getpixel((0, 0)) == WHITE
    assert decode_image(tiff(bits, 1, stored)).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(("bits", "format", "kind"), [(32, 1, "32-bit"), (32, 2, "32-bit"), (16, 2, "signed 16-bit")])
def test_integers_without_an_agreed_range_are_refused(bits: int, format: int, kind: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"{kind} integer pixels have no agreed range"):
        decode_image(tiff(bits, 1, bytes(64 * bits // 8), format=format))


def test_12_bits_are_scaled_by_12_bits() -> None:
    packed = np.frombuffer(bytes.fromhex("fff800") * 32, np.uint8)  # 4095, 2048, 4095, ...
    assert [decode_image(tiff(12, 1, packed.tobytes())).getpixel((x, 0))[0] for x in range(2)] == [255, 128]


def test_a_portable_graymap_of_16_bits_keeps_its_high_byte() -> None:
    assert decode_image(b"P5 2 1 65535 \x80\x01\xff\xff").getpixel((0, 0)) == (128, 128, 128)


# Profiles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_a_wide_color_space_is_converted_to_srgb(format: str, name: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    wide = ImageCms.ImageCmsProfile(io.BytesIO(WIDE[name]))
    stored = ImageCms.profileToProfile(Image.fromarray(colors()), SRGB, wide, renderingIntent=1)
    del stored.info["icc_profile"]  # else it is saved unasked
    options: dict[str, Any] = {
        "JPEG": {"quality": 98, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 98},
    }
    data = encoded(stored, format, icc_profile=WIDE[name], **options.get(format, {}))
    error = np.abs(np.asarray(decode_image(data)).astype(int) - colors()).mean()
    assert error < 2
    without = np.abs(
        np.asarray(decode_image(encoded(stored, format, **options.get(format, {})))).astype(int) - colors()
    ).mean()
    assert without > 2 * error + 2  # the profile matters


def test_alpha_and_palettes_have_profiles_too() -> None:
    stored = Image.new("RGB", (4, 4), (200, 60, 60))
    shown = decode_image(encoded(stored, "PNG", icc_profile=WIDE["ProPhoto"])).getpixel((0, 0))
    assert shown != (200, 60, 60)
    rgba = stored.copy()
    rgba.putalpha(255)
    assert decode_image(encoded(rgba, "PNG", icc_profile=WIDE["ProPhoto"])).getpixel((0, 0)) == shown
    palette = stored.quantize(2)
    assert decode_image(encoded(palette, "PNG", icc_profile=WIDE["ProPhoto"])).getpixel((0, 0)) == shown


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile_is_applied_at_every_depth(mode: str) -> None:
    grey = np.full((4, 4), 128 << 8 if mode == "I;16" else 128, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(grey)
    data = encoded(image.convert("LA") if mode == "LA" else image, "PNG", icc_profile=profile(1.0))
    assert decode_image(data).getpixel((0, 0))[0] in range(186, 190)  # linear light 0.5


def colorless_inks() -> bytes:
    """A profile of a printer whose inks are all grey: lightness 100 less what the four of them take together."""
    ramp = bytes(range(256))
    nodes = [bytes([255 * max(0, 4 - c - m - y - k) // 4, 128, 128]) for c, m, y, k in product((0, 1), repeat=4)]
    head = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])  # four inks to Lab, two nodes each
    matrix = b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    table = head + matrix + ramp * 4 + b"".join(nodes) + ramp * 3
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    return icc_file(b"prtr", b"CMYK", b"Lab ", [(b"desc", description), (b"A2B0", table), (b"A2B1", table)])


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_own_profile_and_never_by_one_of_rgb(format: str) -> None:
    cmyk = Image.new("CMYK", (16, 16), (200, 30, 30, 20))
    options = {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    red, _, blue = plain = decode_image(encoded(cmyk, format, **options)).getpixel((8, 8))
    assert blue - red > 100  # cyan
    assert decode_image(encoded(cmyk, format, icc_profile=WIDE["Adobe RGB"], **options)).getpixel((8, 8)) == plain
    grey = decode_image(encoded(cmyk, format, icc_profile=colorless_inks(), **options)).getpixel((8, 8))
    lightness = 100 * (1 - (200 + 30 + 30 + 20) / 255 / 4)  # 72.5, of which sRGB makes 177
    assert lightness == pytest.approx(72.5, abs=0.1)
    assert np.allclose(grey, 177, atol=3)


@pytest.mark.parametrize("broken", [b"nonsense", WIDE["ProPhoto"][:200], bytes(3000)], ids=["text", "cut off", "zeros"])
def test_a_broken_profile_is_ignored(broken: bytes) -> None:
    image = Image.fromarray(colors())
    assert (np.asarray(decode_image(encoded(image, "PNG", icc_profile=broken))) == colors()).all()


def test_srgb_in_any_spelling_leaves_the_pixels_as_they_are() -> None:
    ours = SRGB.tobytes()
    assert changes_nothing(ours)
    assert changes_nothing(None)
    assert not any(changes_nothing(wide) for wide in WIDE.values())
    assert (np.asarray(decode_image(encoded(Image.fromarray(colors()), "PNG", icc_profile=ours))) == colors()).all()
