"""What a run has to do: which items are new or changed, which stored rows no longer count."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clzoo.data.listing import Item, Listing, label_of, label_of_item
from clzoo.data.opening import is_hub, place_of
from clzoo.data.storage import is_remote
from clzoo.embed.manifest import STORE_DTYPES, Manifest, preprocessing_of
from clzoo.embed.shares import Share
from clzoo.embed.store import ITEMS_SCHEMA, METADATA, Store
from clzoo.errors import ClzooError

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

MOST_REMOVED = 10
"""A run that would drop more than one row in so many asks first. (Our choice.)"""


@dataclass(frozen=True)
class Plan:
    """The difference between a listing and a store."""

    todo: np.ndarray  # int64 (M,): positions in the listing, in path order, to be embedded
    alive: np.ndarray  # bool (N,): stored rows that still count
    changed: int  # stored rows whose file has another size or time now
    dropped: int  # stored rows whose file is no longer listed
    kept: int  # stored rows that are not listed either, but lie where the source could not be reached; alive


def make_plan(listing: Listing, store: Store | None) -> Plan:
    """Compare by id, size and mtime_ns. Files that failed in an earlier run have no row, so they are tried again.

    Rows at or below a path that could not be reached stay: unreachable is not deleted.
    """
    if store is None or len(store) == 0:
        return Plan(np.arange(len(listing.items)), np.zeros(0, bool), 0, 0, 0)
    order = np.argsort(store.ids)
    found = np.minimum(np.searchsorted(store.ids, listing.ids, sorter=order), len(order) - 1)
    row = order[found]  # of each listed item, where it has one
    known = store.ids[row] == listing.ids
    count = len(listing.items)
    sizes = np.fromiter((item.size for item in listing.items), np.int64, count)
    times = np.fromiter((item.mtime_ns for item in listing.items), np.int64, count)
    same = known & (store.items["size"].to_numpy()[row] == sizes) & (store.items["mtime_ns"].to_numpy()[row] == times)
    alive = np.zeros(len(store), bool)
    alive[row[same]] = True
    changed = int((known & ~same).sum())
    kept = _unreachable_rows(listing, store, row[known])
    alive[kept] = True
    return Plan(np.flatnonzero(~same), alive, changed, int((~alive).sum()) - changed, len(kept))


def _unreachable_rows(listing: Listing, store: Store, listed: np.ndarray) -> np.ndarray:
    """The rows (k,) that were not listed and lie where the source could not be reached."""
    if not listing.unreachable:
        return np.empty(0, np.int64)
    unlisted = np.setdiff1d(np.arange(len(store)), listed)
    paths = store.items["path"].take(pa.array(unlisted)).to_pylist()
    return unlisted[np.array([is_at_or_below(path, listing.unreachable) for path in paths], bool)]


def is_at_or_below(path: str, places: Collection[str]) -> bool:
    """Whether a path is one of the places, or lies below one."""
    return path in places or any(str(parent) in places for parent in PurePosixPath(path).parents)


def check_removals(folder: Path, dropped: int, rows: int, *, allowed: bool) -> None:
    """Ask before a store loses more than one row in `MOST_REMOVED`.

    Raises:
        ClzooError: it would, and that was not allowed.
    """
    if dropped * MOST_REMOVED > rows and not allowed:
        raise ClzooError(
            f"{folder}: {dropped} of its {rows} images are no longer in the source, and their rows would be dropped. "
            "Nothing was changed. Is a disk not mounted, a list cut off? If they were removed on purpose, add "
            "--allow-removals (in Python: allow_removals=True)."
        )


def items_table(listing: Listing, positions: np.ndarray, labels: bool) -> pa.Table:
    """The items file of a segment that holds these items in this order."""
    items: list[Item] = [listing.items[position] for position in positions]
    columns = {
        "row": np.arange(len(items)),
        "id": listing.ids[positions],
        "path": [item.path for item in items],
        "size": [item.size for item in items],
        "mtime_ns": [item.mtime_ns for item in items],
        "label": [label_of_item(item) if labels else None for item in items],
    }
    table = pa.table(columns, schema=ITEMS_SCHEMA)
    if listing.metadata is not None:
        for name in listing.metadata.column_names:
            table = table.append_column(f"{METADATA}{name}", listing.metadata[name].take(pa.array(positions)))
    return table


def says_more_than_paths(listing: Listing, items: pa.Table) -> bool:
    """Whether labels or metadata of the source are not those of paths, so that they may change without the images."""
    is_table = listing.metadata is not None or any(item.label is not None for item in listing.items)
    return is_table or any(name.startswith(METADATA) for name in items.column_names)


def _labels_by_default(items: pa.Table, listing: Listing) -> list[str | None]:
    """Labels of rows that the source does not list now: by their folders, where it states none of its own."""
    if all(item.label is None for item in listing.items):
        return [label_of(path) for path in items["path"].to_pylist()]
    stated = f"{METADATA}label"  # of the list, when it still named them
    values = items[stated].to_pylist() if stated in items.column_names else [None] * len(items)
    return [None if value is None else str(value).strip() or None for value in values]


def renewed(items: pa.Table, listing: Listing, labels: bool) -> pa.Table:
    """The same items with labels and metadata as the source has them now; what it does not list keeps what it has."""
    ids = items["id"].to_numpy()
    order = np.argsort(listing.ids)
    place = np.minimum(np.searchsorted(listing.ids, ids, sorter=order), max(len(order) - 1, 0))
    position = order[place] if len(order) else np.zeros(len(ids), np.int64)
    known = listing.ids[position] == ids if len(order) else np.zeros(len(ids), bool)
    named = [
        (label_of_item(listing.items[at]) if is_known else old or of_path) if labels else None
        for at, is_known, old, of_path in zip(
            position, known, items["label"].to_pylist(), _labels_by_default(items, listing), strict=True
        )
    ]
    table = items.select(ITEMS_SCHEMA.names)
    table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(named, pa.string()))
    if listing.metadata is None:
        return table
    rows = pa.array(position, mask=~known)
    for name in listing.metadata.column_names:
        column, full = listing.metadata[name].take(rows), f"{METADATA}{name}"
        if full in items.column_names and not known.all() and items[full].type == column.type:
            column = pc.if_else(pa.array(known), column, items[full])
        table = table.append_column(full, column)
    return table


def fresh_manifest(
    encoder: Encoder,
    load: str,
    source: str,
    root: str,
    *,
    store_dtype: str,
    normalize: bool,
    compute: str,
    share: Share | None = None,
) -> Manifest:
    """The manifest of a store that holds nothing yet; `source` and `root` are absolute paths or URLs."""
    return Manifest(
        generation=0,
        complete=False,
        root=root,
        model=encoder.config.name,
        load=load,
        weights_sha256=encoder.weights_sha256,
        preprocessing=preprocessing_of(encoder),
        dim=encoder.dim,
        dtype=STORE_DTYPES[store_dtype],
        normalized=normalize,
        labels=False,
        compute=(compute,),
        rows=0,
        errors=0,
        errors_generation=0,
        segments=(),
        source=source,
        shard=share,
        license=encoder.config.license,
        license_note=encoder.config.license_note,
        network=encoder.config.network,
    )


def check_same_kind(folder: Path, old: Manifest, new: Manifest, encoder: Encoder) -> None:
    """Refuse to add rows to a store that other settings made.

    Raises:
        ClzooError: another model, preprocessing, normalisation, dtype, source or share of it; says what to type.
    """
    old.check_model(encoder, folder, adding=True)
    if old.dtype != new.dtype:
        flag = next(name for name, dtype in STORE_DTYPES.items() if dtype == old.dtype)
        raise ClzooError(
            f"{folder} holds {old.dtype} vectors, this run makes {new.dtype}. "
            f"Add --store-dtype {flag}, or give another --out."
        )
    if old.normalized != new.normalized:
        kind, flag = ("normalised", "--normalize") if old.normalized else ("unnormalised", "--no-normalize")
        raise ClzooError(f"{folder} holds {kind} vectors. Add {flag} to continue it, or give another --out.")
    if old.shard != new.shard:
        kinds = [
            f"share {Share(*shard)} of its source" if shard else "a whole source" for shard in (old.shard, new.shard)
        ]
        raise ClzooError(f"{folder} holds {kinds[0]}, this run is of {kinds[1]}. Give another --out.")
    check_source(folder, old, new)


def check_source(folder: Path, old: Manifest, new: Manifest) -> None:
    """Refuse to continue a store with another source, while its own still lies where it was.

    A source that was moved keeps its relative paths.

    Raises:
        ClzooError: another collection; says what to type.
    """
    place = place_of(old.source)
    is_link = old.root == new.root and os.path.realpath(place) == os.path.realpath(place_of(new.source))
    if old.source != new.source and not is_link and (is_remote(place) or is_hub(place) or Path(place).exists()):
        raise ClzooError(
            f"{folder} holds the images of {old.source}, this run names {new.source}. Give another --out; or delete "
            f"{folder} to start anew."
        )
