"""Images in remote storage, through fsspec: `s3://bucket/prefix`, `gs://`, `hf://datasets/ORG/NAME`, `https://`.

The packages that speak to a storage (s3fs, gcsfs, adlfs, aiohttp) are the user's; `hf://` comes with huggingface_hub.
Unlike a folder that may not be read, a listing that fails anywhere ends the run: a network that is down for a second
must not look like deleted files.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from pyarrow import ArrowInvalid

from clzoo.data.archives import unpacking
from clzoo.data.listing import (
    CONTAINERS,
    HIDDEN,
    HIDDEN_FOLDERS,
    REPEATED,
    Failure,
    Item,
    Listing,
    add_unreachable,
    finished,
    ignore,
    is_hidden,
)
from clzoo.data.lists import TABLES, keep_table, read_list
from clzoo.data.members import add_members
from clzoo.data.parquet import ParquetItem, add_rows, holds_images
from clzoo.data.ranges import BLOCKS
from clzoo.data.remote_shards import RemoteFile, read_index, read_indices, require_ranges
from clzoo.data.storage import is_remote, is_web, join, open_url, patiently, stamp_of
from clzoo.data.zips import ZipItem, read_zip_members
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import SUFFIXES
from clzoo.wording import type_and_first_line

LISTS = (".txt", ".lst", *(suffix for suffix in TABLES if suffix != ".parquet"))
"""Suffixes of lists behind URLs; of a Parquet file its columns tell."""

_AT_ONCE = 16  # files of a list that are asked for at a time


class RemoteItem(Item):
    """An image behind a URL (`file`), or inside a shard there. `mtime_ns` is the file's version: see `stamp_of`."""

    __slots__ = ()

    def read(self) -> bytes:
        """The encoded image; tried three times.

        Raises:
            UnreadableImageError: the reason alone.
        """
        try:
            return patiently(lambda: self._fetch())
        except UnreadableImageError:
            raise
        except Exception as error:  # every storage has its own
            raise UnreadableImageError(f"cannot be fetched: {type_and_first_line(error)}") from error

    def _fetch(self) -> bytes:
        if self.offset is not None:
            return BLOCKS.read(self.file, self.mtime_ns, self.offset, self.size)
        files, path = open_url(self.file)
        content: bytes = files.cat_file(path)
        if len(content) != self.size:
            raise UnreadableImageError(f"{len(content)} bytes came, {self.size} were listed")
        return content


_KINDS: dict[str, type[Item]] = {".zip": ZipItem, ".parquet": ParquetItem}


def list_remote(url: str, *, column: str | None = None, only: Callable[[str], bool] | None = None) -> Listing:
    """As `list_images`, of the files below a URL, of one shard, or of a list. The listing's `root` is not used.

    On a web server a folder is a page of links, and its URL ends with a slash.

    Args:
        column: as of `list_images`.
        only: of the files below, by their paths.

    Raises:
        ClzooError: it cannot be listed, is a single file of another kind, or holds no image; a server that cannot send
            parts of a shard.
    """
    files, root = open_url(url)
    root = root.rstrip("/")
    listing = Listing(root=Path())
    BLOCKS.clear()  # of an earlier run in this process
    try:
        files.invalidate_cache()
        name = url.rpartition("/")[2]
        if url.endswith("/") or not files.isfile(root):
            shards = _walk(listing, files, url, root, only)
        elif has_list_suffix(name) and (not name.lower().endswith(".parquet") or not holds_images(url, column)):
            return _list_paths(listing, files, url, column)
        else:
            shards = _one_file(listing, files, url, root, name)
        _open_shards(listing, shards, column)
    except ClzooError:
        raise
    except Exception as error:
        raise ClzooError(
            f"{url} cannot be listed: {type_and_first_line(error)}. Nothing was changed; try again."
        ) from error
    return finished(listing, url)


def _one_file(listing: Listing, files: Any, url: str, root: str, name: str) -> list[Item]:
    if command := unpacking(name, files=True):
        raise ClzooError(f"{url} is compressed; shards are .tar or .zip. Download it, then type: {command}")
    if not name.lower().endswith(CONTAINERS):
        raise ClzooError(
            f"{url} is one file; expected a .tar, .zip or .parquet shard, a list (.txt, .csv), or a folder (a prefix) "
            "with images or shards below it. The URL of a folder on a web server ends with /."
        )
    shards: list[Item] = []
    _add(listing, shards, files, url.removesuffix(name), name, patiently(lambda: files.info(root)))
    return shards


def _open_shards(listing: Listing, shards: list[Item], column: str | None) -> None:
    """Add what shards hold; a Parquet file of anything but images is ignored."""
    for shard in sorted(shards):
        if isinstance(shard, ZipItem):
            _add_zip(listing, shard)
        elif isinstance(shard, ParquetItem):
            try:
                is_images = patiently(lambda shard=shard: holds_images(shard.file))  # type: ignore[misc]
                if is_images or (column is not None and holds_images(shard.file, column)):
                    add_rows(listing, shard, column)
                else:
                    ignore(listing, shard.path)
            except ArrowInvalid as error:
                add_unreachable(listing, shard.path, f"a damaged Parquet file: {error}", shard.size, shard.mtime_ns)
    tars = sorted(shard for shard in shards if type(shard) is RemoteItem)
    for shard, index in read_indices(tars):
        add_members(listing, shard, index.replay())


def has_list_suffix(name: str) -> bool:
    """Whether a file of this name may be a list; of a Parquet file its columns tell."""
    return PurePosixPath(name).suffix.lower() in (*LISTS, ".parquet")


