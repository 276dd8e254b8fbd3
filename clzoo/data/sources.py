"""Where images to be embedded come from: a folder, a text file of paths, or `.tar` shards.

`list_images` walks a source once and returns what is there, sorted by path, without decoding anything. Whatever looks
like an image and cannot be one (a broken link, a pipe, a folder that may not be read) is listed as a failure with its
reason; whatever does not look like an image is counted by suffix. Nothing is passed over in silence. What could not be
reached (a folder that cannot be listed, a link that leads nowhere, a listed file that is not there) is told from what
is no image: it may still exist.

Names that begin with a dot are no data: `.ipynb_checkpoints`, `.thumbnails`, the `._1.jpg` of a Mac; nor is its
`__MACOSX`. They are counted. Only a text file of paths may name them, and the source itself may be called so.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import stat
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from clzoo.data.archives import Member, read_headers, reason_of, unpacking
from clzoo.data.images import SUFFIXES
from clzoo.errors import ClzooError, UnreadableImageError

log = logging.getLogger("clzoo")

REPEATED = "repeated lines"
"""Key of `Listing.ignored` for lines of a text file that name the same image again."""

HIDDEN = "hidden"
"""Key of `Listing.ignored` for files and members whose name, or a folder's of theirs, begins with a dot."""

HIDDEN_FOLDERS = "hidden folders"
"""The same for folders, which are not searched."""

REPLACED = "replaced members"
"""Key of `Listing.ignored` for members of a shard that a later one of the same name replaces."""


