"""Image folders and tar shards as collections: which split is where, and what the labels are."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from clzoo.data.collection import Collection, FileImages
from clzoo.data.sources import Item, Listing, label_of, list_images
from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}
"""Names under which folders and shards keep a split, the preferred first."""

_SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

_MOST_CLASSES = 1_000_000  # a class number above this is taken for damage


def find_split(root: Path, *names: str) -> Path | None:
    """The first of the sub-folders `names` of `root` that exists."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def open_folder(source: Path, split: str) -> Collection:
    """The images of one split of a folder, of tar shards, or of a text file of paths; sorted by path.

    The split is a sub-folder (`train`; `test`, `val` or `validation`), or the shards with such a word in their names; a
    source without any split is the training split as a whole.

    Labels are, in this order: the class numbers of `key.cls` beside `key.jpg` in a shard (webdataset's layout); else
    the first sub-folder of every image; else there are none.

    Raises:
        ClzooError: no such source or split, no images, or damaged class numbers.
    """
    if not source.exists():
        raise ClzooError(
            f"{source} is not a folder or file. Expected {source}/<class>/<image>.jpg, tar shards, or what clzoo pack "
            "made. Type: clzoo pretrain R --data DIR"
        )
    part = _sub_folder(source, split)
    listing = list_images(part or source)
    if part is None:
        listing = _of_split(listing, source, split)
    failures = tuple(f"{failure.path}: {failure.reason}" for failure in listing.failures)
    for failure in failures:
        log.warning("skipped %s", failure)
    if not listing.items:
        raise ClzooError(f"{source} holds no readable image: {len(failures)} failed, the first is {failures[0]}")
    labels, classes = _numbered(listing) if listing.class_files else _by_folder(listing)
    return Collection(str(source), FileImages(listing.items), labels, classes, failures)


def splits_of_folder(source: Path) -> list[str]:
    """Which of the splits "train" and "test" a folder has, as sub-folders or shards; empty where it has none."""
    if not source.is_dir():
        return []
    names = [path.name for path in source.iterdir() if path.is_dir()]
    words = {_SPLIT_OF.get(name) for name in names} or {None}
    if words == {None}:
        words = {split_of_shard(f"{path.name}/") for path in source.glob("*.tar")}
    return [split for split in SPLITS if split in words]


def _sub_folder(source: Path, split: str) -> Path | None:
    """Where in `source` the split lies; None where it has no sub-folders for splits."""
    if not source.is_dir():
        return None
    if (part := find_split(source, *SPLITS[split])) is not None:
        return part
    if found := [name for name in _SPLIT_OF if (source / name).is_dir()]:
        raise ClzooError(
            f"{source} has the split {', '.join(found)}, but not {split}; "
            f"expected {' or '.join(str(source / name) for name in SPLITS[split])}."
        )
    return None


def _of_split(listing: Listing, source: Path, split: str) -> Listing:
    """Only the shards named for the split (`in1k-train-0001.tar`); everything, if no shard is named for any."""
    splits = {split_of_shard(item.path) for item in listing.items}
    if not listing.items or (splits == {None} and split == "train"):
        return listing
    if split not in splits:
        found = f"shards of {', '.join(sorted(filter(None, splits)))}" if splits != {None} else "no splits"
        raise ClzooError(
            f"{source} has {found}; for the {split} split expected the folder "
            f"{' or '.join(str(source / name) for name in SPLITS[split])}, or shards with such a word in their names."
        )
    items = [item for item in listing.items if split_of_shard(item.path) == split]
    class_files = [item for item in listing.class_files if split_of_shard(item.path) == split]
    failures = [failure for failure in listing.failures if split_of_shard(failure.path) in (split, None)]
    log.info("%s: %d of %d images are in shards of the %s split", source, len(items), len(listing.items), split)
    return dataclasses.replace(listing, items=items, class_files=class_files, failures=failures)


def split_of_shard(path: str) -> str | None:
    """The split that the name of a shard states, of `shard.tar/` or of an item inside; None where it states none."""
    shard, inside, _ = path.lower().partition(".tar/")
    words = re.split(r"[^a-z]+", shard.rpartition("/")[2]) if inside else []
    return next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), None)


def _by_folder(listing: Listing) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels by the first sub-folder, classes sorted by name; an empty class folder keeps its number."""
    names = [label_of(item.path) for item in listing.items]
    folders = {path.name for path in listing.root.iterdir() if path.is_dir()} if listing.root.is_dir() else set()
    if all(name is None for name in names):
        return None, ()
    if None in names:
        first = listing.items[names.index(None)].path
        log.warning(
            "no labels: %d of %d images lie outside of class folders, the first is %s",
            names.count(None), len(names), listing.root / first,
        )  # fmt: skip
        return None, ()
    used = {name for name in names if name is not None}
    is_shards = any(item.offset is not None for item in listing.items)
    classes = sorted(used if is_shards else used | folders)
    if empty := [name for name in classes if name not in used]:
        log.warning("%d of %d class folders hold no images: %s", len(empty), len(classes), ", ".join(empty))
    number = {name: position for position, name in enumerate(classes)}
    return np.array([number[name] for name in names if name is not None], np.int64), tuple(classes)


# Class numbers in shards ----------------------------------------------------------------------------------------------


def _numbered(listing: Listing) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels from the members `key.cls`; a class is named by its number."""
    number = dict(zip(map(_key, listing.class_files), _read_numbers(listing.class_files), strict=True))
    labels = [number.get(_key(item)) for item in listing.items]
    if None in labels:
        first = listing.items[labels.index(None)].path
        log.warning(
            "no labels: %d of %d images have no .cls, the first is %s",
            labels.count(None), len(labels), listing.root / first,
        )  # fmt: skip
        return None, ()
    known = np.array(labels, np.int64)
    return known, tuple(str(label) for label in range(int(known.max()) + 1))


def _key(item: Item) -> str:
    """What a sample's members share: `shard.tar/a/0001` of `shard.tar/a/0001.seg.png` (webdataset's rule)."""
    path = PurePosixPath(item.path)
    return f"{path.parent}/{path.name.split('.', 1)[0]}"


def _read_numbers(members: Sequence[Item]) -> list[int]:
    numbers: list[int] = []
    file: BinaryIO | None = None
    try:
        for member in members:  # shard by shard: each is opened once
            if file is None or file.name != member.file:
                if file is not None:
                    file.close()
                file = open(member.file, "rb")  # noqa: PTH123, SIM115 (closed below, or when the next one is opened)
            file.seek(member.offset or 0)
            numbers.append(_class_number(file.read(member.size), member.path))
    finally:
        if file is not None:
            file.close()
    return numbers


def _class_number(text: bytes, path: str) -> int:
    if not re.fullmatch(rb"\s*\d{1,9}\s*", text) or int(text) > _MOST_CLASSES:
        shown = text[:20].decode(errors="backslashreplace")
        raise ClzooError(f"{path} holds {shown!r}; expected a class number from 0 to {_MOST_CLASSES} as text.")
    return int(text)
