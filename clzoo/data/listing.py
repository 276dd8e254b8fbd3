"""What a source holds, as every lister leaves it: items, failures with their reasons, and what was passed over.

Whatever looks like an image and cannot be one (a broken link, a pipe, a folder that may not be read) is listed as a
failure with its reason; whatever does not look like an image is counted by suffix. Nothing is passed over in silence.
What could not be reached (a folder that cannot be listed, a link that leads nowhere, a listed file that is not there)
is told from what is no image: it may still exist.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clzoo.data.archives import unpacking
from clzoo.data.storage import is_remote
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("clzoo")

REPEATED = "repeated lines"
"""Key of `Listing.ignored` for lines of a text file that name the same image again."""

HIDDEN = "hidden"
"""Key of `Listing.ignored` for files and members whose name, or a folder's of theirs, begins with a dot."""

HIDDEN_FOLDERS = "hidden folders"
"""The same for folders, which are not searched."""

MADE = "folders that clzoo made"
"""The same for runs, stores, reports and a projector's files, whose pictures are curves, plots and copies."""

_MADE = (
    {"recipe.yaml", "data.json", "state.json"},  # a run of clzoo pretrain
    {"recipe.yaml", "data.json", ".lock"},  # one before its first checkpoint
    {"manifest.json", "errors.parquet"},  # a store of clzoo embed
    {"metrics.json", "report.html", "plots"},  # of clzoo evaluate
    {"metrics.json", "report.html", "arrays.npz"},
    {"metrics.json", "compare.html", "plots"},
    {"metrics.json", "compare.html", "arrays.npz"},
    {"projector_config.pbtxt", "tensors.tsv", "sprite.png"},  # of clzoo store export --for tensorboard
)

REPLACED = "replaced members"
"""Key of `Listing.ignored` for members of a shard that a later one of the same name replaces."""


CONTAINERS = (".tar", ".zip", ".parquet")
"""Files that hold images: their names are a part of the images' paths, `shard.tar/member`."""


class Item(NamedTuple):
    """One image of a source; the sub-classes differ in how it is read.

    `size` is of the image in bytes. `mtime_ns` is the file's own; for an image inside another file that file's, because
    shards are often written with constant member times: a rewritten shard is embedded anew.
    """

    path: str  # POSIX, relative to the source's root; `shard.tar/member` inside a shard
    size: int
    mtime_ns: int
    file: str  # to open
    offset: int | None  # of the image's first byte inside a shard; None: the file is the image
    how: tuple[Any, ...] = ()  # what reading it needs besides, of the kind
    label: str | None = None  # as a table states it; None: see `label_of`

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UnreadableImageError: the reason alone.
        """
        try:
            with open(self.file, "rb") as file:  # noqa: PTH123 (a Path per image costs more than it tells)
                if self.offset is None:
                    return file.read()
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error


class Failure(NamedTuple):
    """A path that could not be embedded, and why."""

    path: str
    size: int | None
    mtime_ns: int | None
    reason: str


@dataclass
class Listing:
    """What a source holds: images in path order, their ids (int64 (N,)), failures, and what was ignored by suffix.

    `unreachable` are those paths of `failures` that could not be reached, so nobody knows what lies there or below: an
    update of a store keeps its rows.

    `is_folder`: the root is a folder that was searched as a whole, so that an empty folder in it may be a class.

    `class_files` are the members of shards that hold an image's class number (webdataset's `key.cls`); they count as
    ignored too, since nothing but pretraining reads them. So do the archives that are `compressed`.

    `classes` are the labels of items as a table declares them, in its order; `metadata` has a row for each item, of the
    other columns of a list.
    """

    root: Path
    items: list[Item] = field(default_factory=list)
    class_files: list[Item] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unreachable: set[str] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)
    compressed: list[str] = field(default_factory=list)
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    classes: dict[str, None] = field(default_factory=dict)
    metadata: pa.Table | None = None
    is_folder: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether the files lie behind a URL; then nobody knows of empty folders, and `root` is none."""
        return any(is_remote(item.file) for item in self.items[:1])

    def below(self, folder: str) -> Listing:
        """What lies below a folder, with paths from there on."""
        start = f"{folder}/"

        def cut(items: list[Item]) -> list[Item]:
            return [item._replace(path=item.path[len(start) :]) for item in items if item.path.startswith(start)]

        failures = [f._replace(path=f.path[len(start) :]) for f in self.failures if f.path.startswith(start)]
        unreachable = {path[len(start) :] for path in self.unreachable if path.startswith(start)}
        items = cut(self.items)
        ids = item_ids([item.path for item in items])
        return dataclasses.replace(
            self,
            root=self.root / folder,
            items=items,
            class_files=cut(self.class_files),
            failures=failures,
            unreachable=unreachable,
            ids=ids,
        )


