"""Local files as a source: a folder, a list of paths, or shards (`.tar`, `.zip`, `.parquet`).

`list_images` walks a source once and returns what is there, sorted by path, without decoding anything.

Names that begin with a dot are no data: `.ipynb_checkpoints`, `.thumbnails`, the `._1.jpg` of a Mac; nor is its
`__MACOSX`. They are counted. Only a text file of paths may name them, and the source itself may be called so.
"""

from __future__ import annotations

import logging
import os
import stat
from functools import lru_cache
from pathlib import Path
from threading import Lock

from clzoo.data.archives import read_headers, unpacking
from clzoo.data.listing import (
    CONTAINERS,
    HIDDEN,
    HIDDEN_FOLDERS,
    MADE,
    REPEATED,
    Failure,
    Item,
    Listing,
    add_unreachable,
    finished,
    ignore,
    is_hidden,
    is_image,
    is_made,
    printable,
)
from clzoo.data.lists import keep_table, read_list
from clzoo.data.members import add_members
from clzoo.data.parquet import add_rows, holds_images
from clzoo.data.storage import is_remote
from clzoo.data.zips import ZipItem, read_zip_members
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import SUFFIXES

log = logging.getLogger("clzoo")

EXPECTED = "expected a folder of images, a list of paths, or a .tar, .zip or .parquet file"


def list_images(source: str | Path, *, column: str | None = None) -> Listing:
    """List the images of a source, sorted by path.

    Args:
        source: a folder, searched recursively (links to folders are followed; `.tar`, `.zip` and `.parquet` files of
            images in it are shards); or one such file; or a list of paths, relative to the list's own folder: text with
            one a line, or a table (`clzoo.data.lists`).
        column: of a Parquet file that holds the images, or of a table that holds the paths.

    Raises:
        ClzooError: the source is missing, of another kind, or without a single image; two paths share one id; a column
            that is not there.
    """
    source = Path(source)
    kind = _kind_of(source, column)
    is_folder = kind == "folder"
    listing = Listing(root=(source if is_folder else source.parent).resolve(), is_folder=is_folder)
    if kind == "list":
        return _list_paths(listing, source, column)
    if is_folder:
        _add_folder(listing, source, column)
    else:
        _add_shard(listing, str(source), source.name, column)
    return finished(listing, source)


def _list_paths(listing: Listing, source: Path, column: str | None) -> Listing:
    """The files that a list names."""
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ClzooError(f"{source} cannot be read: {error.strerror or error}.") from error
    listed = read_list(content, source.name, str(source), column)
    kind = "text file" if listed.table is None else "table"
    paths = _add_paths(listing, listed.paths, source.parent.resolve(), kind)
    listing = finished(listing, source)
    keep_table(listing, paths, listed.table)
    return listing


def list_paths(listing: Listing, paths: list[str], source: str) -> Listing:
    """The files at these paths, which are relative to the listing's root."""
    _add_paths(listing, paths, listing.root, "list")
    return finished(listing, source)


