"""Lists of paths: a text file with one a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from clzoo.data.listing import REPEATED, Failure, Listing
from clzoo.errors import ClzooError


def add_lines(listing: Listing, source: Path, add_file: Callable[..., None]) -> None:
    """List the files that a text file names, one a line, relative to its own folder.

    Args:
        add_file: takes (listing, file, path, any_suffix=True).

    Raises:
        ClzooError: it is not text, or cannot be read.
    """
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
            add_file(listing, str(file), path, any_suffix=True)


def _is_folder_at(file: Path) -> bool:
    try:
        return file.is_dir()
    except OSError:  # not even that can be known; `add_file` finds the reason
        return False
