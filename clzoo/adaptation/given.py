"""What is refused of the arguments of `adapt` and `distil`, before anything is opened."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clzoo.errors import ClzooError
from clzoo.pretrain.run_folder import LOCK, train_alone
from clzoo.temporary import is_temporary

MOST_SEEDS = 100
"""Runs of one adaptation: more tell nothing that fewer do not (our choice)."""


def require_minutes(minutes: float | None) -> None:
    """Refuse a time that is none.

    Raises:
        ClzooError: not above 0, not finite.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise ClzooError(
            f"--minutes {minutes:g}: expected a number above 0, such as --minutes 30. Without it there is no limit."
        )


def require_seeds(seeds: int) -> None:
    """Refuse a number of runs that cannot be.

    Raises:
        ClzooError: below 1, above MOST_SEEDS.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise ClzooError(f"--seeds {seeds}: expected 1 to {MOST_SEEDS}, such as --seeds 3.")


def require_place(folder: Path, plan: Path, what: str, own: tuple[str, ...] = ()) -> None:
    """Refuse a folder that is no place for what is to come, before any time is spent on it.

    Args:
        plan: the file that says that the folder is one of these already.
        what: what it would be one of, for the message.
        own: names that may lie there before there is a plan.

    Raises:
        ClzooError: a file lies there or above, it holds something else, or it cannot be written.
    """
    for place in (folder, *folder.parents):
        if (place.exists() or place.is_symlink()) and not place.is_dir():
            raise ClzooError(f"{place} is a file, expected a folder. Choose another --out.")
    try:
        with _made(folder), tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ClzooError(f"{folder} cannot be written: {error.strerror or error}. Choose another --out.") from error
    if plan.is_file() or not folder.is_dir():
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, *own) and not is_temporary(path))
    if foreign:
        raise ClzooError(f"{folder} is not empty and is no {what} (it holds {foreign[0]}). Choose another --out.")


@contextmanager
def work_alone(folder: Path) -> Iterator[None]:
    """Keep other processes from planning and training here; the folder is made, and goes again if it stays empty.

    Raises:
        ClzooError: another process is at work there.
    """
    with _made(folder), train_alone(folder):
        yield


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """With a folder and those above it; what was not there before goes again."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in missing:
            with suppress(OSError):
                place.rmdir()
