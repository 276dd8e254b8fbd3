"""Tar files: their members in the order of the file, to the very end; and archives of other kinds, by their names."""

from __future__ import annotations

import shlex
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

NO_END = "no end mark: the shard seems to have been cut off"

_COMPRESSED = "compressed by "
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "rar",
}
_UNPACK = {  # of each kind: its suffixes, and what to type; the first five leave a .tar, which is a shard
    "gzip": ((".tar.gz", ".tgz"), "gunzip -k {}"),
    "bzip2": ((".tar.bz2", ".tbz2", ".tbz"), "bunzip2 -k {}"),
    "xz": ((".tar.xz", ".txz"), "unxz -k {}"),
    "zstd": ((".tar.zst", ".tzst"), "zstd -d {}"),
    "lz4": ((".tar.lz4",), "lz4 -d {}"),
    "7-Zip": ((".7z",), "7z x {} -o{}-unpacked"),
    "rar": ((".rar",), "unrar x {} {}-unpacked/"),
}
_FILES = {".gz": "gunzip -k {}", ".bz2": "bunzip2 -k {}", ".xz": "unxz -k {}", ".zst": "zstd -d {}"}  # or no archives


class Member(NamedTuple):
    """One member of a shard, as its header states it."""

    name: str
    size: int
    offset: int  # of its first byte in the shard
    kind: str  # "file", "folder", "other" (a link, a pipe, a sparse file), or why it cannot be read
    how: tuple[int, ...] = ()  # of a zip archive; see `clzoo.data.zips`


def unpacking(path: str, *, files: bool = False) -> str | None:
    """What to type to unpack a compressed archive, judged by its name; None of anything else.

    Args:
        files: take `.gz` and its like without a `.tar` before them too, which may be no archives.
    """
    lower, quoted = path.lower(), shlex.quote(path)
    commands = {suffix: command for suffixes, command in _UNPACK.values() for suffix in suffixes}
    for suffix, command in (commands | (_FILES if files else {})).items():
        if lower.endswith(suffix):
            return command.format(quoted, quoted)
    return None


def read_headers(shard: BinaryIO) -> Iterator[Member]:
    """The members of an uncompressed tar in the order of the file; of archives that were joined by `cat`, of all.

    Raises:
        tarfile.TarError: it is damaged, compressed, ends without its end mark, or has something else behind that; after
            the members that came before.
    """
    head = shard.read(8)
    if kind := next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None):
        raise tarfile.ReadError(_COMPRESSED + kind)
    start: int | None = 0
    while start is not None:
        shard.seek(start)
        with tarfile.open(fileobj=shard, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                kind = "folder" if member.isdir() else "file" if member.isreg() and not member.issparse() else "other"
                yield Member(member.name, member.size, member.offset_data, kind)
            # tarfile takes the end of the file, half a header or no header for the archive's end; it should be zeros.
            shard.seek(archive.offset)
            end = shard.read(tarfile.BLOCKSIZE)
            if len(end) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError(NO_END)
            if any(end):
                behind = ", behind an end mark" if archive.offset == start else ""
                raise tarfile.ReadError(f"no header at byte {archive.offset}, where one has to be{behind}")
        start = _next_data(shard)


def reason_of(damage: str, path: str) -> str:
    """How a shard's failure is named: the TarError of `read_headers` in words, for the shard at `path`."""
    if damage == NO_END:
        return damage
    if damage == f"{_COMPRESSED}zip":
        new = shlex.quote(path[: -len(".tar")] + ".zip")
        return f"{damage}; a zip archive is read under its own name. Type: mv {shlex.quote(path)} {new}"
    if damage.startswith(_COMPRESSED):
        suffixes, command = _UNPACK[damage.removeprefix(_COMPRESSED)]
        old, new = shlex.quote(path), shlex.quote(path[: -len(".tar")] + suffixes[0])
        return f"{damage}; shards are plain .tar. Type: mv {old} {new} && {command.format(new, new)}"
    return f"damaged shard: {damage}"


def _next_data(shard: BinaryIO) -> int | None:
    """Where the first byte that is not zero stands, from here on; None where there is none."""
    while block := shard.read(1 << 20):
        if rest := block.lstrip(b"\0"):
            return shard.tell() - len(rest)
    return None
