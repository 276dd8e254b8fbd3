"""Samples of several files in shards, webdataset's layout: `0001.jpg`, `0001.cls`, `0001.seg.png` are one sample.

A member's key is its path up to the first dot of its name; the rest is its field. The image of a sample is the field
that is a plain suffix: `0001.jpg` beside `0001.seg.png`. (As webdataset's users write `jpg;png`; our choice.)
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np

from clzoo.data.listing import Item, Listing
from clzoo.data.storage import is_remote
from clzoo.errors import ClzooError, UnreadableImageError

_MOST_CLASSES = 1_000_000  # a class number above this is taken for damage


def one_image_each(listing: Listing) -> Listing:
    """The listing with one image of each sample in its shards; the others are counted as ignored, by field.

    Without `.cls` members, dots in names need not part fields: then images are passed over only beside one of the same
    key with a plain suffix, and only if their field begins with a letter (`1.seg.png`, not `1.2.png`).

    Raises:
        ClzooError: a sample with a `.cls` and several images of which none, or more than one, has a plain suffix.
    """
    samples: dict[str, list[Item]] = defaultdict(list)
    for item in listing.items:
        if item.offset is not None:
            samples[key_of(item.path)].append(item)
    numbered = {key_of(item.path) for item in listing.class_files}
    others: set[str] = set()  # fields that are not the image
    for key, items in samples.items():
        if len(items) > 1:
            plain = [item for item in items if "." not in _field(item.path)]
            if len(plain) != 1 and key in numbered:
                raise ClzooError(
                    f"{key} has several images: {', '.join('.' + _field(item.path) for item in items)}; which one is "
                    "it? Expected exactly one with a plain suffix, such as .png. Write the shards with the others "
                    "called .FIELD.png, or without them."
                )
            fields = {_field(item.path) for item in items if item not in plain}
            others |= (
                fields if key in numbered else {field for field in fields if field[0].isalpha()} if plain else set()
            )
    if not others:
        return listing
    is_other = [item.offset is not None and _field(item.path) in others for item in listing.items]
    passed = Counter(f".{_field(item.path)}" for item, other in zip(listing.items, is_other, strict=True) if other)
    mine = ~np.array(is_other)
    return dataclasses.replace(
        listing,
        items=[item for item, other in zip(listing.items, is_other, strict=True) if not other],
        ids=listing.ids[mine],
        ignored=listing.ignored + passed,
    )


def key_of(path: str) -> str:
    """What a sample's members share: `shard.tar/a/0001` of `shard.tar/a/0001.seg.png`."""
    place = PurePosixPath(path)
    return f"{place.parent}/{place.name.split('.', 1)[0]}"


def _field(path: str) -> str:
    """`seg.png` of `shard.tar/a/0001.seg.png`, in lower case."""
    return PurePosixPath(path).name.partition(".")[2].lower()


# Class numbers --------------------------------------------------------------------------------------------------------


def numbered_labels(listing: Listing) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """Labels from the members `key.cls`, names of the classes, which are their numbers; or why there are none.

    Raises:
        ClzooError: damaged class numbers.
    """
    class_files = [item for item in listing.class_files if _field(item.path) == "cls"]
    number = dict(zip((key_of(item.path) for item in class_files), _read_numbers(class_files), strict=True))
    labels = [number.get(key_of(item.path)) for item in listing.items]
    if None in labels:
        first = listing.items[labels.index(None)].path
        count = labels.count(None)
        return None, (), f"{count} of {len(labels)} images have no .cls, the first is {listing.root / first}."
    known = np.array(labels, np.int64)
    return known, tuple(str(label) for label in range(int(known.max()) + 1)), ""


def _read_numbers(members: Sequence[Item]) -> list[int]:
    numbers: list[int] = []
    file: BinaryIO | None = None
    try:
        for member in members:  # shard by shard: each is opened once
            if member.how or is_remote(member.file):
                numbers.append(_class_number(_content(member), member.path))
                continue
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


def _content(member: Item) -> bytes:
    try:
        return member.read()
    except UnreadableImageError as error:
        raise ClzooError(f"{member.path} cannot be read: {error}.") from error


def _class_number(text: bytes, path: str) -> int:
    if not re.fullmatch(rb"\s*\d{1,9}\s*", text) or int(text) > _MOST_CLASSES:
        shown = text[:20].decode(errors="backslashreplace")
        raise ClzooError(f"{path} holds {shown!r}; expected a class number from 0 to {_MOST_CLASSES} as text.")
    return int(text)
