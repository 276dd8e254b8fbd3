"""What fsspec needs around it: errors that say what to type, another attempt, a version of each file."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from clzoo.errors import ClzooError

T = TypeVar("T")

PAUSES = (0.5, 2.0)
"""Seconds between the attempts to read a file."""

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_PACKAGES |= {"http": "aiohttp", "https": "aiohttp"}
_VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "md5", "checksum", "sha256")
_TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")  # at least two letters: C:/ is a drive
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)  # another attempt would not help


def is_remote(source: object) -> bool:
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
        package = _PACKAGES.get(url.partition(":")[0])
        advice = f"Type: pip install {package}" if package else "Install the package that it names."
        raise ClzooError(f"{url} cannot be opened: {error}. {advice}") from error
    except ValueError as error:
        raise ClzooError(
            f"{url} cannot be opened: {error}. Expected s3://, gs://, hf://datasets/... or a path."
        ) from error
    return files, path


def is_web(url: str) -> bool:
    """Whether it is a web server's, which lists folders as pages and may not send parts of files."""
    return url.startswith(("http://", "https://"))


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
            return _hashed(info[key])
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e6) * 1000
        if isinstance(value, int | float):
            return int(value * 1e6) * 1000
        if value:
            return _hashed(value)
    return 0


def patiently(action: Callable[[], T]) -> T:
    """What the action returns; tried three times, unless the storage says that there is no such file or no access."""
    for pause in PAUSES:
        try:
            return action()
        except _FINAL:
            raise
        except Exception:
            time.sleep(pause)
    return action()


def _hashed(value: object) -> int:
    return int.from_bytes(hashlib.sha256(str(value).encode()).digest()[:8], "big") >> 1
