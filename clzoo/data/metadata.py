"""Files whose pixels are whole and whose metadata are odd: the same file without them.

Pillow reads some metadata strictly: a text chunk that is too large, a wrong checksum of a comment or an odd EXIF entry
costs the picture. `pixels_only` leaves out all that no pixel needs, for a second try. Nothing is decoded here.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MAX_PROFILE = 16 << 20  # bytes of an inflated profile
_ORIENTATION = 0x0112
_FORMATS = {1: "B", 3: "H", 4: "I"}  # EXIF types that an orientation is written in
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_PIXELS = frozenset(
    {*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), 332, 338, 339, 347}
    | {*range(512, 522), *range(529, 533), 34675}
)
"""Tags that say what the pixels are: size, depth, compression, strips and tiles, palette, profile."""


class Pixels(NamedTuple):
    """A file without its metadata, and those that its pixels need."""

    data: bytes
    orientation: int | None
    profile: bytes | None


def pixels_only(data: bytes) -> Pixels | None:
    """A PNG, JPEG or TIFF without metadata; None for other formats and for files whose frame is damaged."""
    try:
        if data.startswith(_PNG):
            return _of_png(data)
        if data.startswith(b"\xff\xd8"):
            return _of_jpeg(data)
        if data[:4] in _TIFF_ORDERS:
            return _of_tiff(data)
    except (struct.error, IndexError):  # cut off in the middle of a header
        pass
    return None


def orientation_of(exif: bytes) -> int | None:
    """The orientation in a block of EXIF, whatever else is wrong with it; None where there is none."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = _TIFF_ORDERS.get(exif[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", exif, entry)
            if tag == _ORIENTATION and length == 1 and kind in _FORMATS:
                (value,) = struct.unpack_from(order + _FORMATS[kind], exif, entry + 8)
                return int(value)
    except struct.error:
        pass
    return None


def _of_png(data: bytes) -> Pixels:
    kept, orientation, profile, position = [_PNG], None, None, len(_PNG)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        whole = data[position : position + 12 + length]
        if kind in _PNG_PIXELS or kind[:1].isupper():
            kept.append(whole)
        elif whole[-4:] == struct.pack(">I", zlib.crc32(kind + content)):
            if kind == b"eXIf":
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
        elif marker == 0xE2 and content.startswith(b"ICC_PROFILE\0"):
            parts[content[12]] = content[14:]
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # JFIF and Adobe tell the colors
            kept.append(segment)
        position += 2 + length
    profile = b"".join(parts[number] for number in sorted(parts)) or None
    return Pixels(b"".join([*kept, data[position:]]), orientation, profile)


def _of_tiff(data: bytes) -> Pixels:
    """A new directory behind the file; what its entries point to stays where it is."""
    order = _TIFF_ORDERS[data[:4]]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries = [data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _TIFF_PIXELS]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)  # no further image
    padded = data[8:] + bytes(len(data) % 2)
    header = data[:4] + struct.pack(order + "I", 8 + len(padded))
    return Pixels(header + padded + directory, orientation_of(data), None)
