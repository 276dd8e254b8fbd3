"""How far a run is: img/s, the share of time spent waiting for data, the time left. A bar, or now and then a line."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clzoo.embed.stream import Clock
from clzoo.heartbeat import EVERY_SECONDS, Heartbeat, duration

log = logging.getLogger("clzoo")


@contextmanager
def progress_bar(
    total: int, clock: Clock, *, enabled: bool, heartbeat: Heartbeat | None = None
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told after each batch how many images it brought.

    Args:
        total: images to embed.
        clock: whose waiting time is shown.
        enabled: False for neither bar nor lines.
        heartbeat: when a line is due where standard error is no terminal; every 30 s.
    """
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} img/s"),
        TextColumn("{task.fields[waiting]:.0%} waiting for data"),
        TimeRemainingColumn(),
    )
    has_lines = enabled and not console.is_terminal
    heartbeat = heartbeat or Heartbeat(EVERY_SECONDS if has_lines else math.inf)
    started = time.perf_counter()
    done = 0
    with Progress(*columns, console=console, disable=not (enabled and console.is_terminal)) as progress:
        task = progress.add_task("embed", total=total, rate=0.0, waiting=0.0)

        def advance(images: int) -> None:
            nonlocal done
            done += images
            elapsed = max(time.perf_counter() - started, 1e-9)
            rate, waiting = done / elapsed, min(clock.waiting / elapsed, 1.0)
            progress.update(task, completed=done, rate=rate, waiting=waiting)
            if heartbeat.is_due():
                left = duration((total - done) / rate)
                log.info(
                    "%d of %d  %.1f img/s  %.0f%% waiting for data  %s left", done, total, rate, 100 * waiting, left
                )

        yield advance