class Item(NamedTuple):
    """One image of a source.

    `size` is of the image in bytes. `mtime_ns` is the file's own; for an image inside a shard the shard's, because
    shards are often written with constant member times: a rewritten shard is embedded anew.
    """

    path: str  # POSIX, relative to the source's root; `shard.tar/member` inside a shard
    size: int
    mtime_ns: int
    file: str  # to open
    offset: int | None  # of the image's first byte inside a shard; None: the file is the image

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UnreadableImageError: the reason alone.
        """
        try:
            with open(self.file, "rb") as file:  # noqa: PTH123 (a Path per image costs more than it tells)
                if self.offset is None:
                    return file.read()
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error


class Failure(NamedTuple):
    """A path that could not be embedded, and why."""

    path: str
    size: int | None
    mtime_ns: int | None
    reason: str


@dataclass
class Listing:
    """What a source holds: images in path order, their ids (int64 (N,)), failures, and what was ignored by suffix.

    `unreachable` are those paths of `failures` that could not be reached, so nobody knows what lies there or below: an
    update of a store keeps its rows.

    `class_files` are the members of shards that hold an image's class number (webdataset's `key.cls`); they count as
    ignored too, since nothing but pretraining reads them. So do the archives that are `compressed`.
    """

    root: Path
    items: list[Item] = field(default_factory=list)
    class_files: list[Item] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unreachable: set[str] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)
    compressed: list[str] = field(default_factory=list)
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def list_images(source: str | Path) -> Listing:
    """List the images of a source, sorted by path.

    Args:
        source: a folder, searched recursively (links to folders are followed; `.tar` files in it are shards); or one
            `.tar` file; or a text file with one path a line, relative to the text file's own folder.

    Raises:
        ClzooError: the source is missing, of another kind, or without a single image; two paths share one id.
    """
    source = Path(source)
    kind = _kind_of(source)
    listing = Listing(root=(source if kind == "folder" else source.parent).resolve())
    if kind == "folder":
        _add_folder(listing, source)
    elif kind == "shard":
        _add_shard(listing, str(source), source.name)
    else:
        _add_lines(listing, source)
    return finished(listing, source)


def finished(listing: Listing, source: str | Path) -> Listing:
    """The listing sorted by path, with its ids.

    Raises:
        ClzooError: it is empty, or two paths share one id.
    """
    archives = _compressed(listing)
    if not listing.items and not listing.failures:
        raise ClzooError(
            f"{source} holds no images: found {in_words(listing.ignored)}; expected names that end in "
            f"{' '.join(sorted(SUFFIXES))}. {archives}".rstrip()
        )
    if archives:
        log.warning("%s: %s", source, archives)
    listing.items.sort()
    listing.failures.sort(key=lambda failure: failure.path)
    listing.ids = item_ids([item.path for item in listing.items])
    return listing


def _compressed(listing: Listing) -> str:
    """That there are compressed archives, and what to type; empty if there are none."""
    if not listing.compressed:
        return ""
    first = min(listing.compressed)
    return (
        f"Compressed archives are not read ({len(listing.compressed)}, the first is {first}); shards are plain .tar. "
        f"Type: {unpacking(first)}"
    )


def in_words(kinds: Counter[str]) -> str:
    """What was counted by kind, the most frequent first, for a message."""
    rest = f", {len(kinds) - 5} other kinds" if len(kinds) > 5 else ""
    return (", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5)) + rest) or "nothing"


def taken(items: Sequence[Item], passed_over: Mapping[str, int], failed: int) -> str:
    """What was taken of a source and what was passed over, by kind, for the log."""
    kinds = Counter(PurePosixPath(item.path).suffix.lower() or "no suffix" for item in items)
    return (
        f"took {in_words(kinds)}; passed over {in_words(Counter(passed_over))}{f'; {failed} failed' if failed else ''}"
    )


def item_ids(paths: list[str]) -> np.ndarray:
    """Stable ids, int64 (N,): the first 63 bits of SHA-256 of each path.

    Raises:
        ClzooError: two paths share one id (both are named).
    """
    ids = np.fromiter(map(_item_id, paths), np.int64, len(paths))
    order = np.argsort(ids, kind="stable")
    (same,) = np.nonzero(np.diff(ids[order]) == 0)
    if len(same):
        first, second = order[same[0]], order[same[0] + 1]
        raise ClzooError(
            f"{paths[first]} and {paths[second]} have the same id {ids[first]}: rename one of them "
            "(an id is the first 63 bits of the path's SHA-256)."
        )
    return ids


def label_of(path: str) -> str | None:
    """The first sub-folder of an item's path, inside its shard if it has one; None at the top and for absolute paths.

    >>> label_of("cats/tabby/1.jpg"), label_of("train-000.tar/cats/1.jpg"), label_of("1.jpg")
    ('cats', 'cats', None)
    """
    parts = PurePosixPath(path).parts
    for position, part in enumerate(parts[:-1]):
        if part.lower().endswith(".tar"):
            parts = parts[position + 1 :]
            break
    return parts[0] if len(parts) > 1 and not path.startswith("/") else None


def read_image(root: Path, path: str) -> bytes:
    """The encoded image at an item's path, which may lie inside a shard.

    Raises:
        UnreadableImageError: it is not there (any more); the message is the reason alone.
    """
    whole = root / path
    shard = next((parent for parent in whole.parents if parent.suffix.lower() == ".tar" and parent.is_file()), None)
    if shard is None:
        return Item(path, 0, 0, str(whole), None).read()
    listing = Listing(root)
    _add_shard(listing, str(shard), shard.relative_to(root).as_posix())
    for item in listing.items:
        if item.path == path:
            return item.read()
    raise UnreadableImageError(f"not in {shard} (any more)")


def _kind_of(source: Path) -> str:
    if source.is_dir():
        return "folder"
    if not source.exists():
        raise ClzooError(f"{source} does not exist; expected a folder of images, a text file of paths or a .tar file.")
    suffix = source.suffix.lower()
    if suffix == ".tar":
        return "shard"
    if suffix in SUFFIXES:
        raise ClzooError(f"{source} is one image; expected a folder, a text file of paths or a .tar file.")
    if command := unpacking(str(source), files=True):
        raise ClzooError(f"{source} is compressed; shards are plain .tar. Type: {command}")
    return "lines"


def _item_id(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (called for every file of millions)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: it begins with a dot, or is what a Mac leaves in archives."""
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def ignore(listing: Listing, path: str) -> None:
    """Count what does not look like an image."""
    listing.ignored[_printable(PurePosixPath(path).suffix.lower()) or "no suffix"] += 1
    if unpacking(path):
        listing.compressed.append(_printable(path))


def _add_folder(listing: Listing, folder: Path) -> None:
    """Walk without recursion: folders may lie deeper than Python's stack."""
    Entered = tuple[int, int]  # noqa: N806 (device, inode)
    pending: list[tuple[str, str, tuple[Entered, ...]]] = [(str(folder), "", ())]
    while pending:
        place, prefix, parents = pending.pop()
        try:
            status = os.stat(place)  # noqa: PTH116
            here = (status.st_dev, status.st_ino)
            # Where the platform has no inodes, the operating system's own limit on links ends a loop.
            if here in parents and status.st_ino:
                listing.failures.append(Failure(_printable(prefix.rstrip("/")), None, None, "a symlink loop"))
                continue
            with os.scandir(place) as entries:
                for entry in entries:
                    path = prefix + entry.name
                    if is_hidden(entry.name):
                        listing.ignored[HIDDEN_FOLDERS if entry.is_dir(follow_symlinks=False) else HIDDEN] += 1
                        continue
                    try:
                        is_folder = _is_folder(entry)
                    except OSError as error:  # whatever its suffix is: a link that leads nowhere may have been a folder
                        add_unreachable(listing, _printable(path), error.strerror or str(error))
                        continue
                    if is_folder:
                        pending.append((entry.path, path + "/", (*parents, here)))
                    else:
                        _add_file(listing, entry.path, path)
        except OSError as error:
            if not prefix:
                raise ClzooError(f"{folder} cannot be read: {error.strerror or error}.") from error
            add_unreachable(listing, _printable(prefix.rstrip("/")), error.strerror or str(error))


