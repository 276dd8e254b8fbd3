"""Parts of remote files: members of shards, mostly read one after the other by several threads.

A request costs about as much time as the transfer of some MiB. So members are cut out of blocks of 4 MiB, which the
threads of a process share; a shard that is read in its own order is fetched once, block by block. Where blocks turn out
to be of little use (members in another order than their names, or one share of many), each member is a request.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock

from clzoo.data.storage import open_url
from clzoo.errors import UnreadableImageError

BLOCK = 4 << 20
"""Bytes. (Our choice: what 100 MB/s transfer in the 40 ms that a request to S3 takes.)"""
KEPT = 32
"""Blocks held in memory by a process, 128 MiB."""

_TRIAL = 8  # dropped blocks of one folder before they are judged
_USEFUL = 0.25  # of their bytes have to have been asked for


@dataclass
class _Block:
    content: Future[bytes] = field(default_factory=Future)
    used: int = 0  # bytes asked for


@dataclass
class _Use:
    """Of the blocks of one folder that were dropped."""

    blocks: int = 0
    used: int = 0

    @property
    def is_low(self) -> bool:
        return self.blocks >= _TRIAL and self.used < self.blocks * BLOCK * _USEFUL


class BlockCache:
    """The newest blocks of remote files; for any number of threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._blocks: OrderedDict[tuple[str, int, int], _Block] = OrderedDict()
        self._use: defaultdict[str, _Use] = defaultdict(_Use)

    def read(self, url: str, stamp: int, offset: int, size: int) -> bytes:
        """`size` bytes of a file from `offset` on.

        Args:
            stamp: version of the file; blocks of another one are not used.

        Raises:
            UnreadableImageError: the file ends before.
            Exception: whatever the storage raises; nothing of it is kept, so the same call tries again.
        """
        if size > BLOCK or self._use[_folder(url)].is_low:
            content = fetch(url, offset, offset + size)
        else:
            parts = []
            for start in range(offset - offset % BLOCK, offset + size, BLOCK):
                inside = slice(max(offset - start, 0), min(offset + size - start, BLOCK))
                parts.append(self._block(url, stamp, start, inside.stop - inside.start)[inside])
            content = b"".join(parts)
        if len(content) != size:
            raise UnreadableImageError(f"{len(content)} bytes came, {size} were listed")
        return content

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blocks.clear()
            self._use.clear()

    def _block(self, url: str, stamp: int, start: int, wanted: int) -> bytes:
        key = (url, stamp, start)
        with self._lock:
            block = self._blocks.get(key)
            if is_new := block is None:
                block = self._blocks[key] = _Block()
                self._drop_old()
            block.used += wanted
            self._blocks.move_to_end(key)
        if is_new:  # this thread fetches it, others that want it wait
            try:
                block.content.set_result(fetch(url, start, start + BLOCK))
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(key, None)
                block.content.set_exception(error)
        return block.content.result()

    def _drop_old(self) -> None:
        while len(self._blocks) > KEPT:
            (url, _, _), dropped = self._blocks.popitem(last=False)
            use = self._use[_folder(url)]
            use.blocks += 1
            use.used += dropped.used


BLOCKS = BlockCache()
"""The cache of this process."""


def fetch(url: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file in one request; fewer where the file ends before.

    Raises:
        OSError: the server sent more.
    """
    files, path = open_url(url)
    content: bytes = files.cat_file(path, start=start, end=stop)
    if len(content) > stop - start:
        raise OSError(f"{len(content)} bytes of {url} came, {stop - start} were asked for")
    return content


def _folder(url: str) -> str:
    return url.rpartition("/")[0]
