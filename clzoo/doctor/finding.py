"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    "problem": something does not work, or gives results or speed that nobody wants; "note": worth knowing, works.
    """

    topic: str
    level: Level
    found: str
    advice: str = ""  # what to type or to set; empty where there is nothing to do

    def to_json(self) -> dict[str, str]:
        """As plain values."""
        return asdict(self)


def ok(topic: str, found: str) -> Finding:
    return Finding(topic, "ok", found)


def note(topic: str, found: str, advice: str = "") -> Finding:
    return Finding(topic, "note", found, advice)


def problem(topic: str, found: str, advice: str) -> Finding:
    return Finding(topic, "problem", found, advice)
