"""An image whose pixels are whole is never lost for its metadata."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from clzoo.errors import UnreadableImageError
from clzoo.images import as_rgb, decode_image
from clzoo.images.metadata import orientation_of, pixels_only

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


@pytest.mark.parametrize("key", ["interlace", "transparency", "bbox", "icc_profile", "exif", "default_image", "xmp"])
def test_a_text_is_never_taken_for_what_pillow_calls_by_its_name(key: str) -> None:
    """Pixels of one color, for which a wrong order of the rows or a wrong key would raise nothing."""
    file = io.BytesIO()
    Image.fromarray(np.arange(0, 32, dtype=np.uint8)[:, None].repeat(48, 1)).save(file, "PNG", compress_level=0)
    plain = file.getvalue()
    text = key.encode() + b"\0" + b"1"
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    for data in (plain[:33] + chunk + plain[33:], plain[:-12] + chunk + plain[-12:]):
        assert (np.asarray(decode_image(data)) == np.asarray(decode_image(plain))).all()


def test_a_damaged_transparency_is_left_out_as_libpng_does() -> None:
    key = struct.pack(">HHH", *PIXELS[0, 0].tolist())
    assert decode_image(png_with(b"tRNS", key)).getpixel((0, 0)) == (255, 255, 255)
    for data in (png_with(b"tRNS", key, wrong=1), png_with(b"tRNS", key[:1])):
        assert (np.asarray(decode_image(data)) == PIXELS).all()


@pytest.mark.parametrize("place", ["EXIF", "XMP"])
def test_the_orientation_is_that_of_exif_alone(place: str) -> None:
    """As browsers, libvips and OpenCV have it; Pillow looks into XMP too."""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options = {"exif": b"Exif\0\0" + exif("<")} if place == "EXIF" else {"xmp": xmp}
    for format in ("JPEG", "WEBP", "AVIF") if features.check("avif") else ("JPEG", "WEBP"):
        assert decode_image(encoded(format, **options)).size == ((32, 48) if place == "EXIF" else (48, 32)), format


@pytest.mark.filterwarnings("error")
def test_warnings_that_are_errors_change_nothing() -> None:
    entry = (0x132, 2, 20, struct.pack("<I", 1 << 30))
    for format in ("JPEG", "PNG", "WEBP"):
        assert decode_image(encoded(format, exif=b"Exif\0\0" + exif("<", entry))).size == (32, 48)


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_the_orientation_may_be_written_as_a_number_of_any_length(kind: int) -> None:
    value = {1: bytes([6, 0, 0, 0]), 3: struct.pack("<HH", 6, 0), 4: struct.pack("<I", 6)}[kind]
    block = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHI", 0x112, kind, 1) + value + bytes(4)
    assert orientation_of(block) == orientation_of(b"Exif\0\0" * 2 + block) == 6


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_exif_that_is_none_costs_no_avif() -> None:
    data = encoded("AVIF", exif=exif("<", (0x131, 2, 3, b"ab\0\0"), orientation=6))  # Pillow writes the turn elsewhere
    (header,) = {start for start in (b"II*\0", b"MM\0*") if start in data}
    assert decode_image(data.replace(header, b"none")).size == decode_image(data).size == (32, 48)


def test_metadata_that_a_webp_announces_and_does_not_hold() -> None:
    data = encoded("WEBP", lossless=True, exif=b"Exif\0\0" + exif("<"), icc_profile=b"nonsense")
    at = data.index(b"EXIF")
    turned = np.rot90(PIXELS, -1)
    assert (np.asarray(decode_image(data)) == turned).all()
    assert (np.asarray(decode_image(data[:at])) == PIXELS).all()
    assert (np.asarray(decode_image(data[: at + 4] + struct.pack("<I", 5000) + data[at + 8 :])) == turned).all()


TIFF_TAGS = {
    "resolution as text": [(296, 3, 1, struct.pack("<HH", 3, 0)), (282, 2, 3, b"72\0\0")],
    "a profile that is text": [(34675, 2, 3, b"ab\0\0")],
    "a profile that is a number": [(34675, 3, 1, struct.pack("<HH", 3, 0))],
    "a description of 1 GB": [(270, 2, 1 << 30, struct.pack("<I", 8))],
    "a directory of EXIF that is its own": [(34665, 4, 1, struct.pack("<I", 8))],
    "an orientation that is text": [(274, 2, 2, b"6\0\0\0")],
    "XMP of numbers": [(700, 3, 1, struct.pack("<HH", 3, 0))],
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tags", TIFF_TAGS.values(), ids=TIFF_TAGS)
@pytest.mark.parametrize("big", [False, True], ids=["TIFF", "BigTIFF"])
def test_odd_tags_cost_no_tiff(tags: list[tuple[int, int, int, bytes]], big: bool) -> None:
    strip = PIXELS.tobytes()
    offset, counter, head = ("Q", "Q", 16) if big else ("I", "H", 8)
    entries = {256: (4, 1, 48), 257: (4, 1, 32), 259: (3, 1, 1), 262: (3, 1, 2), 277: (3, 1, 3), 278: (4, 1, 32)}
    entries |= {273: (4, 1, head), 279: (4, 1, len(strip)), 258: (3, 1, 8)}
    width = 8 if big else 4
    packed = {
        tag: struct.pack("<HH" + offset, tag, *e[:2]) + e[2].to_bytes(width, "little") for tag, e in entries.items()
    }
    packed |= {
        tag: struct.pack("<HH" + offset, tag, kind, count) + value.ljust(width, b"\0")
        for tag, kind, count, value in tags
    }
    directory = struct.pack("<" + counter, len(packed)) + b"".join(packed[tag] for tag in sorted(packed)) + bytes(width)
    header = (b"II+\0" + struct.pack("<HH", 8, 0)) if big else b"II*\0"
    data = header + struct.pack("<" + offset, head + len(strip)) + strip + directory
    assert (np.asarray(decode_image(data)) == PIXELS).all()
    assert pixels_only(data) is not None


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO:UserWarning")
def test_segments_of_a_jpeg_that_are_damaged() -> None:
    for segment in (
        (0xE1, b"Exif\0\0" + b"garbage"),
        (0xE2, b"MPF\0II*\0" + bytes(3)),
        (0xED, b"Photoshop 3.0\x008BIM\xff"),
        (0xFE, b"\xff" * 60_000),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\1\5abc"),
        (0xE0, b"JFIF"),
        (0xEE, b"Adobe"),
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\2ab"),
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


@pytest.mark.parametrize("format", ["GIF", "JPEG"])
def test_nothing_that_a_file_says_beside_its_pixels_goes_into_the_next_one(format: str) -> None:
    comment = b"where I live" + bytes(70_000 if format == "GIF" else 0)  # longer than a JPEG can hold
    data = encoded(format, comment=comment)
    for image in (decode_image(data), as_rgb(Image.open(io.BytesIO(data)))):
        file = io.BytesIO()
        image.save(file, "JPEG")
        assert b"where I live" not in file.getvalue()
    opened = Image.open(io.BytesIO(data))
    as_rgb(opened)
    assert opened.info["comment"] == comment  # the caller's own


def test_random_bytes_in_the_metadata_never_raise() -> None:
    rng = np.random.default_rng(seed := 11)
    print("seed", seed)
    for _ in range(300):
        noise = rng.bytes(int(rng.integers(0, 60)))
        assert orientation_of(exif("<")[:8] + noise) is None
        for start in (
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8",
            b"II*\0",
            b"MM\0*",
            b"II+\0",
            b"RIFF0000WEBP",
            b"0000ftypinfe",
        ):
            pixels_only(start + noise)
