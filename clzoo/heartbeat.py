"""Progress where there is no terminal: one line in the log every half minute."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 30.0
"""Between two lines."""


class Heartbeat:
    """Says when the next line is due; the first is `every` seconds after the start."""

    def __init__(self, every: float = EVERY_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._last = clock()

    def is_due(self) -> bool:
        """True once for each time that `every` seconds have passed; after a longer pause too but once."""
        now = self._clock()
        if now - self._last < self._every:
            return False
        self._last = now
        return True


def duration(seconds: float) -> str:
    """In the unit that a person would choose, to two digits: "40 seconds", "12 minutes", "3.5 hours", "9 days"."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length * (1 if unit == "minute" else 1.5):
            return _counted(seconds / length, unit)
    return _counted(seconds, "second") if seconds >= 0.5 else "less than a second"


def _counted(value: float, unit: str) -> str:
    text = f"{value:.0f}" if value >= 9.95 or unit == "second" else f"{value:.1f}".removesuffix(".0")
    return f"{text} {unit}" if text == "1" else f"{text} {unit}s"
