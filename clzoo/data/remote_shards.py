"""What tar shards behind URLs hold. Their headers are read through the network once, and kept in clzoo's cache.

Headers lie between the members, one before each. Reading 4 MiB at a time and leaping over members that are larger is
faster than a request for each header, as long as members are smaller than a few MiB: a shard of photographs is read
nearly as a whole. Therefore the list of members is kept, `<cache>/shards/<key>.parquet`, until the shard changes.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from clzoo import cache
from clzoo.data.archives import Member, read_headers
from clzoo.data.listing import Item
from clzoo.data.ranges import BLOCK, fetch
from clzoo.data.storage import is_web, open_url, patiently
from clzoo.errors import ClzooError
from clzoo.files import atomic_path

AT_ONCE = 8
"""Shards whose headers are read at the same time."""

_SCHEMA = 2
_LINE_EVERY = 30.0  # seconds between two log lines

log = logging.getLogger("clzoo")


class ShardIndex(NamedTuple):
    """The members of a shard in the order of the file, and how its reading ended."""

    members: list[Member]
    damage: str | None  # None: with the end mark

    def replay(self) -> Iterator[Member]:
        """As `read_headers`, without the shard."""
        yield from self.members
        if self.damage is not None:
            raise tarfile.ReadError(self.damage)


def read_indices(shards: Sequence[Item]) -> Iterator[tuple[Item, ShardIndex]]:
    """The index of each shard, in this order; several are read at a time.

    Args:
        shards: with the URL as `file` and the storage's stamp as `mtime_ns`.

    Raises:
        ClzooError: the server cannot send parts of files.
        Exception: whatever the storage raises at the third attempt; indices that were read are kept.
    """
    if not shards:
        return
    log.info("reading the headers of %d shards, where %s has them not yet", len(shards), cache.root() / cache.SHARDS)
    spoke = time.monotonic()
    pool = ThreadPoolExecutor(AT_ONCE, "clzoo-shards")
    try:
        for done, (shard, index) in enumerate(zip(shards, pool.map(read_index, shards), strict=True)):
            if time.monotonic() - spoke >= _LINE_EVERY:
                spoke = time.monotonic()
                log.info("headers of %d of %d shards", done + 1, len(shards))
            yield shard, index
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_index(shard: Item) -> ShardIndex:
    """The index of one shard, from the cache where it has this version. Raises as `read_indices`."""
    index = _cached(shard)
    if index is None:
        require_ranges(shard)
        members: list[Member] = []
        damage = None
        try:
            members.extend(read_headers(cast("BinaryIO", RemoteFile(shard.file, shard.size))))
        except tarfile.TarError as error:
            damage = str(error)
        index = ShardIndex(members, damage)
        _keep(shard, index)
    return index


class RemoteFile(io.RawIOBase):
    """A remote file that is read forward with leaps; one request brings at least a block."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._place = 0
        self._start, self._held = 0, b""  # the newest block

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        stop = self._size if count < 0 else min(self._place + count, self._size)
        if stop <= self._place:
            return b""
        if not self._start <= self._place <= stop <= self._start + len(self._held):
            self._held = patiently(lambda: self._fetched(max(stop, self._place + BLOCK)))
            self._start = self._place
        found = self._held[self._place - self._start : stop - self._start]
        self._place = stop
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def _fetched(self, stop: int) -> bytes:
        stop = min(stop, self._size)
        content = fetch(self._url, self._place, stop)
        if len(content) != stop - self._place:  # the shard is not damaged: another attempt
            raise OSError(f"{len(content)} bytes of {self._url} came, {stop - self._place} were asked for")
        return content


def require_ranges(shard: Item) -> None:
    """Find out whether a web server sends parts of files, before it sends the whole as an answer."""
    if not is_web(shard.file) or shard.size < 2:
        return
    files, path = open_url(shard.file)

    def sends_parts() -> bool:
        try:
            with files.open(path, "rb", cache_type="none") as file:
                file.seek(shard.size - 1)
                return len(file.read(1)) == 1
        except ValueError:  # how fsspec says it
            return False

    if not patiently(sends_parts):
        raise ClzooError(
            f"{shard.file}: this server does not send parts of files (HTTP range requests), which reading members of "
            f"a shard needs. Download it, then embed the copy. Type: curl -LO {shard.file}"
        )


# The cache ------------------------------------------------------------------------------------------------------------


def _place_of(shard: Item) -> Path:
    return cache.root() / cache.SHARDS / f"{hashlib.sha256(shard.file.encode()).hexdigest()[:32]}.parquet"


def _version_of(shard: Item) -> bytes:
    return f"{_SCHEMA} {shard.size} {shard.mtime_ns}".encode()


def _cached(shard: Item) -> ShardIndex | None:
    """The kept index of this version of the shard. Without a stamp there are no versions, and nothing is kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _place_of(shard)
    if shard.mtime_ns == 0 or not path.is_file():
        return None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        log.warning("%s is damaged (%s): the shard's headers are read again", path, error)
        return None
    facts = table.schema.metadata
    if facts[b"version"] != _version_of(shard):
        return None
    names = (name.decode(errors="surrogateescape") for name in table["name"].to_pylist())
    rest = (table[key].to_pylist() for key in ("size", "offset", "kind"))
    members = [Member(*row) for row in zip(names, *rest, strict=True)]
    return ShardIndex(members, facts[b"damage"].decode() or None)


def _keep(shard: Item, index: ShardIndex) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if shard.mtime_ns == 0:
        return
    columns = {
        "name": pa.array([member.name.encode(errors="surrogateescape") for member in index.members], pa.binary()),
        "size": pa.array([member.size for member in index.members], pa.int64()),
        "offset": pa.array([member.offset for member in index.members], pa.int64()),
        "kind": pa.array([member.kind for member in index.members], pa.string()),
    }
    facts = {"version": _version_of(shard), "damage": (index.damage or "").encode()}
    path = _place_of(shard)
    try:
        with atomic_path(path) as temporary:
            pq.write_table(pa.table(columns).replace_schema_metadata(facts), temporary, compression="zstd")
    except OSError as error:
        log.warning("%s cannot be written (%s): the next run reads the headers of %s again", path, error, shard.file)
