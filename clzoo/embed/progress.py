"""The progress bar: img/s, the share of time spent waiting for data, the ETA. Only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clzoo.embed.stream import Clock


@contextmanager
def progress_bar(total: int, clock: Clock, *, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told after each batch how many images it brought.

    Args:
        total: images to embed.
        clock: whose waiting time is shown.
        enabled: False for none; on anything but a terminal there is none either.
    """
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} img/s"),
        TextColumn("{task.fields[waiting]:.0%} waiting for data"),
        TimeRemainingColumn(),
    )
    started = time.perf_counter()
    done = 0
    with Progress(*columns, console=console, disable=not (enabled and console.is_terminal)) as progress:
        task = progress.add_task("embed", total=total, rate=0.0, waiting=0.0)

        def advance(images: int) -> None:
            nonlocal done
            done += images
            elapsed = max(time.perf_counter() - started, 1e-9)
            progress.update(task, completed=done, rate=done / elapsed, waiting=min(clock.waiting / elapsed, 1.0))

        yield advance
