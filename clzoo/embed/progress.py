"""How far a run is: img/s, the share of time spent waiting for data, the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clzoo.embed.stream import Clock
from clzoo.heartbeat import Heartbeat
from clzoo.progress import Progress


@contextmanager
def progress_bar(
    total: int, clock: Clock, *, enabled: bool, heartbeat: Heartbeat | None = None
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told after each batch how many images it brought.

    Args:
        total: images to embed.
        clock: whose waiting time is shown.
        enabled: False for neither bar nor lines.
        heartbeat: as of `clzoo.progress.Progress`.
    """
    started = time.perf_counter()
    done = 0
    with Progress("", total, shown=enabled, heartbeat=heartbeat) as progress:

        def advance(images: int) -> None:
            nonlocal done
            done += images
            elapsed = max(time.perf_counter() - started, 1e-9)
            waiting = min(clock.waiting / elapsed, 1.0)
            progress.tell(done, f"{done / elapsed:.1f} img/s  {waiting:.0%} waiting for data")

        yield advance