def is_made(names: Set[str]) -> bool:
    """Whether a folder of these names is one that clzoo wrote; see `MADE`."""
    return any(names >= made for made in _MADE)


def finished(listing: Listing, source: str | Path) -> Listing:
    """The listing sorted by path, with its ids.

    Raises:
        ClzooError: it is empty, or two paths share one id.
    """
    archives = _compressed(listing)
    if not listing.items and not listing.failures:
        raise ClzooError(
            f"{source} holds no images: found {in_words(listing.ignored)}; expected names that end in "
            f"{' '.join(sorted(SUFFIXES))}. {archives}".rstrip()
        )
    if archives:
        log.warning("%s: %s", source, archives)
    listing.items.sort()
    listing.failures.sort(key=lambda failure: failure.path)
    listing.ids = item_ids([item.path for item in listing.items])
    return listing


def _compressed(listing: Listing) -> str:
    """That there are compressed archives, and what to type; empty if there are none."""
    if not listing.compressed:
        return ""
    first = min(listing.compressed)
    return (
        f"Compressed archives are not read ({len(listing.compressed)}, the first is {first}); shards are plain .tar "
        f"or .zip. Type: {unpacking(first)}"
    )


def in_words(kinds: Counter[str]) -> str:
    """What was counted by kind, the most frequent first, for a message."""
    rest = f", {len(kinds) - 5} other kinds" if len(kinds) > 5 else ""
    return (", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5)) + rest) or "nothing"


def taken(items: Sequence[Item], passed_over: Mapping[str, int], failed: int) -> str:
    """What was taken of a source and what was passed over, by kind, for the log."""
    kinds = Counter(PurePosixPath(item.path).suffix.lower() or "no suffix" for item in items)
    return (
        f"took {in_words(kinds)}; passed over {in_words(Counter(passed_over))}{f'; {failed} failed' if failed else ''}"
    )


def item_ids(paths: list[str]) -> np.ndarray:
    """Stable ids, int64 (N,): the first 63 bits of SHA-256 of each path.

    Raises:
        ClzooError: two paths share one id (both are named).
    """
    ids = np.fromiter(map(_item_id, paths), np.int64, len(paths))
    order = np.argsort(ids, kind="stable")
    (same,) = np.nonzero(np.diff(ids[order]) == 0)
    if len(same):
        first, second = order[same[0]], order[same[0] + 1]
        raise ClzooError(
            f"{paths[first]} and {paths[second]} have the same id {ids[first]}: rename one of them "
            "(an id is the first 63 bits of the path's SHA-256)."
        )
    return ids


def label_of(path: str) -> str | None:
    """The first sub-folder of an item's path, inside its shard if it has one; None at the top and for absolute paths.

    >>> label_of("cats/tabby/1.jpg"), label_of("train-000.tar/cats/1.jpg"), label_of("1.jpg")
    ('cats', 'cats', None)
    """
    parts = PurePosixPath(path).parts
    for position, part in enumerate(parts[:-1]):
        if part.lower().endswith(CONTAINERS):
            parts = parts[position + 1 :]
            break
    is_elsewhere = path.startswith("/") or is_remote(path)
    return parts[0] if len(parts) > 1 and not is_elsewhere else None


def shard_of(path: str, is_one: Callable[[str], bool] = lambda _: True) -> str | None:
    """The part of an item's path that names its shard, the outermost that `is_one`; None outside of shards."""
    if not any(f"{suffix}/" in path.lower() for suffix in CONTAINERS):  # of most: a Path costs more than that
        return None
    above = [parent.as_posix() for parent in reversed(PurePosixPath(path).parents)]
    return next((place for place in above if place.lower().endswith(CONTAINERS) and is_one(place)), None)


def has_container_suffix(name: str) -> bool:
    """Whether a file of this name holds images."""
    return name.lower().endswith(CONTAINERS)


def label_of_item(item: Item) -> str | None:
    """The label that a table states for the image, else that of its path."""
    return label_of(item.path) if item.label is None else item.label


def _item_id(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (called for every file of millions)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: it begins with a dot, or is what a Mac leaves in archives."""
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def ignore(listing: Listing, path: str) -> None:
    """Count what does not look like an image."""
    listing.ignored[printable(PurePosixPath(path).suffix.lower()) or "no suffix"] += 1
    if unpacking(path):
        listing.compressed.append(printable(path))


def add_unreachable(
    listing: Listing, path: str, reason: str, size: int | None = None, mtime_ns: int | None = None
) -> None:
    """Name a path that could not be reached."""
    listing.failures.append(Failure(path, size, mtime_ns, reason))
    listing.unreachable.add(path)


def printable(path: str) -> str:
    """The path as valid Unicode; bytes of a name that are no UTF-8 become \\xNN."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
