"""Zip archives: their members by the central directory, each read where it lies. Nothing is ever unpacked to disk.

A member is inflated into memory when it is wanted, up to the size that the archive states and never further; archives
that state more than any image can take, or members that lie inside each other, are named (docs/security.md).
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from clzoo.data.archives import Member
from clzoo.data.listing import Item
from clzoo.data.ranges import BLOCKS
from clzoo.data.storage import is_remote, patiently
from clzoo.errors import UnreadableImageError
from clzoo.images import max_pixels
from clzoo.wording import type_and_first_line

_HEADER = struct.Struct("<4s5H3I2H")  # of a member, before its name; the central directory says the rest
_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1
_BYTES_A_PIXEL = 8  # four channels of 16 bits, without any compression
_BESIDE_PIXELS = 64 << 20  # bytes that a file may hold besides (our choice)


class ZipItem(Item):
    """A member of a zip archive: `offset` is of its header, `how` (method, bytes in the archive, CRC-32)."""

    __slots__ = ()

    def read(self) -> bytes:
        """The encoded image, compared with the CRC-32 of the archive.

        Raises:
            UnreadableImageError: the reason alone.
        """
        method, packed, crc = self.how
        start = self.offset or 0
        try:
            if is_remote(self.file):
                head = patiently(lambda: BLOCKS.read(self.file, self.mtime_ns, start, _HEADER.size))
                start = _content_from(head, start)
                data = patiently(lambda: BLOCKS.read(self.file, self.mtime_ns, start, packed))
            else:
                with open(self.file, "rb") as file:  # noqa: PTH123 (called for every image)
                    file.seek(start)
                    start = _content_from(file.read(_HEADER.size), start)
                    file.seek(start)
                    data = file.read(packed)
        except UnreadableImageError:
            raise
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error
        except Exception as error:  # every storage has its own
            raise UnreadableImageError(f"cannot be fetched: {type_and_first_line(error)}") from error
        content = data if method == zipfile.ZIP_STORED else _inflated(data, self.size)
        if len(content) != self.size or zlib.crc32(content) != crc:
            raise UnreadableImageError("a damaged member: its CRC-32 is not that of the archive")
        return content


def read_zip_members(archive: BinaryIO) -> Iterator[Member]:
    """The members of a zip archive in the order of its directory; `kind` says why one cannot be read.

    Raises:
        zipfile.BadZipFile: damaged, cut off (the directory is at the end), or no zip archive.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = opened.infolist()
    except (NotImplementedError, ValueError, struct.error, OverflowError, EOFError) as error:
        raise zipfile.BadZipFile(str(error)[:200]) from error
    most = max_pixels() * _BYTES_A_PIXEL + _BESIDE_PIXELS
    overlapping = _overlapping(found)
    for info in found:
        kind = "folder" if info.is_dir() else _kind_of(info, most)
        if kind == "file" and info.header_offset in overlapping:
            kind = "it lies inside another member, as in an archive that unpacks into endless data"
        how = (info.compress_type, info.compress_size, info.CRC)
        yield Member(info.filename, info.file_size, info.header_offset, kind, how)


def _kind_of(info: zipfile.ZipInfo, most: int) -> str:
    """ "file", or why it is none that can be read."""
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "other"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted; unpack it with its password and name the folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {info.compress_type}; expected stored or deflated members. Type: zip -r"
    if info.file_size > most:
        return (
            f"it unpacks into {info.file_size:,} bytes, more than an image of {max_pixels():,} pixels can take; "
            "where you trust it: --max-pixels N"
        )
    return "file"


def _overlapping(members: list[zipfile.ZipInfo]) -> set[int]:
    """Offsets of the members that begin before the one in front of them ends, and of that one."""
    found: set[int] = set()
    end, last = 0, -1
    for info in sorted(members, key=lambda info: info.header_offset):
        if last < info.header_offset < end:
            found |= {info.header_offset, last}
        end = max(end, info.header_offset + _HEADER.size + info.compress_size)
        last = info.header_offset
    return found


def _content_from(head: bytes, start: int) -> int:
    """Where a member's content begins, by its header."""
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        raise UnreadableImageError(f"a damaged archive: no member at byte {start}")
    *_, name, extra = _HEADER.unpack(head)
    return int(start + _HEADER.size + name + extra)


def _inflated(data: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)  # one more shows that there is more
    except zlib.error as error:
        raise UnreadableImageError(f"a damaged member: {error}") from error
