"""An image whose pixels are whole is never lost for its metadata."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from clzoo.data.images import decode_image
from clzoo.data.metadata import orientation_of, pixels_only
from clzoo.errors import UnreadableImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def encoded(format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format, **options)
    return file.getvalue()


def exif(order: str, *entries: tuple[int, int, int, bytes], orientation: int = 6) -> bytes:
    """One directory: the orientation, then `entries` (tag, type, count, 4 bytes)."""
    every = [(0x112, 3, 1, struct.pack(order + "HH", orientation, 0)), *entries]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(every))
    return head + b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in every) + bytes(4)


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    data = encoded("JPEG")
    extra = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content for marker, content in segments
    )
    return data[:2] + extra + data[2:]


def png_with(kind: bytes, content: bytes, *, wrong: int = 0) -> bytes:
    data = encoded("PNG")
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ wrong)
    return data[:33] + chunk + data[33:]  # behind IHDR


ODD_ENTRIES = {
    "XResolution -1/0": (0x11A, 10, 1, struct.pack("<I", 8)),
    "XResolution as text": (0x11A, 2, 3, b"72\0\0"),
    "a description that is a number": (0x10E, 5, 1, struct.pack("<I", 8)),
    "an entry of an unknown type": (0x131, 99, 1, bytes(4)),
    "an offset behind the end": (0x132, 2, 20, struct.pack("<I", 1 << 30)),
    "a directory that is its own": (0x8769, 4, 1, struct.pack("<I", 8)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("entry", ODD_ENTRIES.values(), ids=ODD_ENTRIES)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_costs_neither_the_picture_nor_its_orientation(
    format: str, entry: tuple[int, int, int, bytes]
) -> None:
    decoded = decode_image(encoded(format, exif=b"Exif\0\0" + exif("<", entry)))
    assert decoded.size == (32, 48)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("entry", list(ODD_ENTRIES.values())[:3], ids=list(ODD_ENTRIES)[:3])
def test_odd_tags_of_a_turned_tiff(entry: tuple[int, int, int, bytes]) -> None:
    plain = encoded("TIFF")
    (start,) = struct.unpack_from("<I", plain, 4)
    (count,) = struct.unpack_from("<H", plain, start)
    old = [plain[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    ours = [struct.pack("<HHIHH", 0x112, 3, 1, 6, 0), struct.pack("<HHI", *entry[:3]) + entry[3]]
    replaced = {struct.unpack_from("<H", each)[0] for each in ours}
    entries = sorted([*[each for each in old if struct.unpack_from("<H", each)[0] not in replaced], *ours])
    data = plain[:4] + struct.pack("<I", len(plain)) + plain[8:]
    decoded = decode_image(data + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    assert (np.asarray(decoded) == np.rot90(PIXELS, -1)).all()


def test_large_or_damaged_chunks_that_hold_no_pixels() -> None:
    text = b"workflow\0\0" + zlib.compress(b'{"id":1},' * 150_000)
    for data in (
        png_with(b"zTXt", text),
        png_with(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
        png_with(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000))),
        png_with(b"tEXt", b"Software\0paint", wrong=1),
        png_with(b"pHYs", b"\0\0", wrong=1),
        png_with(b"eXIf", b"nonsense"),
        png_with(b"acTL", b"\0"),
    ):
        assert (np.asarray(decode_image(data)) == PIXELS).all()


def test_a_large_profile_still_counts_when_other_chunks_are_left_out() -> None:
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    data = png_with(b"iCCP", b"icc\0\0" + zlib.compress(wide + bytes(1_500_000)))
    pixels = pixels_only(data)
    assert pixels is not None
    assert pixels.profile == wide + bytes(1_500_000)


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO:UserWarning")
def test_segments_of_a_jpeg_that_are_damaged() -> None:
    for segment in (
        (0xE1, b"Exif\0\0" + b"garbage"),
        (0xE2, b"MPF\0II*\0" + bytes(3)),
        (0xED, b"Photoshop 3.0\x008BIM\xff"),
        (0xFE, b"\xff" * 60_000),
    ):
        assert decode_image(jpeg_with(segment)).size == (48, 32)


def test_damaged_pixels_are_refused_as_before() -> None:
    data = bytearray(png_with(b"tEXt", b"Software\0paint", wrong=1))
    data[-30] ^= 1  # in IDAT
    with pytest.raises(UnreadableImageError):
        decode_image(bytes(data))
    with pytest.raises(UnreadableImageError):
        decode_image(png_with(b"tEXt", b"a\0b", wrong=1)[:-200])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_the_orientation_is_read_in_both_byte_orders(order: str, value: int) -> None:
    assert orientation_of(exif(order, orientation=value)) == value
    assert orientation_of(exif(order, orientation=value)[:18]) is None


def test_random_bytes_in_the_metadata_never_raise() -> None:
    rng = np.random.default_rng(seed := 11)
    print("seed", seed)
    for _ in range(300):
        noise = rng.bytes(int(rng.integers(0, 60)))
        assert orientation_of(exif("<")[:8] + noise) is None
        for start in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"II*\0", b"MM\0*"):
            pixels_only(start + noise)
