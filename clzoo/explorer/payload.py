"""What the page reads of an exploration, as JSON; arrays of numbers are the base64 of their little-endian bytes.

`web/src/collection.js` is its reader.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from clzoo.data.held import HELD
from clzoo.data.listing import shard_of
from clzoo.data.storage import is_remote
from clzoo.embed.store import Store
from clzoo.explorer.exploring import Exploration, Seen
from clzoo.explorer.thumbnails import ACROSS, Sheets

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_LARGEST = 2**53  # of whole numbers that a float64 tells apart

_FEW = 12
"""Values up to which a column of numbers is taken for names of classes."""


def payload(view: Exploration, *, sheets: Sheets | None = None, server: bool = False) -> str:
    """The JSON; without `sheets` the page asks a server for pictures and neighbors.

    "<" is spelt out, so that no name of others ends the element that holds the text.
    """
    store, rows = view.store, view.seen[0].rows
    paths = [store.paths[row] for row in rows.tolist()]
    content: dict[str, Any] = {
        "title": store.path.resolve().name,
        "facts": facts(view),
        "notes": list(view.notes),
        "server": server,
        "root": store.manifest.root,
        "paths": paths,
        "unlisted": [place for place, path in enumerate(paths) if not _is_listable(store, path)],
        "encoders": [each.store.manifest.model for each in view.seen],
        "maps": [_map(each, len(view.seen) > 1) for each in view.seen],
        "columns": [*_columns(store, rows), *_scores(view)],
        "flags": _flags(view),
        "graphs": None if server else [graph_json(each) for each in view.seen],
        "sheets": None if sheets is None else _sheets_json(sheets),
    }
    return json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def facts(view: Exploration) -> list[str]:
    """The line under the title."""
    models = " beside ".join(each.store.manifest.model for each in view.seen)
    count = f"{len(view):,} {'image' if len(view) == 1 else 'images'}"
    return [count, models] + ([view.seen[0].projection] if len(view) > 1 else [])


def graph_json(seen: Seen) -> dict[str, Any]:
    """All neighbors of one encoder."""
    graph = seen.graph
    return {"k": graph.k, "rows": _array(graph.rows, "<i4"), "similarity": _array(graph.similarity, "<f4")}


def _map(seen: Seen, is_named: bool) -> dict[str, str]:
    name = seen.store.manifest.model if is_named else seen.projection
    return {"name": name, "x": _array(seen.places[:, 0], "<f4"), "y": _array(seen.places[:, 1], "<f4")}


def _columns(store: Store, rows: np.ndarray) -> Iterable[dict[str, Any]]:
    """Label, else the folder; the columns of the list that named the images; the files' sizes."""
    labels = [store.labels[row] for row in rows.tolist()]
    has_labels = any(label is not None for label in labels)
    if has_labels:
        yield _category("label", labels)
    else:
        folders = [str(PurePosixPath(store.paths[row]).parent) for row in rows.tolist()]
        if len(set(folders)) > 1:
            yield _category("folder", folders)
    metadata = store.metadata.take(pa.array(rows, pa.int64())) if len(rows) else store.metadata
    for name in metadata.column_names:
        if not (has_labels and name == "label"):
            yield column(name, _values(metadata[name]))
    sizes = store.items["size"].to_numpy()[rows]
    yield _number("file size", sizes, "bytes of the file")


def _values(cells: pa.ChunkedArray) -> list[object]:
    """A column's cells as Python's, times as texts: Python has none of nanoseconds, nor beyond the year 9999."""
    return (cells.cast(pa.string()) if pa.types.is_temporal(cells.type) else cells).to_pylist()


def column(name: str, values: Sequence[object]) -> dict[str, Any]:
    """Numbers, also where they are written as text, where there are more than a few; else names.

    None, an empty text and NaN, by which tables say that a cell is empty, are no value.
    """
    texts = [None if value is None or value != value else str(value) or None for value in values]
    given = {text for text in texts if text is not None}
    if len(given) > _FEW and all(map(_is_number, given)):
        return _number(name, np.array([np.nan if text is None else float(text) for text in texts]), "")
    return _category(name, texts)


def _is_number(text: str) -> bool:
    """Whether a text is a number that a float64 holds, and no name in digits: 00123, 12_3, a barcode."""
    text = text.strip()
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        return False
    return not _WHOLE.fullmatch(text) or abs(int(text)) <= _LARGEST


def _category(name: str, values: Sequence[str | None]) -> dict[str, Any]:
    known = sorted({value for value in values if value is not None})
    code = {value: number for number, value in enumerate(known)}
    codes = np.array([-1 if value is None else code[value] for value in values], np.int64)
    return {"name": name, "kind": "category", "values": known, "codes": _array(codes, "<i4")}


def _number(name: str, values: np.ndarray, meaning: str) -> dict[str, Any]:
    # Scores are float32. What a list says is kept as it is: times and ids beyond 2**24 would not survive that.
    kind = "<f4" if values.dtype == np.float32 else "<f8"
    return {"name": name, "kind": "number", "meaning": meaning, "type": kind, "values": _array(values, kind)}


def _scores(view: Exploration) -> Iterable[dict[str, Any]]:
    for score in view.findings.scores:
        yield _number(score.name, score.values[view.seen[0].rows], score.meaning)


def _flags(view: Exploration) -> list[dict[str, Any]]:
    place = np.full(len(view.store), -1)
    place[view.seen[0].rows] = np.arange(len(view))
    return [
        {
            "name": flag.name,
            "meaning": flag.meaning,
            "rows": _array(np.unique(place[flag.rows][place[flag.rows] >= 0]), "<i4"),
        }
        for flag in view.findings.flags
    ]


def _sheets_json(sheets: Sheets) -> dict[str, Any]:
    return {
        "side": sheets.side,
        "across": ACROSS,
        "place": _array(sheets.place, "<i4"),
        "shapes": _array(sheets.shapes, "u1"),
        "missing": {str(place): reason for place, reason in sheets.missing.items()},
    }


def _is_listable(store: Store, path: str) -> bool:
    """Whether a list of paths can name the image: it is a file of this machine, outside of shards."""
    root = store.manifest.root
    if is_remote(root) or "://" in root or root.startswith("hf-hub:") or store.manifest.source.startswith(HELD):
        return False
    return shard_of(path, lambda place: not (store.root / place).is_dir()) is None


def _array(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()