def _add_paths(listing: Listing, paths: list[str], folder: Path, kind: str) -> list[str]:
    """Returns each path as it is listed, once or again."""
    found: set[str] = set()
    listed = []
    for line in paths:
        file = Path(os.path.normpath(folder / line))
        path = (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()
        listed.append(path)
        if path in found:
            listing.ignored[REPEATED] += 1
            continue
        found.add(path)
        if is_remote(line):
            reason = "a URL in a list on this machine; put the list there, or copy the images here"
            listing.failures.append(Failure(path, None, None, reason))
        elif _is_folder_at(file):
            listing.failures.append(Failure(path, None, None, f"a folder; a {kind} names images"))
        else:
            _add_file(listing, str(file), path, any_suffix=True)
    return listed


def _is_folder_at(file: Path) -> bool:
    try:
        return file.is_dir()
    except OSError:  # not even that can be known; `_add_file` finds the reason
        return False


def read_image(root: Path, path: str, column: str | None = None) -> bytes:
    """The encoded image at an item's path, which may lie inside a shard.

    Args:
        column: of the images in a Parquet file, where the source chose one.

    Raises:
        UnreadableImageError: it is not there (any more); the message is the reason alone.
    """
    whole = root / path
    shard = next((parent for parent in whole.parents if parent.suffix.lower() in CONTAINERS and parent.is_file()), None)
    if shard is None:
        return Item(path, 0, 0, str(whole), None).read()
    status = shard.stat()
    with _READING:  # of threads that ask at once one reads the headers
        name = shard.relative_to(root).as_posix()
        try:
            items = _items_of_shard(root, name, column, status.st_size, status.st_mtime_ns)
        except ClzooError as error:  # it has other columns by now
            raise UnreadableImageError(str(error)) from error
    if path not in items:
        raise UnreadableImageError(f"not in {shard} (any more)")
    return items[path].read()


_READING = Lock()


@lru_cache(maxsize=256)
def _items_of_shard(root: Path, shard: str, column: str | None, size: int, mtime_ns: int) -> dict[str, Item]:
    """The images of a shard by path; its headers are read once, as long as the file is the same."""
    listing = Listing(root)
    _add_shard(listing, str(root / shard), shard, column)
    return {item.path: item for item in listing.items}


def is_list(source: Path) -> bool:
    """Whether a source is a list of paths.

    Raises:
        ClzooError: it is a file of another kind than images come in, or damaged.
    """
    return source.is_file() and _kind_of(source, None) == "list"


def _kind_of(source: Path, column: str | None) -> str:
    if source.is_dir():
        return "folder"
    if not source.exists():
        raise ClzooError(f"{source} does not exist; {EXPECTED}.")
    suffix = source.suffix.lower()
    if suffix == ".parquet":
        from pyarrow import ArrowInvalid  # not above: clzoo.lite lists folders without pyarrow

        try:
            return "shard" if holds_images(str(source), column) else "list"
        except (OSError, ArrowInvalid) as error:
            raise ClzooError(f"{source} is a damaged Parquet file: {error}.") from error
    if suffix in CONTAINERS:
        return "shard"
    if suffix in SUFFIXES:
        raise ClzooError(f"{source} is one image; {EXPECTED}.")
    if command := unpacking(str(source), files=True):
        raise ClzooError(f"{source} is compressed; shards are plain .tar or .zip. Type: {command}")
    return "list"


def _add_folder(listing: Listing, folder: Path, column: str | None) -> None:
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
                listing.failures.append(Failure(printable(prefix.rstrip("/")), None, None, "a symlink loop"))
                continue
            with os.scandir(place) as entries:
                found = list(entries)
                if prefix and is_made({entry.name for entry in found}):
                    listing.ignored[MADE] += 1
                    log.info("%s is passed over: clzoo wrote it", printable(prefix))
                    continue
                for entry in found:
                    path = prefix + entry.name
                    if is_hidden(entry.name):
                        listing.ignored[HIDDEN_FOLDERS if entry.is_dir(follow_symlinks=False) else HIDDEN] += 1
                        continue
                    try:
                        is_folder = _is_folder(entry)
                    except OSError as error:  # whatever its suffix is: a link that leads nowhere may have been a folder
                        add_unreachable(listing, printable(path), error.strerror or str(error))
                        continue
                    if is_folder:
                        pending.append((entry.path, path + "/", (*parents, here)))
                    else:
                        _add_file(listing, entry.path, path, column=column)
        except OSError as error:
            if not prefix:
                raise ClzooError(f"{folder} cannot be read: {error.strerror or error}.") from error
            add_unreachable(listing, printable(prefix.rstrip("/")), error.strerror or str(error))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one.

    Raises:
        OSError: it cannot be reached; `entry.is_dir` says no to a link that leads nowhere.
    """
    return stat.S_ISDIR(entry.stat().st_mode) if entry.is_symlink() else entry.is_dir()


def _add_file(listing: Listing, file: str, path: str, *, any_suffix: bool = False, column: str | None = None) -> None:
    """Add one file that is not a folder: an image, a shard, or something to ignore."""
    is_shard = path.lower().endswith(CONTAINERS)
    if not (is_shard or any_suffix or is_image(path)):
        ignore(listing, path)
        return
    if printable(path) != path:
        listing.failures.append(Failure(printable(path), None, None, "the file name is not UTF-8; rename it"))
        return
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError as error:  # a listed file that is not there, a broken link, a disk that fails, gone meanwhile
        add_unreachable(listing, path, error.strerror or str(error))
        return
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        listing.failures.append(Failure(path, None, status.st_mtime_ns, "not a regular file"))
    elif is_shard:
        _add_shard(listing, file, path, column)
    else:
        listing.items.append(Item(path, status.st_size, status.st_mtime_ns, file, None))


def _add_shard(listing: Listing, file: str, path: str, column: str | None = None) -> None:
    size = mtime_ns = None
    try:
        status = os.stat(file)  # noqa: PTH116
        size, mtime_ns = status.st_size, status.st_mtime_ns
        if path.lower().endswith(".parquet"):
            _add_table(listing, Item(path, size, mtime_ns, file, None), column)
            return
        with open(file, "rb") as opened:  # noqa: PTH123
            if path.lower().endswith(".zip"):
                add_members(listing, ZipItem(path, size, mtime_ns, file, None), read_zip_members(opened))
            else:
                add_members(listing, Item(path, size, mtime_ns, file, None), read_headers(opened))
    except OSError as error:
        add_unreachable(listing, path, f"damaged shard: {error.strerror or error}", size, mtime_ns)


def _add_table(listing: Listing, table: Item, column: str | None) -> None:
    """The rows of a Parquet file of images; one of anything else is ignored."""
    from pyarrow import ArrowInvalid

    try:
        if holds_images(table.file) or (column is not None and holds_images(table.file, column)):
            add_rows(listing, table, column)
        else:
            ignore(listing, table.path)
    except ArrowInvalid as error:
        add_unreachable(listing, table.path, f"a damaged Parquet file: {error}", table.size, table.mtime_ns)
