"""Images in remote storage, through fsspec: `s3://bucket/prefix`, `gs://`, `hf://datasets/ORG/NAME`, `memory://`.

The packages that speak to a storage (s3fs, gcsfs, adlfs) are the user's; `hf://` comes with huggingface_hub. Unlike a
folder that may not be read, a listing that fails anywhere ends the run: a network that is down for a second must not
look like deleted files.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from clzoo.data.images import SUFFIXES
from clzoo.data.sources import Failure, Item, Listing, item_ids
from clzoo.errors import ClzooError, UnreadableImageError

T = TypeVar("T")

PAUSES = (0.5, 2.0)
"""Seconds between the attempts to read a file."""

_VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "md5", "checksum", "sha256")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")  # at least two letters: C:/ is a drive
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)  # another attempt would not help


class RemoteItem(Item):
    """An image behind a URL (`file`). `mtime_ns` is its version stamp: see `stamp_of`."""

    __slots__ = ()

    def read(self) -> bytes:
        """The encoded image; tried three times.

        Raises:
            UnreadableImageError: the reason alone.
        """
        try:
            return _patiently(lambda: self._fetch())
        except UnreadableImageError:
            raise
        except Exception as error:  # every storage has its own
            raise UnreadableImageError(f"cannot be fetched: {_first_line(error)}") from error

    def _fetch(self) -> bytes:
        files, path = open_url(self.file)
        content: bytes = files.cat_file(path)
        if len(content) != self.size:
            raise UnreadableImageError(f"{len(content)} bytes came, {self.size} were listed")
        return content


def is_remote(source: str | Path) -> bool:
    """Whether a source is a URL; a Path never is."""
    return isinstance(source, str) and _URL.match(source) is not None


def open_url(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        ClzooError: an unknown protocol, or one whose package is not installed.
    """
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        protocol = url.partition(":")[0]
        package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}.get(protocol)
        advice = f"Type: pip install {package}" if package else "Install the package that it names."
        raise ClzooError(f"{url} cannot be opened: {error}. {advice}") from error
    except ValueError as error:
        raise ClzooError(
            f"{url} cannot be opened: {error}. Expected s3://, gs://, hf://datasets/... or a path."
        ) from error
    return files, path


def list_remote(url: str) -> Listing:
    """As `list_images`, of the files below a URL, sorted by path. The listing's `root` is not used.

    Tar shards are not read through a network: each is listed as a failure that says so.

    Raises:
        ClzooError: it cannot be listed, is a single file, or holds no image.
    """
    files, root = open_url(url)
    root = root.rstrip("/")
    listing = Listing(root=Path())
    try:
        files.invalidate_cache()  # of an earlier run in this process
        if files.isfile(root):
            raise ClzooError(f"{url} is one file; expected a prefix (a folder) with images below it.")
        pending = [root]
        while pending:
            folder = pending.pop()
            for info in _patiently(lambda folder=folder: files.ls(folder, detail=True)):  # type: ignore[misc]
                name = str(info["name"]).rstrip("/")
                if name.lstrip("/") == folder.lstrip("/"):
                    continue  # object stores: the empty object that stands for the folder
                if info["type"] == "directory":
                    pending.append(name)
                else:
                    _add(listing, url, name.lstrip("/").removeprefix(root.lstrip("/")).lstrip("/"), info)
    except ClzooError:
        raise
    except Exception as error:
        raise ClzooError(f"{url} cannot be listed: {_first_line(error)}. Nothing was changed; try again.") from error
    if not listing.items and not listing.failures:
        found = ", ".join(f"{count} {suffix}" for suffix, count in listing.ignored.most_common(5)) or "nothing"
        raise ClzooError(
            f"{url} holds no images: found {found}; expected names that end in {' '.join(sorted(SUFFIXES))}."
        )
    listing.items.sort()
    listing.failures.sort(key=lambda failure: failure.path)
    listing.ids = item_ids([item.path for item in listing.items])
    return listing


def read_remote(root: str, path: str) -> bytes:
    """The encoded image at an item's path below the URL `root`.

    Raises:
        UnreadableImageError: it is not there (any more); the message is the reason alone.
    """
    try:
        files, whole = open_url(join(root, path))
        content: bytes = _patiently(lambda: files.cat_file(whole))
        return content
    except Exception as error:
        raise UnreadableImageError(f"cannot be fetched: {_first_line(error)}") from error


def join(root: str, path: str) -> str:
    """URL of a path below a URL."""
    return f"{root.rstrip('/')}/{path}" if not root.endswith("://") else root + path


def stamp_of(info: Mapping[str, Any]) -> int:
    """What stands in the place of mtime_ns: other content has another one.

    The first 63 bits of the SHA-256 of the storage's own version (ETag, Git blob, MD5), where it states one; else its
    time in nanoseconds; else 0, and a changed file is noticed by its size alone.
    """
    for key in _VERSIONS:
        if info.get(key):
            return int.from_bytes(hashlib.sha256(str(info[key]).encode()).digest()[:8], "big") >> 1
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e6) * 1000
        if isinstance(value, int | float):
            return int(value * 1e6) * 1000
        if value:
            return int.from_bytes(hashlib.sha256(str(value).encode()).digest()[:8], "big") >> 1
    return 0


def _add(listing: Listing, url: str, path: str, info: Mapping[str, Any]) -> None:
    suffix = PurePosixPath(path).suffix.lower()
    size = info.get("size")
    if suffix == ".tar":
        reason = "a shard in remote storage; copy it here and embed the copy"
        listing.failures.append(Failure(path, size, stamp_of(info), reason))
    elif suffix not in SUFFIXES:
        listing.ignored[suffix or "no suffix"] += 1
    elif info["type"] != "file" or size is None:
        listing.failures.append(Failure(path, size, stamp_of(info), "not a regular file"))
    else:
        listing.items.append(RemoteItem(path, size, stamp_of(info), join(url, path), None))


def _patiently(action: Callable[[], T]) -> T:
    for pause in PAUSES:
        try:
            return action()
        except _FINAL:
            raise
        except Exception:
            time.sleep(pause)
    return action()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
