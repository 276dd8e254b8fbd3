"""Files that are either whole or absent: written beside their place, synced, then renamed into it."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

LONGEST_JSON = 64 << 20
"""Bytes of a JSON file, unless its reader says less: the largest are manifests and metrics of many classes."""

_DEEPEST = 100  # levels of objects and lists inside each other
_CHUNK = 1 << 20  # bytes read at a time when hashing


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed onto `path`.

    A process killed at any instant leaves either the old file or the new one, and at worst a marked `.tmp-*` folder
    that nothing reads and the next process that writes `path` deletes.
    """
    from clzoo.temporary import temporary_folder  # needs filelock, and `clzoo.lite` reads files where that is missing

    with temporary_folder(path.parent, f"the file {path.name}") as folder:
        temporary = folder / path.name  # some writers (numpy.save, PIL) choose or add an ending by the suffix
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors leaves a file that nobody but its owner may read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)


@contextmanager
def output_path(path: Path) -> Iterator[Path]:
    """`atomic_path` for a file whose place the user named.

    Raises:
        ClzooError: there is a folder, a device or a pipe, or it cannot be written there.
    """
    try:
        if path.is_dir():
            raise ClzooError(f"{path} is a folder; expected the name of a file, e.g. {path / 'NAME'}")
        if is_special(path):
            raise ClzooError(special_refusal(path))
        with atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        raise ClzooError(
            f"{path} cannot be written: {error.strerror or error}. Free the place, or name another file."
        ) from error


def is_special(path: Path) -> bool:
    """Whether a file that is renamed onto the path would take the place of a device, a pipe or /dev/stdout.

    The last is a link, and leads to a plain file where standard output does.
    """
    folder = os.path.realpath(path.parent)
    return (path.exists() and not path.is_file()) or folder == "/dev" or folder.startswith("/proc/")


def special_refusal(path: Path) -> str:
    """What to say of an output that `is_special`."""
    return (
        f"{path} is a device or a pipe, and what is written here is renamed onto its name when it is whole. "
        "Name a file, and send that on."
    )


@contextmanager
def filled_folder(
    final: Path, *, refusal: str | None = None, renamed: Callable[[], str] | None = None
) -> Iterator[Path]:
    """Yield a new folder beside `final`; on success it is renamed to `final`, unless that has content by then.

    A process killed at any instant leaves nothing under the final name, and at worst a marked `.tmp-*` folder that the
    next process that fills `final` deletes.

    Args:
        refusal: what to say if another process fills it; without it both do, and the first to end wins.
        renamed: gives the final name, where only the content tells it.

    Raises:
        ClzooError: `refusal`.
    """
    from clzoo.temporary import temporary_folder

    with temporary_folder(final.parent, f"the folder {final.name}", refusal=refusal) as folder:
        temporary = folder / "content"
        temporary.mkdir()
        yield temporary
        fsync_all(temporary)
        if renamed is not None:
            final = final.with_name(renamed())
        try:
            with suppress(OSError):
                final.rmdir()  # empty; Windows renames onto nothing that exists
            temporary.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was faster, and its folder is as good
                raise
        fsync_folder(final.parent)


def fsync_all(folder: Path) -> None:
    """Make the files in a folder durable, at any depth."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        elif path.is_dir() and not path.is_symlink():
            fsync_folder(path)
    fsync_folder(folder)


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
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_bytes(path: Path, longest: int) -> bytes:
    """The content of a file that ought to be small.

    Raises:
        ClzooError: it is missing, cannot be read, or has more than `longest` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(longest + 1)
    except FileNotFoundError:
        raise ClzooError(f"{path} does not exist.") from None
    except OSError as error:  # a folder, or one that may not be read
        raise ClzooError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > longest:
        raise ClzooError(f"{path} has more than {longest:,} bytes, which no file of its kind has. Is it the right one?")
    return content


def read_json(path: Path, longest: int = LONGEST_JSON) -> Any:
    """Read a JSON file of at most so many bytes.

    Raises:
        ClzooError: the file is missing, too long, nested too deep, or not JSON.
    """
    return parse_json(read_bytes(path, longest), str(path), "Restore it or delete it.")


def parse_json(content: bytes | str, where: str, remedy: str) -> Any:
    """The value of a JSON text; `where` is named in errors, which end with `remedy`.

    Raises:
        ClzooError: it is not JSON, or nested more than 100 levels deep.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ClzooError(f"{where} is nested more than {_DEEPEST} levels deep. {remedy}") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise ClzooError(f"{where} is not valid JSON ({error}). {remedy}") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return value
    raise ClzooError(f"{where} is nested more than {_DEEPEST} levels deep. {remedy}")


def sha256_of(file: Path | BinaryIO) -> str:
    """Hexadecimal SHA-256 of all bytes of a file, named or open."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return sha256_of(opened)
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
