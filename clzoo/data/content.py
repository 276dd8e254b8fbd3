"""Which images these are: the SHA-256 of what each one holds, and where that is remembered.

    <cache>/content/<key>.npy    (key S16, sha256 u1[32]) of the files below one folder, sorted by key

An image is known by its encoded bytes (by its pixels, where it was never encoded), never by name, size and time: those
are equal for other images too. Reading everything takes long, so it is done once. The digest of a file is kept beside
path, place inside the file, size, inode, time of modification and time of change; where one of them differs, the file
is read again. So is one that was changed within two seconds before it was read: the clocks of file systems are coarse.
Whoever reads all images anyway (embedding, packing) lets a `Recorder` take the digests meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from clzoo import cache
from clzoo.data.parallel import in_order
from clzoo.errors import UnreadableImageError
from clzoo.files import atomic_path
from clzoo.images import decode_image
from clzoo.progress import with_progress

if TYPE_CHECKING:
    from clzoo.data.collection import Images

log = logging.getLogger("clzoo")

_SETTLED_NS = 2_000_000_000  # FAT counts in steps of two seconds
_KNOWN = np.dtype([("key", "S16"), ("sha256", "u1", (32,))])


class Stamp(NamedTuple):
    """A place on disk, and which version of it: other bytes have another stamp."""

    file: str
    offset: int  # in bytes, or the number of the image in the file
    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @property
    def key(self) -> bytes:
        """16 bytes."""
        return hashlib.blake2b("\0".join(map(str, self)).encode(errors="surrogateescape"), digest_size=16).digest()

    def of_column(self, name: str | None) -> Stamp:
        """The stamp of a value in a column of a table's row."""
        return self if name is None else self._replace(file=f"{self.file}#{quote(name, safe='')}")

    @property
    def is_settled(self) -> bool:
        """Whether a change from now on would give another time."""
        now = time.time_ns()
        return all(abs(now - changed) > _SETTLED_NS for changed in (self.mtime_ns, self.ctime_ns))


