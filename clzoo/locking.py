"""Locks between processes. The operating system gives one back when its process ends, however it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

FOREVER = -1.0
"""Seconds to wait for a lock, as filelock counts them."""


def acquired(file: Path, patience: float = 0.0) -> FileLock | None:
    """The lock of a file, which is made; None where another process holds it for so many seconds.

    Raises:
        OSError, NotImplementedError: the file cannot be made, or its file system has no locks.
    """
    lock = FileLock(file, thread_local=False)  # given back by whichever thread ends the work
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return None
    return lock


@contextmanager
def held(file: Path, refusal: str | None, waiting: str = "") -> Iterator[None]:
    """Hold a lock.

    Args:
        refusal: what to say if another process holds it; None waits for it, and `waiting` is logged.

    Raises:
        ClzooError: `refusal`; a folder that cannot be written, or whose file system has no locks.
    """
    try:
        lock = acquired(file)
    except NotImplementedError as error:
        raise ClzooError(
            f"the file system of {file.parent} has no locks, without which two processes could write there at once. "
            "Choose a folder on another one."
        ) from error
    except OSError as error:
        raise ClzooError(
            f"{file.parent} cannot be written: {error.strerror or error}. Make it writable, or choose another folder."
        ) from error
    if lock is None:
        if refusal is not None:
            raise ClzooError(refusal)
        log.info("%s", waiting)
        lock = acquired(file, FOREVER)
        assert lock is not None  # it was waited for
    try:
        yield
    finally:
        lock.release()
