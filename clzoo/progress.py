"""How far long work is: a bar on a terminal, and elsewhere a line in the log every half minute."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from clzoo.errors import ClzooError
from clzoo.heartbeat import EVERY_SECONDS, Heartbeat, duration

log = logging.getLogger("clzoo")

T = TypeVar("T")


class Progress:
    """To be entered, and told how much is done.

    Args:
        what: how bar and lines begin.
        total: None where it is not known; then there are no lines.
        done: of the total before this process began.
        shown: False for neither bar nor lines. A logger `clzoo` that is quiet hides both, too.
        heartbeat: when a line is due; by default every 30 s where standard error is no terminal.

    Raises:
        ClzooError: rich is not installed, as `clzoo.lite` has it.
    """

    def __init__(
        self, what: str, total: int | None, *, done: int = 0, shown: bool = True, heartbeat: Heartbeat | None = None
    ) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar
        except ImportError as error:
            raise ClzooError("a progress bar needs rich. Type: pip install rich") from error
        console = Console(stderr=True)
        has_bar = shown and console.is_terminal and log.isEnabledFor(logging.INFO)
        said = TextColumn("{task.fields[said]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), said, TimeRemainingColumn())
        self._bar = Bar(*columns, console=console, disable=not has_bar)
        self._task = self._bar.add_task(what, total=total, completed=done, said="")
        has_lines = shown and not console.is_terminal and total is not None
        self._heartbeat = heartbeat or Heartbeat(EVERY_SECONDS if has_lines else math.inf)
        self._what, self._total = what, total
        self._since, self._from = time.monotonic(), done
        self._is_first = True

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def tell(self, done: int, said: str = "") -> None:
        """So much of the total is done; `said` stands beside it."""
        self._bar.update(self._task, completed=done, said=said)
        if self._total is not None and self._heartbeat.is_due() and done > self._from:
            left = (time.monotonic() - self._since) / (done - self._from) * (self._total - done)
            parts = (f"{self._what} {done} of {self._total}".lstrip(), said, f"{duration(left)} left")
            log.info("%s", "  ".join(part for part in parts if part))
        if self._is_first:  # it says nothing of the others: it compiles, or fills caches
            self._is_first, self._since, self._from = False, time.monotonic(), done


def with_progress(results: Iterable[T], total: int | None, what: str) -> Iterator[T]:
    """The results, while a bar shows `what`; without lines.

    Raises:
        ClzooError: as `Progress`.
    """
    with Progress(what, total, heartbeat=Heartbeat(math.inf)) as progress:
        for done, result in enumerate(results, 1):
            yield result
            progress.tell(done)