def stamp_of(file: str | Path, offset: int = 0) -> Stamp | None:
    """The stamp of (an image in) a file; None if it cannot be reached."""
    try:
        status = os.stat(file)  # noqa: PTH116 (called for every image)
    except OSError:
        return None
    path = os.path.abspath(file)  # noqa: PTH100
    return Stamp(path, offset, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


class Recorder:
    """The same images, whose digests are taken while they are read; from any thread.

    Attributes:
        sha256: uint8 (N, 32); zeros for what was not read, or could not be.
    """

    def __init__(self, images: Images) -> None:
        self.images = images
        self.sha256 = np.zeros((len(images), 32), np.uint8)
        self._stamps: dict[int, Stamp] = {}

    def __len__(self) -> int:
        return len(self.images)

    def name(self, row: int) -> str:
        return self.images.name(row)

    def read(self, row: int) -> Image.Image:
        content = self.content(row)
        return decode_image(content) if isinstance(content, bytes) else Image.fromarray(content)

    def stamp(self, row: int) -> Stamp | None:
        return self.images.stamp(row)

    def content(self, row: int) -> bytes | np.ndarray:
        before = self.images.stamp(row)
        content = self.images.content(row)
        self.sha256[row] = np.frombuffer(digest_of(content), np.uint8)
        if before is not None and before.is_settled and before == self.images.stamp(row):
            self._stamps[row] = before
        return content

    def remember(self, cache_dir: str | Path | None = None) -> None:
        """Keep the digests for later runs; a cache that cannot be written is named in the log."""
        rows = sorted(self._stamps)
        if not rows:
            return
        stamps = [self._stamps[row] for row in rows]
        place = _place_of(stamps, cache_dir)
        new = np.empty(len(rows), _KNOWN)
        new["key"] = [stamp.key for stamp in stamps]
        new["sha256"] = self.sha256[rows]
        every = np.concatenate([new, _load(place)])
        _, first = np.unique(every["key"], return_index=True)
        try:
            with atomic_path(place) as temporary:
                np.save(temporary, every[first])
        except OSError as error:
            log.warning("%s cannot be written (%s): the next run reads these images again", place, error)


def digest_of(content: bytes | np.ndarray) -> bytes:
    """SHA-256 of an encoded image; of shape and values of an array."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    digest = hashlib.sha256(f"{content.dtype.str}{content.shape}".encode())
    digest.update(np.ascontiguousarray(content).data)
    return digest.digest()


def remembered(images: Images, rows: np.ndarray, cache_dir: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Digests uint8 (M, 32) of the images `rows` (M,) as earlier runs read them, and for which they did, bool (M,)."""
    sha256, is_known = np.zeros((len(rows), 32), np.uint8), np.zeros(len(rows), bool)
    stamps = {position: stamp for position, row in enumerate(rows.tolist()) if (stamp := images.stamp(row))}
    if not stamps or not len(known := _load(_place_of(stamps.values(), cache_dir))):
        return sha256, is_known
    positions = np.array(list(stamps), np.int64)
    keys = np.array([stamp.key for stamp in stamps.values()], "S16")
    place = np.minimum(np.searchsorted(known["key"], keys), len(known) - 1)
    found = known["key"][place] == keys
    is_known[positions[found]] = True
    sha256[positions[found]] = known["sha256"][place[found]]
    return sha256, is_known


def digests(images: Images, rows: np.ndarray, cache_dir: str | Path | None = None) -> np.ndarray:
    """Digests uint8 (M, 32) of the images `rows` (M,): what no earlier run has read is read now, and remembered.

    What cannot be read has zeros: it is the same wherever it cannot be read.
    """
    sha256, is_known = remembered(images, rows, cache_dir)
    unknown = rows[~is_known]
    recorder = Recorder(images)

    def read(position: int) -> None:
        with suppress(UnreadableImageError):  # zeros; whoever needs the image says why
            recorder.content(int(unknown[position]))

    for _ in with_progress(in_order(read, len(unknown)), len(unknown), "reading"):
        pass
    recorder.remember(cache_dir)
    sha256[~is_known] = recorder.sha256[unknown]
    return sha256


def identity(images: Images, rows: np.ndarray, sha256: np.ndarray) -> hashlib._Hash:
    """SHA-256, to be updated, of names and digests (M, 32) of the images `rows` (M,): equal for a copy elsewhere.

    Of an absolute path the last part counts.
    """
    identity = hashlib.sha256()
    for row, digest in zip(rows.tolist(), sha256, strict=True):
        path = PurePath(images.name(row))
        identity.update(f"{path.name if path.is_absolute() else path.as_posix()}\0".encode())
        identity.update(digest.tobytes())
    return identity


def add_labels(digest: hashlib._Hash, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Update a hash with labels (M,) by the names of their classes: how a source numbers them is no difference."""
    for label in labels.tolist():
        digest.update(f"{classes[label]}\0".encode())


def _place_of(stamps: Iterable[Stamp], cache_dir: str | Path | None) -> Path:
    """Of the folder that all files of a source lie in, which is the same for every part of the source."""
    folders = {os.path.dirname(stamp.file) for stamp in stamps}  # noqa: PTH120
    drives = {os.path.splitdrive(folder)[0] for folder in folders}
    folder = os.path.commonpath(folders) if len(drives) == 1 else ""
    key = hashlib.sha256(folder.encode(errors="surrogateescape")).hexdigest()[:32]
    return cache.root(cache_dir) / cache.CONTENT / f"{key}.npy"


def _load(place: Path) -> np.ndarray:
    """What is remembered there, sorted by key; nothing if that is nothing or damaged."""
    if not place.is_file():
        return np.empty(0, _KNOWN)
    try:
        known: np.ndarray = np.load(place)
        if known.dtype != _KNOWN or known.ndim != 1:
            raise ValueError(f"{known.dtype} {known.shape}")
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is damaged (%s): these images are read again", place, error)
        return np.empty(0, _KNOWN)
    return known
