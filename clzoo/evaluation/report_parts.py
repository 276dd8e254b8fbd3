"""What pages of evaluations are made of; the templates in clzoo/templates draw it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clzoo.data.collection import Images
from clzoo.errors import UnreadableImageError
from clzoo.evaluation.controls import PIXELS, UNTRAINED
from clzoo.evaluation.leaks import WITHOUT
from clzoo.evaluation.mistakes import chance, confused_pairs, wilson_interval
from clzoo.metrics import THIS_MODEL
from clzoo.page import data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CLASSES = 40  # a line each; of more the worst and the best are shown
_SHOWN = 15  # of either
_SIDE = 96  # pixels of a thumbnail
_PICTURES = 4  # of each direction of a confused pair


@dataclass(frozen=True)
class Table:
    """Rows under column names; a column of numbers is right-aligned, None is a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    @property
    def numeric(self) -> list[bool]:
        return [all(isinstance(row[i], int | float | None) for row in self.rows) for i in range(len(self.columns))]


@dataclass(frozen=True)
class Headline:
    """A number with what it has to be held against, all in percent.

    Attributes:
        low, high: its 95 % interval over the test images.
        note: how many images, and the spread over seeds.
        others: names and values of chance and the controls; None where one was not measured.
    """

    title: str
    value: float
    low: float
    high: float
    note: str
    others: Sequence[tuple[str, float | None]]


@dataclass(frozen=True)
class Dots:
    """One line a class, sorted.

    Attributes:
        lines: names and values of each class.
        dropped: classes between the worst and the best that are not shown.
        low, high: values at the ends of every line.
    """

    lines: Sequence[tuple[str, float]]
    dropped: int = 0
    low: float = 0
    high: float = 100

    def place(self, value: float) -> float:
        """Percent of a line's length."""
        return 100 * (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Pair:
    """Two classes that are mistaken for each other.

    Attributes:
        directions: of each, how many test images of which class were taken for which, and data URIs of some.
    """

    first: str
    second: str
    directions: Sequence[tuple[int, str, str, Sequence[str]]]


@dataclass(frozen=True)
class Section:
    """A part of a page. `folded` ones are details that a reader opens."""

    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Mapping[str, Figure] = field(default_factory=dict)
    headlines: Sequence[Headline] = ()
    dots: Dots | None = None
    pairs: Sequence[Pair] = ()
    cases: Sequence[Any] = ()
    folded: bool = False


def headlines_of(metrics: dict[str, Any], labels: np.ndarray | None) -> list[Headline]:
    """The top-1 accuracies of an evaluation's own data, each beside chance and the controls of the same protocol.

    Args:
        labels: (N,) of the test images; without them chance is that of balanced classes.
    """
    images, classes = metrics["data"]["test"]["images"], len(metrics["data"]["classes"])
    by_chance = 100 / classes if labels is None else chance(labels)
    rows = [
        row for row in metrics["results"] if row["metric"] == "top-1" and row["dataset"] == metrics["data"]["title"]
    ]
    found = []
    for row in rows:
        if row["of"] != THIS_MODEL or row["protocol"].startswith(("lowshot", "transfer")) or row["split"] == WITHOUT:
            continue
        controls = {r["of"]: r["value"] for r in rows if r["protocol"] == row["protocol"]}
        low, high = wilson_interval(row["value"], images)
        spread = f", ± {row['std']:.2f} over {len(row['seeds'])} seeds" if "std" in row else ""
        others = [("chance", by_chance), *((name, controls.get(name)) for name in (UNTRAINED, PIXELS))]
        note = f"{low:.1f} to {high:.1f} (95 %), {images:,} test images{spread}"
        found.append(Headline(row["protocol"].partition("(")[0], row["value"], low, high, note, others))
    return found


def class_dots(values: Sequence[float | None], names: Sequence[str]) -> Dots:
    """Classes from the worst to the best; beyond 40 the worst and the best 15."""
    lines = [(name, value) for name, value in zip(names, values, strict=True) if value is not None]
    lines.sort(key=lambda line: line[1])
    if len(lines) <= _MOST_CLASSES:
        return Dots(lines)
    return Dots([*lines[:_SHOWN], *lines[-_SHOWN:]], len(lines) - 2 * _SHOWN)


def pairs_of(
    labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], images: Images | None, rows: np.ndarray | None
) -> list[Pair]:
    """The ten most confused pairs, with the first test images of each direction."""
    found = []
    for pair in confused_pairs(labels, predicted):
        first, second = names[pair.first], names[pair.second]
        directions = []
        for positions, is_of, taken_for in ((pair.there, first, second), (pair.back, second, first)):
            pictures = []
            if images is not None and rows is not None:
                pictures = [thumbnail(images, int(rows[position])) for position in positions[:_PICTURES]]
            directions.append((len(positions), is_of, taken_for, pictures))
        found.append(Pair(first, second, directions))
    return found


def thumbnail(images: Images, row: int) -> str:
    """A small picture as a data URI; "" where it cannot be read any more."""
    try:
        image = images.read(row)
    except UnreadableImageError:
        return ""
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=84)
    return data_uri(buffer.getvalue(), "jpeg")
