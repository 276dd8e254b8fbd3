"""Which rows of a store a search may find, which of them a query is itself, and exact search among rows in NumPy."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clzoo.embed.checks import how_to_label
from clzoo.embed.store import METADATA, Store
from clzoo.errors import ClzooError
from clzoo.index.vectors import BATCH, normalized

MOST_WITHOUT_INDEX = 100_000
"""Rows of a store that is searched without an index, or without FAISS: all of them for each query."""

_COMPARED = 1000  # values of a column that are compared with one that nothing has

COLUMNS = ("path", "label", "size", "id")
"""What a condition can be about."""


def has_faiss() -> bool:
    """Whether faiss is installed, without importing it."""
    return importlib.util.find_spec("faiss") is not None


def rows_where(store: Store, conditions: Sequence[str]) -> np.ndarray:
    """The rows (n,) int64 that fulfil all conditions, "column=value"; values are compared as text.

    Raises:
        ClzooError: another form or column, or a value that no image of the store has.
    """
    chosen = np.ones(len(store), bool)
    for condition in conditions:
        column, equals, value = condition.partition("=")
        kept = store.metadata.column_names
        if not equals or column not in (*COLUMNS, *kept, *(f"{METADATA}{name}" for name in kept)):
            columns = [*COLUMNS, *(f"{METADATA}{name}" if name in COLUMNS else name for name in kept)]
            raise ClzooError(f"where {condition!r}: expected COLUMN=VALUE, with a column of {', '.join(columns)}.")
        if column not in COLUMNS and (of_list := f"{METADATA}{column}") in store.items.column_names:
            column = of_list  # else it is named in full; `row` of the list is not the store's own
        if column == "label" and not any(store.labels):
            raise ClzooError(f"{store.path} has no labels. {how_to_label(store)}")
        try:
            text = pc.cast(store.items[column], "string")
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # a list of values; bytes that are no text
            raise ClzooError(
                f"where {condition!r}: {column} holds {store.items[column].type}, not one value an image. Choose "
                "another column, or give the list one that holds a text or a number."
            ) from None
        holds = pc.equal(text, value).fill_null(False).to_numpy(zero_copy_only=False)
        if not holds.any():
            raise ClzooError(f"no image of {store.path} has {condition}.{_what_there_is(column, text, value)}")
        chosen &= holds
    return np.flatnonzero(chosen)


def _what_there_is(column: str, text: pa.ChunkedArray, value: str) -> str:
    """The values like the one that was asked for, or else the first, of labels and columns of a list."""
    if column in COLUMNS and column != "label":
        return ""
    known = sorted(pc.unique(text).drop_null().to_pylist())
    near = difflib.get_close_matches(value, known[:_COMPARED], n=3) or known[:5]
    rest = ", ..." if len(near) < len(known) else ""
    what = "Labels" if column == "label" else "Values"
    return f" {what} are: {', '.join(near)}{rest}" if near else ""


def own_row(store: Store, query: Path, row_of: dict[str, int]) -> int | None:
    """The row of the query itself, if it is one of the store's images; `row_of` is the row of each path.

    A link that is stored under its own name is that row; any other is the file that it leads to.
    """
    root = store.root.resolve()
    for place, above in (
        (query.absolute(), store.root.absolute()),
        (query.parent.resolve() / query.name, root),
        (query.resolve(), root),
    ):
        inside = place.relative_to(above).as_posix() if place.is_relative_to(above) else None
        for path in (inside, place.as_posix()):  # a list may name files elsewhere, by their absolute paths
            if path is not None and (row := row_of.get(path)) is not None:
                return row
    return None


def stored_image(store: Store, query: str) -> Path | None:
    """The image of the store that a text names by its path there or its id; None if there is none."""
    if query in (paths := store.paths):
        return store.root / query
    if query.isdecimal() and len(query) < 20:
        rows = [] if int(query) >= 2**63 else np.flatnonzero(store.ids == int(query)).tolist()
        return store.root / paths[rows[0]] if rows else None
    return None


def is_unchanged(store: Store, row: int, file: Path) -> bool:
    """Whether a stored vector still is the file's: size and time are as they were, or the file is not there now."""
    try:
        now = file.stat()
    except OSError:
        return True
    size, time = (store.items[column][row].as_py() for column in ("size", "mtime_ns"))
    return bool((now.st_size, now.st_mtime_ns) == (size, time))


class ExactSearch:
    """What FAISS's Flat index does, in NumPy, among some rows of a store: inner products with unit vectors."""

    def __init__(self, store: Store, rows: np.ndarray | None = None) -> None:
        self.store = store
        self.rows = np.arange(len(store)) if rows is None else rows
        self.ntotal, self.d = len(self.rows), store.dim

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit queries (Q, D) -> scores and ids (Q, k), best first, equal scores by id; -1 where there are fewer."""
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(self.rows), BATCH):
            part = self.rows[start : start + BATCH]
            products = queries @ normalized(self.store.raw_rows(part), self.store).T  # (Q, part)
            part_ids = self.store.ids[part]
            for row, found in enumerate(products):
                least = np.partition(found, -k)[-k] if k < len(found) else -np.inf
                near = np.flatnonzero(found >= least)  # more than k where scores are equal
                all_scores = np.concatenate([scores[row], found[near]])
                all_ids = np.concatenate([ids[row], part_ids[near]])
                best = np.lexsort((all_ids, -all_scores))[:k]
                scores[row], ids[row] = all_scores[best], all_ids[best]
        return scores, ids
