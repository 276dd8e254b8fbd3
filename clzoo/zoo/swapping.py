"""Replacing a model folder as a whole: never the new model beside files of the old one.

The new folder is made beside the old one, in a marked temporary folder (`clzoo.temporary`), and changes places with it
in two renames. The standard library has no single one that exchanges folders. So a process killed between the two (some
microseconds) leaves no folder under the final name, but both of them whole inside the temporary one, and whoever comes
next, the same command or a reader such as `clzoo.load`, does the second rename. A kill before leaves the old folder.

Files of the user's own in the old folder are moved into the new one; nothing but the old model is deleted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from clzoo.errors import ClzooError
from clzoo.files import fsync_all, fsync_folder
from clzoo.temporary import KEEP, held_leftover, temporary_folder

log = logging.getLogger("clzoo")

_NEW, _OLD = "new", "old"


@contextmanager
def swapped_folder(folder: Path, parts: Collection[str]) -> Iterator[Path]:
    """Yield a new, empty folder that takes the place of `folder` at the end; on an exception `folder` stays as it is.

    A process that stands in `folder` stands in the new one afterwards; its shell has to be told.

    Args:
        parts: names of files and sub-folders that belong to what is replaced. All others are the user's, and stay.

    Raises:
        ClzooError: another process is replacing the folder.
    """
    folder = folder.resolve()
    settle(folder, parts)
    stand_in_it = _working_folder() == folder
    refusal = f"another clzoo process is writing {folder}. Wait until it ends, or name another folder."
    with temporary_folder(folder.parent, _purpose(folder), refusal=refusal) as place:
        new = place / _NEW
        new.mkdir()
        yield new
        fsync_all(new)
        if folder.is_dir() and any(folder.iterdir()):
            (place / KEEP).touch()  # from here on it may hold the only copy
            folder.rename(place / _OLD)
        elif folder.is_dir():
            folder.rmdir()
        new.rename(folder)
        if stand_in_it:  # else this process stands in the old one, where relative paths lead nowhere
            os.chdir(folder)
            log.warning("%s is another folder now, by the same name. Type in your shell: cd .", folder)
        fsync_folder(folder.parent)
        _tidy(place, folder, parts)


def settle(folder: Path, parts: Collection[str] = ()) -> None:
    """Finish the replacement of `folder` that a killed process left between two renames; a writer also tidies up.

    Without such a kill this costs one look at the disk.

    Args:
        parts: as of `swapped_folder`; a reader names none, and leaves the old files to the next writer.

    Raises:
        ClzooError: the rename is not permitted here.
    """
    if not parts and folder.exists():
        return
    folder = folder.resolve()
    with held_leftover(folder.parent, _purpose(folder)) as place:
        if place is None:
            return
        try:
            if not folder.exists() and (place / _NEW).is_dir():
                (place / _NEW).rename(folder)
                fsync_folder(folder.parent)
            if parts:
                _tidy(place, folder, parts)
        except OSError as error:
            raise ClzooError(
                f"{folder} was being replaced when a process was killed; both states lie in {place}, and finishing it "
                f"failed: {error}. Rename {place / _NEW} to {folder}."
            ) from error


def _tidy(place: Path, folder: Path, parts: Collection[str]) -> None:
    """Give the new folder the user's own files of the old one; then the temporary folder may be deleted."""
    old = place / _OLD
    if old.is_dir():
        for path in old.iterdir():
            if path.name not in parts and not (folder / path.name).exists():
                path.rename(folder / path.name)
    (place / KEEP).unlink(missing_ok=True)


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # deleted
        return None


def _purpose(folder: Path) -> str:
    return f"a new {folder.name}"
