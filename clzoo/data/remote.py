"""Images in remote storage, through fsspec: `s3://bucket/prefix`, `gs://`, `hf://datasets/ORG/NAME`, `https://`.

The packages that speak to a storage (s3fs, gcsfs, adlfs, aiohttp) are the user's; `hf://` comes with huggingface_hub.
Unlike a folder that may not be read, a listing that fails anywhere ends the run: a network that is down for a second
must not look like deleted files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from clzoo.data.archives import unpacking
from clzoo.data.images import SUFFIXES
from clzoo.data.listing import (
    CONTAINERS,
    HIDDEN,
    HIDDEN_FOLDERS,
    Item,
    Listing,
    add_unreachable,
    finished,
    ignore,
    is_hidden,
)
from clzoo.data.members import add_members
from clzoo.data.ranges import BLOCKS
from clzoo.data.remote_shards import RemoteFile, read_index, read_indices, require_ranges
from clzoo.data.storage import first_line, is_web, join, open_url, patiently, stamp_of
from clzoo.data.zips import ZipItem, read_zip_members
from clzoo.errors import ClzooError, UnreadableImageError


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
            raise UnreadableImageError(f"cannot be fetched: {first_line(error)}") from error

    def _fetch(self) -> bytes:
        if self.offset is not None:
            return BLOCKS.read(self.file, self.mtime_ns, self.offset, self.size)
        files, path = open_url(self.file)
        content: bytes = files.cat_file(path)
        if len(content) != self.size:
            raise UnreadableImageError(f"{len(content)} bytes came, {self.size} were listed")
        return content


def list_remote(url: str) -> Listing:
    """As `list_images`, of the files below a URL, or of one `.tar` or `.zip` shard. The listing's `root` is not used.

    On a web server a folder is a page of links, and its URL ends with a slash.

    Raises:
        ClzooError: it cannot be listed, is a single file but no shard, or holds no image; a server that cannot send
            parts of a shard.
    """
    files, root = open_url(url)
    root = root.rstrip("/")
    listing = Listing(root=Path())
    shards: list[Item] = []
    BLOCKS.clear()  # of an earlier run in this process
    try:
        files.invalidate_cache()
        if not url.endswith("/") and files.isfile(root):
            name = url.rpartition("/")[2]
            if command := unpacking(name, files=True):
                raise ClzooError(f"{url} is compressed; shards are .tar or .zip. Download it, then type: {command}")
            if not name.lower().endswith(CONTAINERS):
                raise ClzooError(
                    f"{url} is one file; expected a .tar or .zip shard, or a folder (a prefix) with images or shards "
                    "below it. The URL of a folder on a web server ends with /."
                )
            _add(listing, shards, files, url.removesuffix(name), name, patiently(lambda: files.info(root)))
        else:
            _walk(listing, shards, files, url, root)
        for archive in sorted(shard for shard in shards if isinstance(shard, ZipItem)):
            _add_zip(listing, archive)
        for shard, index in read_indices(sorted(shard for shard in shards if not isinstance(shard, ZipItem))):
            add_members(listing, shard, index.replay())
    except ClzooError:
        raise
    except Exception as error:
        raise ClzooError(f"{url} cannot be listed: {first_line(error)}. Nothing was changed; try again.") from error
    return finished(listing, url)


def read_remote(root: str, path: str) -> bytes:
    """The encoded image at an item's path below the URL `root`, which may lie inside a shard, or be that shard.

    Raises:
        UnreadableImageError: it is not there (any more); the message is the reason alone.
    """
    try:
        name = root.rpartition("/")[2]
        if name.lower().endswith(CONTAINERS) and path.startswith(f"{name}/"):
            root = root.removesuffix(name)  # the source was this one shard
        shard = _shard_of(root, path)
        if shard is None:
            files, whole = open_url(join(root, path))
            content: bytes = patiently(lambda: files.cat_file(whole))
            return content
        listing = Listing(root=Path())
        if isinstance(shard, ZipItem):
            _add_zip(listing, shard)
        else:
            add_members(listing, shard, read_index(shard).replay())
    except Exception as error:
        raise UnreadableImageError(f"cannot be fetched: {first_line(error)}") from error
    for item in listing.items:
        if item.path == path:
            return item.read()
    raise UnreadableImageError(f"not in {shard.file} (any more)")


def _walk(listing: Listing, shards: list[Item], files: Any, url: str, root: str) -> None:
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
                _add(listing, shards, files, url, path, info)


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
    kind = ZipItem if suffix == ".zip" else RemoteItem
    item = kind(path, int(size), stamp, join(url, path), None)
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
                kind = ZipItem if parent.suffix.lower() == ".zip" else RemoteItem
                return kind(str(parent), int(info["size"]), stamp_of(info), url, None)
    return None
