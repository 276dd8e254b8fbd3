"""Files whose pixels are whole and whose metadata are odd: the same file without them.

Pillow reads some metadata strictly: a text chunk that is too large, a wrong checksum of a comment or an odd EXIF entry
costs the picture. `pixels_only` leaves out all that no pixel needs, for a second try. Nothing is decoded here.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEY = {0: 2, 2: 6, 3: 1}  # bytes that transparency takes at least, by the color type of the file
_MAX_PROFILE = 16 << 20  # bytes of an inflated profile
_ORIENTATION = 0x0112
_FORMATS = {1: "B", 3: "H", 4: "I"}  # EXIF types that an orientation is written in
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_BIGTIFF_ORDERS = {b"II+\0": "<", b"MM\0+": ">"}
_TIFF_PIXELS = frozenset(
    {*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332, 338, 339, 347}
    | {*range(512, 522), *range(529, 533)}
)
"""Tags that say what the pixels are: size, depth, compression, strips and tiles, palette."""
_PROFILE, _UNDEFINED, _SHORT = 34675, 7, 3
_JPEG_LEAST = {0xE0: 14, 0xEE: 12}  # bytes of the segments that tell the colors (JFIF, Adobe); libjpeg ignores shorter
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_FLAGS = 0x12  # alpha, animation; the others announce metadata
_AVIF_METADATA = (b"Exif", b"mime")


class Pixels(NamedTuple):
    """A file without its metadata, and those of them that its pixels need. None: see what the file says."""

    data: bytes
    orientation: int | None = None
    profile: bytes | None = None


def pixels_only(data: bytes) -> Pixels | None:
    """A PNG, JPEG, TIFF, WebP or AVIF without metadata; None for others and for files whose frame is damaged."""
    try:
        if data.startswith(PNG):
            return _of_png(data)
        if data.startswith(b"\xff\xd8"):
            return _of_jpeg(data)
        if data[:4] in _TIFF_ORDERS or data[:4] in _BIGTIFF_ORDERS:
            return _of_tiff(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _of_webp(data)
        if data[4:8] == b"ftyp":
            return _of_avif(data)
    except (
        struct.error,
        IndexError,
        OverflowError,
    ):  # cut off in the middle of a header, or an offset beyond all files
        pass
    return None


def orientation_of(exif: bytes) -> int | None:
    """The orientation in a block of EXIF, whatever else is wrong with it; None where there is none."""
    exif = re.sub(rb"\A(Exif\0\0){1,2}", b"", exif[:12]) + exif[12:]
    order = _TIFF_ORDERS.get(exif[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", exif, entry)
            if tag == _ORIENTATION and kind in _FORMATS and length * struct.calcsize(_FORMATS[kind]) in range(1, 5):
                (value,) = struct.unpack_from(order + _FORMATS[kind], exif, entry + 8)
                return int(value)
    except struct.error:
        pass
    return None


def _of_png(data: bytes) -> Pixels:
    """Critical chunks, and a transparency that is whole; libpng leaves out the same."""
    kept, orientation, profile, position, color = [PNG], None, None, len(PNG), 0
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        whole = data[position : position + 12 + length]
        if kind == b"IHDR":
            color = content[9]
        if kind[:1].isupper():
            kept.append(whole)
        elif whole[-4:] == struct.pack(">I", zlib.crc32(kind + content)):
            if kind == b"tRNS" and length >= _PNG_KEY.get(color, 1 << 31):
                kept.append(whole)
            elif kind == b"eXIf":
                orientation = orientation_of(content)
            elif kind == b"iCCP":
                profile = _inflated(content.partition(b"\0")[2][1:])
        position += 12 + length
        if kind == b"IEND":
            break
    return Pixels(b"".join(kept), orientation, profile)


def _inflated(data: bytes) -> bytes | None:
    try:
        inflater = zlib.decompressobj()
        profile = inflater.decompress(data, _MAX_PROFILE)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def _of_jpeg(data: bytes) -> Pixels:
    kept, orientation, position = [data[:2]], None, 2
    parts: dict[int, bytes] = {}  # of the profile, by number
    while data[position] == 0xFF and data[position + 1] != 0xDA:  # up to the first scan
        if data[position + 1] == 0xFF:  # a filling byte
            position += 1
            continue
        marker = data[position + 1]
        (length,) = struct.unpack_from(">H", data, position + 2)
        segment = data[position : position + 2 + length]
        content = segment[4:]
        if marker == 0xE1 and content.startswith(b"Exif\0\0") and orientation is None:
            orientation = orientation_of(content)
        elif marker == 0xE2 and content.startswith(b"ICC_PROFILE\0") and len(content) > 14:
            parts[content[12]] = content[14:]
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or len(content) >= _JPEG_LEAST.get(marker, 1 << 16):
            kept.append(segment)
        position += 2 + length
    profile = b"".join(parts[number] for number in sorted(parts)) or None
    return Pixels(b"".join([*kept, data[position:]]), orientation, profile)


def _of_tiff(data: bytes) -> Pixels:
    """A new directory behind the file; what its entries point to stays where it is."""
    big = data[:4] in _BIGTIFF_ORDERS
    order = _BIGTIFF_ORDERS[data[:4]] if big else _TIFF_ORDERS[data[:4]]
    offset, counter, size, head = ("Q", "Q", 20, 16) if big else ("I", "H", 12, 8)
    (start,) = struct.unpack_from(order + offset, data, head // 2)
    (count,) = struct.unpack_from(order + counter, data, start)
    first = start + struct.calcsize(order + counter)
    entries = [data[at : at + size] for at in range(first, min(first + size * count, len(data)), size)]
    kept = [entry for entry in entries if _tells_pixels(*struct.unpack_from(order + "HH", entry))]
    # No further image follows.
    directory = struct.pack(order + counter, len(kept)) + b"".join(kept) + bytes(struct.calcsize(order + offset))
    padded = data[head:] + bytes(len(data) % 2)
    header = data[: head // 2] + struct.pack(order + offset, head + len(padded))
    return Pixels(header + padded + directory)


def _tells_pixels(tag: int, kind: int) -> bool:
    return (
        tag in _TIFF_PIXELS or (tag == _ORIENTATION and kind == _SHORT) or (tag == _PROFILE and kind in (1, _UNDEFINED))
    )


def _of_webp(data: bytes) -> Pixels:
    kept, orientation, profile, position = [], None, None, 12
    while position + 8 <= len(data):
        kind, (length,) = data[position : position + 4], struct.unpack_from("<I", data, position + 4)
        whole = data[position : position + 8 + length + length % 2]
        if kind == b"VP8X":
            whole = whole[:8] + bytes([whole[8] & _WEBP_FLAGS]) + whole[9:]
        elif kind == b"EXIF":
            orientation = orientation_of(whole[8:])
        elif kind == b"ICCP":
            profile = whole[8 : 8 + length]
        if kind in _WEBP_PIXELS:
            kept.append(whole)
        position += len(whole)
    body = b"WEBP" + b"".join(kept)
    return Pixels(b"RIFF" + struct.pack("<I", len(body)) + body, orientation, profile)


def _of_avif(data: bytes) -> Pixels:
    """Items of metadata get a kind that no decoder knows; how the image is turned is said elsewhere in the file."""
    changed = bytearray(data)
    for entry in re.finditer(rb"infe", data):
        version = data[entry.end()]
        kind = entry.end() + 4 + (4 if version == 3 else 2) + 2  # behind version and flags, number, protection
        if data[kind : kind + 4] in _AVIF_METADATA:
            changed[kind : kind + 4] = b"skip"
    return Pixels(bytes(changed))