def add_unreachable(
    listing: Listing, path: str, reason: str, size: int | None = None, mtime_ns: int | None = None
) -> None:
    """Name a path that could not be reached."""
    listing.failures.append(Failure(path, size, mtime_ns, reason))
    listing.unreachable.add(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one.

    Raises:
        OSError: it cannot be reached; `entry.is_dir` says no to a link that leads nowhere.
    """
    return stat.S_ISDIR(entry.stat().st_mode) if entry.is_symlink() else entry.is_dir()


def _add_file(listing: Listing, file: str, path: str, *, any_suffix: bool = False) -> None:
    """Add one file that is not a folder: an image, a shard, or something to ignore."""
    is_shard = path.lower().endswith(".tar")
    if not (is_shard or any_suffix or is_image(path)):
        ignore(listing, path)
        return
    if _printable(path) != path:
        listing.failures.append(Failure(_printable(path), None, None, "the file name is not UTF-8; rename it"))
        return
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError as error:  # a listed file that is not there, a broken link, a disk that fails, gone meanwhile
        add_unreachable(listing, path, error.strerror or str(error))
        return
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        listing.failures.append(Failure(path, None, status.st_mtime_ns, "not a regular file"))
    elif is_shard:
        _add_shard(listing, file, path)
    else:
        listing.items.append(Item(path, status.st_size, status.st_mtime_ns, file, None))


def _add_shard(listing: Listing, file: str, path: str) -> None:
    size = mtime_ns = None
    try:
        status = os.stat(file)  # noqa: PTH116
        size, mtime_ns = status.st_size, status.st_mtime_ns
        with open(file, "rb") as opened:  # noqa: PTH123
            add_members(listing, Item(path, size, mtime_ns, file, None), read_headers(opened))
    except OSError as error:
        add_unreachable(listing, path, f"damaged shard: {error.strerror or error}", size, mtime_ns)


def add_members(listing: Listing, shard: Item, members: Iterable[Member]) -> None:
    """Add the image members of a shard; of members with one name the last counts, as tar unpacks them.

    Args:
        shard: the shard's path, size, mtime_ns and file; its members become items of the same class.
        members: as `read_headers` gives them; the TarError that it may end with becomes a failure of the shard.
    """
    images: dict[str, Item] = {}
    try:
        for member in members:
            _add_member(listing, images, member, shard)
    except tarfile.TarError as error:
        listing.failures.append(Failure(shard.path, shard.size, shard.mtime_ns, reason_of(str(error), shard.path)))
    finally:  # where the disk fails midway too
        listing.items.extend(images.values())


def _add_member(listing: Listing, images: dict[str, Item], member: Member, shard: Item) -> None:
    if member.kind == "folder":
        return
    inside = posixpath.normpath(member.name).lstrip("/")  # as tar unpacks it
    if any(map(is_hidden, inside.split("/"))):
        listing.ignored[HIDDEN] += 1
        return
    path = f"{shard.path}/{inside}"
    item = shard._replace(path=path, size=member.size, offset=member.offset)
    if not is_image(member.name):
        listing.ignored[_printable(PurePosixPath(inside).suffix.lower()) or "no suffix"] += 1
        if inside.lower().endswith(".cls") and member.kind == "file":
            listing.class_files.append(item)
    elif member.kind != "file":
        listing.failures.append(Failure(_printable(path), None, shard.mtime_ns, "not a regular member of the shard"))
    elif _printable(path) != path:
        reason = "the member's name is not UTF-8; rename it"
        listing.failures.append(Failure(_printable(path), None, shard.mtime_ns, reason))
    else:
        listing.ignored.update([REPLACED] if path in images else [])
        images[path] = item


def _add_lines(listing: Listing, source: Path) -> None:
    try:
        lines: Iterable[str] = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ClzooError(f"{source} is not UTF-8 text; expected one image path a line.") from error
    except OSError as error:
        raise ClzooError(f"{source} cannot be read: {error.strerror or error}.") from error
    folder = source.parent.resolve()
    seen: set[str] = set()
    for line in lines:
        if not line.strip():
            continue
        file = Path(os.path.normpath(folder / line.strip()))
        path = (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()
        if path in seen:
            listing.ignored[REPEATED] += 1
            continue
        seen.add(path)
        if _is_folder_at(file):
            listing.failures.append(Failure(path, None, None, "a folder; a text file names images"))
        else:
            _add_file(listing, str(file), path, any_suffix=True)


def _is_folder_at(file: Path) -> bool:
    try:
        return file.is_dir()
    except OSError:  # not even that can be known; _add_file finds the reason
        return False


def _printable(path: str) -> str:
    """The path as valid Unicode; bytes of a name that are no UTF-8 become \\xNN."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
