"""Files that are either whole or absent: written beside their place, synced, then renamed into it."""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clzoo.errors import ClzooError

TEMPORARY = ".tmp-"
"""How the names of temporary files and folders begin."""

_ABANDONED = 24 * 3600  # seconds after which a temporary folder counts as left by a killed process
_CHUNK = 1 << 20  # bytes read at a time when hashing


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it is synced and renamed onto `path`.

    A process killed at any instant leaves either the old file or the new one, and at worst a `.tmp-*` file that
    nothing reads. On an exception the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers (numpy.save, PIL) choose or add an ending by it.
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors leaves a file that nobody but its owner may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def held(lock_file: Path, refusal: str) -> Iterator[None]:
    """Hold a lock, without waiting. The operating system gives it back when the process ends, however it ends.

    Raises:
        ClzooError: another process holds it; `refusal` is the text.
    """
    from filelock import FileLock, Timeout  # `clzoo.lite` reads files where it is not installed

    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ClzooError(refusal) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def filled_folder(final: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `final`; on success it is renamed to `final`, unless that exists by then.

    A process killed at any instant leaves nothing under the final name; what it left under a temporary one is deleted
    by a later call, a day after.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final.parent)
    temporary = final.parent / f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was faster, and its folder is as good
                raise
        fsync_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete what processes killed long ago have left."""
    for path in folder.glob(f"{TEMPORARY}*"):
        try:
            if time.time() - max(p.stat().st_mtime for p in (path, *path.glob("*"))) > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:  # another process swept it
            continue


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable. Windows cannot open folders and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. NaN and infinities are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ClzooError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClzooError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ClzooError(f"{path} is not valid JSON ({error}). Restore it or delete it.") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
