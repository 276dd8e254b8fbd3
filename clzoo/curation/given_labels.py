"""Labels that a user gives for some images of a store: a CSV file of path,label."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path

from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.files import read_bytes

_LONGEST = 1 << 30  # bytes
_MARKS = (",", ";", "\t")  # between the cells
_LOOKED_AT = 50  # lines by which the mark is told


def read_labels(path: str | Path, store: Store) -> list[str | None]:
    """The label of each row (N,) that the file names; None of the others.

    Each line is `path,label`, the path as in the store; `;` or a tab may stand for the comma, as spreadsheets write
    them. A first line with the words path and label is a head, and says which columns they are among others (as in what
    `clzoo curate classify --out` writes); below a head an empty label is none. UTF-8, or UTF-16 with its mark.

    Raises:
        ClzooError: a line of another form or encoding, a path that names no row or is named twice with two labels, no
            line at all.
    """
    row_of = {name: row for row, name in enumerate(store.paths)}
    labels: list[str | None] = [None] * len(store)
    unknown: list[str] = []
    places: tuple[int, int] | None = None
    for number, line in _lines(path):
        head = [cell.strip().lower() for cell in line]
        if number == 1 and {"path", "label"} <= set(head):
            places = head.index("path"), head.index("label")
            continue
        name, label = _path_and_label(line, places, f"{path} line {number}")
        if not label:
            continue
        if name not in row_of:
            unknown.append(name)
        elif labels[row_of[name]] not in (None, label):
            raise ClzooError(f"{path} line {number}: {name} is {label!r} here and {labels[row_of[name]]!r} before.")
        else:
            labels[row_of[name]] = label
    if unknown:
        raise ClzooError(
            f"{path} names {len(unknown)} images that are not in {store.path}. Paths are relative to "
            f"{store.manifest.root}; clzoo store export lists them.",
            unknown,
        )
    if not any(label is not None for label in labels):
        raise ClzooError(f"{path} has no line path,label.")
    return labels


def _lines(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line that is not empty, with its number."""
    content = read_bytes(Path(path), _LONGEST)
    wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise ClzooError(f"{path} line {number} is not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    number = 0
    try:
        mark = _mark_of(text.split("\n", _LOOKED_AT)[:_LOOKED_AT])
        for number, line in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=mark), start=1):
            if line:
                yield number, line
    except csv.Error as error:
        raise ClzooError(f"{path} line {number + 1}: {error}; expected path,label.") from error


def _mark_of(lines: list[str]) -> str:
    """What parts all of the first lines into as many cells, and into more than one; else what parts the first."""
    cells = {mark: [len(line) for line in csv.reader(lines, delimiter=mark) if line] for mark in _MARKS}
    alike = [mark for mark, found in cells.items() if found and len(set(found)) == 1 and found[0] > 1]
    first = [mark for mark, found in cells.items() if found and found[0] > 1]
    return next(iter(alike + first), ",")


def _path_and_label(line: list[str], places: tuple[int, int] | None, where: str) -> tuple[str, str]:
    """Of a line by the places of a head, where there was one; without one there is a label."""
    if len(line) == 2 if places is None else len(line) > max(places):
        name, label = (line[place] for place in places or (0, 1))
        if name and (label.strip() or places is not None):
            return name, label.strip()
    raise ClzooError(f"{where}: found {line}; expected path,label.")