def _list_paths(listing: Listing, files: Any, url: str, column: str | None) -> Listing:
    """The files that a list behind a URL names: relative to its own folder, or as URLs."""
    base, _, name = url.rpartition("/")
    _, root = open_url(url)
    listed = read_list(patiently(lambda: files.cat_file(root)), name, url, column)
    listed_paths = [line if is_remote(line) else posixpath.normpath(line).lstrip("/") for line in listed.paths]
    paths = list(dict.fromkeys(listed_paths))
    if repeated := len(listed_paths) - len(paths):
        listing.ignored[REPEATED] = repeated
    pool = ThreadPoolExecutor(_AT_ONCE, "clzoo-list")
    try:
        for found in pool.map(lambda path: _named(path, path if is_remote(path) else join(base, path)), paths):
            if isinstance(found, Item):
                listing.items.append(found)
            else:
                add_unreachable(listing, found.path, found.reason)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    listing = finished(listing, url)
    keep_table(listing, listed_paths, listed.table)
    return listing


def _named(path: str, url: str) -> Item | Failure:
    """One file that a list names; only that it is not there costs no more than itself."""
    files, place = open_url(url)
    try:
        info = patiently(lambda: files.info(place))
    except (FileNotFoundError, PermissionError) as error:
        return Failure(path, None, None, type_and_first_line(error))
    if info.get("size") is None:
        return Failure(path, None, None, "the server does not state its size")
    return RemoteItem(path, int(info["size"]), stamp_of(info), url, None)


def read_remote(root: str, path: str, column: str | None = None) -> bytes:
    """The encoded image at an item's path below the URL `root`, which may lie inside a shard, or be that shard.

    Args:
        column: of the images in Parquet files, as the source chose it.

    Raises:
        UnreadableImageError: it is not there (any more); the message is the reason alone.
    """
    try:
        if is_remote(path):  # of a list of URLs
            root, path = path.rpartition("/")[::2]
        name = root.rpartition("/")[2]
        if name.lower().endswith(CONTAINERS) and path.startswith(f"{name}/"):
            root = root.removesuffix(name)  # the source was this one shard
        shard = _shard_of(root, path)
        if shard is None:
            files, whole = open_url(join(root, path))
            content: bytes = patiently(lambda: files.cat_file(whole))
            return content
        listing = Listing(root=Path())
        if type(shard) is RemoteItem:
            add_members(listing, shard, read_index(shard).replay())
        else:
            _open_shards(listing, [shard], column)
    except Exception as error:
        raise UnreadableImageError(f"cannot be fetched: {type_and_first_line(error)}") from error
    for item in listing.items:
        if item.path == path:
            return item.read()
    raise UnreadableImageError(f"not in {shard.file} (any more)")


def _walk(listing: Listing, files: Any, url: str, root: str, only: Callable[[str], bool] | None = None) -> list[Item]:
    """Add the images below a URL; returns the shards, which are still to be opened."""
    shards: list[Item] = []
    slash = "/" if is_web(url) else ""  # not every web server redirects
    pending = [root]
    while pending:
        folder = pending.pop()
        for info in patiently(lambda folder=folder: files.ls(folder + slash, detail=True)):  # type: ignore[misc]
            name = str(info["name"]).rstrip("/")
            if name.lstrip("/") == folder.lstrip("/"):
                continue  # object stores: the empty object that stands for the folder
            if is_hidden(PurePosixPath(name).name):
                listing.ignored[HIDDEN_FOLDERS if info["type"] == "directory" else HIDDEN] += 1
            elif info["type"] == "directory":
                pending.append(name)
            else:
                path = name.lstrip("/").removeprefix(root.lstrip("/")).lstrip("/")
                if only is None or only(path):
                    _add(listing, shards, files, url, path, info)
    return shards


def _add(listing: Listing, shards: list[Item], files: Any, url: str, path: str, info: Mapping[str, Any]) -> None:
    """Add one file below the URL: to the listing, or to the shards that are still to be opened."""
    if info["type"] != "file":  # whatever its suffix is: a link may have been a folder
        add_unreachable(listing, path, "not a regular file", info.get("size"), stamp_of(info))
        return
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in CONTAINERS and suffix not in SUFFIXES:
        ignore(listing, path)
        return
    if info.get("size") is None:  # a link on a web page
        info = patiently(lambda: files.info(info["name"]))
    size, stamp = info.get("size"), stamp_of(info)
    if size is None:
        add_unreachable(listing, path, "the server does not state its size", size, stamp)
        return
    item = _KINDS.get(suffix, RemoteItem)(path, int(size), stamp, join(url, path), None)
    (shards if suffix in CONTAINERS else listing.items).append(item)


def _add_zip(listing: Listing, shard: Item) -> None:
    require_ranges(shard)
    add_members(listing, shard, read_zip_members(cast("BinaryIO", RemoteFile(shard.file, shard.size))))


def _shard_of(root: str, path: str) -> Item | None:
    """The shard that holds the image at this path, if one does."""
    for parent in PurePosixPath(path).parents:
        if parent.suffix.lower() in CONTAINERS:
            url = join(root, str(parent))
            files, whole = open_url(url)
            if files.isfile(whole):
                info = patiently(lambda files=files, whole=whole: files.info(whole))  # type: ignore[misc]
                kind = _KINDS.get(parent.suffix.lower(), RemoteItem)
                return kind(str(parent), int(info["size"]), stamp_of(info), url, None)
    return None
