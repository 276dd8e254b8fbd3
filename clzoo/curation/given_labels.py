"""Labels that a user gives for some images of a store: a CSV file of path,label."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.files import read_bytes

_LONGEST = 1 << 30  # bytes


def read_labels(path: str | Path, store: Store) -> list[str | None]:
    """The label of each row (N,) that the file names; None of the others.

    Each line is `path,label`, the path as in the store; a first line "path,label" is a head.

    Raises:
        ClzooError: a line of another form, a path that names no row or is named twice with two labels, no line at all.
    """
    try:
        text = read_bytes(Path(path), _LONGEST).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ClzooError(f"{path} cannot be read: {error.strerror or error}.") from error
    row_of = {name: row for row, name in enumerate(store.paths)}
    labels: list[str | None] = [None] * len(store)
    unknown: list[str] = []
    for number, line in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
        if not line or (number == 1 and [cell.strip().lower() for cell in line] == ["path", "label"]):
            continue
        if len(line) != 2 or not line[0] or not line[1].strip():
            raise ClzooError(f"{path} line {number}: found {line}; expected path,label.")
        name, label = line[0], line[1].strip()
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
