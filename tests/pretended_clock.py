"""A clock that tests wind themselves."""

from __future__ import annotations


class Ticking:
    """Goes on by so many seconds each time that it is read, so that no test waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.at = seconds, 0.0

    def __call__(self) -> float:
        self.at += self.seconds
        return self.at
