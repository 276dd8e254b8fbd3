"""What `--minutes` allow and what was taken of them. The clock decides once, writes down what, and the rest follows.

Its one decision in a run is a nearer end: `schedule.shortened` of the recipe, which is written before the run goes on.
The recipe alone then makes the same weights again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clzoo.files import read_json, write_json
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.stopping import asked_to_stop

log = logging.getLogger("clzoo")

now = time.monotonic

TIME = "time.json"

PLANNED = 0.9
"""Share of the time of training that steps are planned for: the timed ones read no images and write no checkpoints."""

_LOOKED_AT_FROM = 0.5  # share of a run's time after which its end is forecast
_SHORTENED = 0.95  # share of what is left that a nearer end is planned for

IsLate = Callable[[int, int], bool]


class Clock:
    """Seconds that were taken, by part, over all processes of an adaptation.

    They are kept beside the plan at each checkpoint; what a killed process took after its last one is lost and not
    counted, as its steps are not. From `minutes` None nothing follows.

    Attributes:
        taken: seconds by part.
        ends: whether there is a time to keep to.
    """

    def __init__(self, path: Path, minutes: float | None, *, keeps: bool = True) -> None:
        self._path, self._keeps = path, keeps
        self._since = now()
        self._seconds = math.inf if minutes is None else 60 * minutes
        self.ends = minutes is not None
        self.taken: dict[str, float] = read_json(path) if path.is_file() else {}

    def book(self, part: str) -> float:
        """Count everything since the last booking to a part; returns what that part has taken so far."""
        at = now()
        self.taken[part] = self.taken.get(part, 0.0) + at - self._since
        self._since = at
        if self._keeps and self._path.parent.is_dir():
            write_json(self._path, {name: round(seconds, 2) for name, seconds in self.taken.items()})
        return self.taken[part]

    def begin_anew(self) -> None:
        """Count nothing that other processes took; what this one took since its last booking goes on to count."""
        self.taken = {}

    def left(self) -> float:
        """Seconds; below 0 where it took longer."""
        return self._seconds - sum(self.taken.values()) - (now() - self._since)

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds / 60:.1f}" for part, seconds in self.taken.items() if seconds >= 3)
        total = sum(self.taken.values()) / 60
        asked = f" of {self._seconds / 60:g}" if self.ends else ""
        return f"{total:.1f}{asked} minutes" + (f": {parts}" if parts else "")


class Lateness:
    """Whether a run that has so many seconds left will end in them: asked after each step, from half of them on.

    Attributes:
        at, end: the step after which it was found late, and the one at which it has to end; None while it is in time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, now()
        self._first: int | None = None
        self.at: int | None = None
        self.end: int | None = None

    def __call__(self, done: int, total: int) -> bool:
        """Whether the run is to stop after this step, for a nearer end."""
        self._first = done - 1 if self._first is None else self._first
        used = now() - self._began
        if done >= total or used < _LOOKED_AT_FROM * self._seconds:
            return False
        each = used / (done - self._first)
        fits = (self._seconds - used) / each if each else math.inf
        if fits >= total - done:
            return False
        self.at, self.end = done, done + max(1, int(_SHORTENED * fits))
        return True


def train_in_time(
    train: Callable[[Recipe, IsLate | None], bool],
    recipe: Recipe,
    seconds: Callable[[], float] | None,
    keep: Callable[[Recipe], object],
) -> tuple[bool, Recipe]:
    """Train, with a nearer end where the machine turns out slower than it was timed.

    Args:
        train: trains or goes on by a recipe, and stops with a checkpoint after the step that it is told to be late at.
        seconds: tells what is left for this run; None: as long as it takes.
        keep: writes the recipe with the nearer end, before anything is done by it.

    Returns:
        Whether to go on: it is finished, and was not asked to stop; and the recipe that it ends by.
    """
    while True:
        late = None if seconds is None else Lateness(seconds())
        with asked_to_stop() as stop:
            finished = train(recipe, late)
        if finished or late is None or late.at is None or late.end is None or stop.is_set():
            return finished and not stop.is_set(), recipe  # asked in the last step it does not go on to what comes next
        recipe = shortened(recipe, late.at, late.end)
        log.warning("slower than it was timed: the run ends after step %d, for --minutes", late.end)
        keep(recipe)


def shortened(recipe: Recipe, step: int, end: int) -> Recipe:
    """The recipe with a nearer end, decided after so many steps."""
    table: dict[str, Any] = recipe.model_dump(mode="json")
    table["schedule"]["shortened"] = [*table["schedule"]["shortened"], [step, end]]
    return Recipe.model_validate(table)
