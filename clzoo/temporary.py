"""Temporary folders that can be told from the user's own, so that what dead processes left can be deleted.

What clzoo writes lies at first in a folder `.tmp-<16 hex digits>-<number>` beside its final place, which holds

    .clzoo-lock    held by the writing process; the operating system gives it back however that ends
    .clzoo-mark    the mark: says that clzoo made this folder, and for what
    .clzoo-keep    while it is there, nobody deletes the folder: it may hold the only copy of something
    ...            the file or the folder that is being written

The digits are a hash of what it is for, so the next process that writes the same thing finds what its predecessors
left without a search. A folder is deleted only if the mark is in it and the lock is free: never by its name or its age.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from clzoo.errors import ClzooError
from clzoo.locking import acquired

TEMPORARY = ".tmp-"
"""How the names of temporary folders begin."""

KEEP = ".clzoo-keep"
"""A file that keeps a temporary folder from being deleted."""

_LOCK, _MARK = ".clzoo-lock", ".clzoo-mark"
_NAME = re.compile(rf"{re.escape(TEMPORARY)}[0-9a-f]{{16}}-\d+")
_PATIENCE = 10.0  # seconds
_NUMBERS = 16  # that are looked at for what others left; writers at once take more where these are taken
_LIVE: set[str] = set()  # of this process: a lock that is shared by all its threads would not tell


@contextmanager
def temporary_folder(parent: Path, purpose: str, *, refusal: str | None = None) -> Iterator[Path]:
    """Yield a new folder inside `parent`, deleted at the end; what dead processes left of this purpose goes first.

    Args:
        parent: made if missing.
        purpose: what is written there, such as the final name.
        refusal: what to say if another process writes the same; without it both may.

    Raises:
        ClzooError: `refusal`.
    """
    parent.mkdir(parents=True, exist_ok=True)
    place, lock = _take(parent, purpose, refusal)
    _LIVE.add(_key(place))
    try:
        yield place
    finally:
        if not (place / KEEP).exists():
            _remove(place)
        lock.release()
        if os.name == "nt":  # where a held lock cannot be deleted
            _remove(place)
        _LIVE.discard(_key(place))


def sweep(folder: Path) -> None:
    """Delete the temporary folders of dead processes in a folder that is clzoo's own, whatever they were for."""
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if _NAME.fullmatch(entry.name):
                _remove_if_dead(Path(entry.path))


def is_temporary(folder: Path) -> bool:
    """Whether a folder is a temporary one that clzoo made, alive or dead."""
    return bool(_NAME.fullmatch(folder.name)) and _is_marked(folder)


@contextmanager
def held_leftover(parent: Path, purpose: str) -> Iterator[Path | None]:
    """Yield the folder that a dead process left of this purpose and that has `KEEP` in it, locked; or None.

    A living process is waited for: it is about to take `KEEP` away. What it leaves without is deleted at the end.
    """
    place = next(
        (p for n in range(_NUMBERS) if (p := _place(parent, purpose, n)) and (p / KEEP).exists() and _has_mark(p)), None
    )
    if place is None:
        yield None
        return
    lock = acquired(place / _LOCK, _PATIENCE)
    if lock is None:
        raise ClzooError(f"{place} is held by another process. Wait until it ends, then try again.")
    try:
        yield place if (place / KEEP).exists() else None
        if not (place / KEEP).exists() and _is_marked(place):
            _remove(place)
    finally:
        lock.release()


def was_left(parent: Path, purpose: str) -> bool:
    """Whether a temporary folder of this purpose is there, alive or dead."""
    return any(_is_marked(_place(parent, purpose, number)) for number in range(_NUMBERS))


def _take(parent: Path, purpose: str, refusal: str | None) -> tuple[Path, FileLock]:
    """A new folder first, then the dead ones go: so at any instant of a series of kills there is a mark."""
    number = 0
    while (lock := _make(place := _place(parent, purpose, number), purpose)) is None:
        number += 1
    for other in (_place(parent, purpose, number) for number in range(_NUMBERS)):
        if other == place:
            continue
        _remove_if_dead(other)
        if refusal is not None and _has_mark(other):
            _remove(place)
            lock.release()
            raise ClzooError(refusal)
    return place, lock


def _place(parent: Path, purpose: str, number: int) -> Path:
    digits = hashlib.sha256(f"clzoo temporary: {purpose}".encode(errors="surrogateescape")).hexdigest()[:16]
    return parent / f"{TEMPORARY}{digits}-{number}"


def _make(place: Path, purpose: str) -> FileLock | None:
    """The lock of a new folder; None where there is one already, or another process took it."""
    try:
        place.mkdir()
    except FileExistsError:
        return None
    try:
        lock = acquired(place / _LOCK)
    except NotImplementedError:
        lock = FileLock(place / _LOCK)  # a file system without locks: nobody will ever take it for dead
    except FileNotFoundError:  # swept between the lines above
        return None
    if lock is None:
        return None
    try:
        (place / _MARK).write_text(_mark_of(place) + f"\n{purpose!a}\n", encoding="utf-8")
    except FileNotFoundError:
        return None
    return lock


def _mark_of(place: Path) -> str:
    return f"clzoo temporary folder {place.name}: may be deleted when no process holds {_LOCK}"


def _is_marked(place: Path) -> bool:
    """May be deleted when it is dead: the mark is inside, and no `KEEP`.

    Or nothing at all but the empty beginning of a mark, of a process that was killed between two calls.
    """
    if (place / KEEP).exists() or place.is_symlink() or not place.is_dir():
        return False
    try:
        names = {path.name for path in place.iterdir()}
        mark = (place / _MARK).read_text(encoding="utf-8", errors="replace") if _MARK in names else ""
    except OSError:
        return False
    return mark.startswith(_mark_of(place)) or (not mark and names <= {_LOCK, _MARK})


def _has_mark(place: Path) -> bool:
    try:
        return (place / _MARK).read_text(encoding="utf-8", errors="replace").startswith(_mark_of(place))
    except OSError:
        return False


def _remove_if_dead(place: Path) -> None:
    if _key(place) in _LIVE or not _is_marked(place):
        return
    try:
        lock = acquired(place / _LOCK)
    except (OSError, NotImplementedError):
        return
    if lock is None:
        return
    try:
        if _is_marked(place):
            _remove(place)
    finally:
        lock.release()


def _remove(place: Path) -> None:
    """Delete a folder whose lock is held: the mark after the content, the lock last. A kill leaves it marked."""
    with suppress(OSError):  # what cannot be deleted now, the next process deletes
        for path in place.iterdir():
            if path.name not in (_LOCK, _MARK):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for name in (_MARK, _LOCK):
            (place / name).unlink(missing_ok=True)
        place.rmdir()


def _key(place: Path) -> str:
    return os.path.abspath(place)  # noqa: PTH100 (Path.resolve follows links, and asks the disk)
