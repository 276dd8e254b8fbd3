"""Data sets with a name: recognised by their classes and how many images they hold, never by what they are called."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSet:
    """A published data set.

    Attributes:
        id: as in names of recipes and models.
        hub_id: of the customary copy on the Hub, where there is one.
        images: of each split, whole.
        classes: SHA-256 of the sorted names of the classes, a line each.
    """

    id: str
    title: str
    hub_id: str | None
    images: dict[str, int]
    classes: str


KNOWN = {
    known.id: known
    for known in (
        KnownSet(
            "cifar10",
            "CIFAR-10",
            "uoft-cs/cifar10",
            {"train": 50_000, "test": 10_000},
            "bb3914949cecedee6d1257f7f5fdb8f43fa3b2c8095fd1763161caf1b873fe59",
        ),
        KnownSet(
            "cifar100",
            "CIFAR-100",
            "uoft-cs/cifar100",
            {"train": 50_000, "test": 10_000},
            "fbe8ad23bbaf24969898a386833b49c3aaf6ad1119d43f7b41cdea1b3416d578",
        ),
        KnownSet(
            "stl10",
            "STL-10",
            None,
            {"train": 5_000, "test": 8_000, "pretrain": 105_000},
            "08b234ce7b11dbd3e77d1dacf32b2dac8fcd36efa7d7719ad1def4d8f1153bf4",
        ),
        KnownSet(
            "tiny",
            "Tiny-ImageNet",
            "zh-plus/tiny-imagenet",
            {"train": 100_000, "test": 10_000},
            "add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8",
        ),
        KnownSet(
            "in1k",
            "ImageNet-1k",
            "ILSVRC/imagenet-1k",
            {"train": 1_281_167, "test": 50_000},
            "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd",
        ),
    )
}
"""By id. What "ImageNet-100" is differs from paper to paper, so it is not among them."""


def recognised(classes: Sequence[str] | None, images: Mapping[str, int]) -> KnownSet | None:
    """The published set that these are: exactly its classes, and every split named in `images` whole.

    Args:
        classes: names; None without labels, which is recognised as nothing.
        images: split -> how many images it has here.
    """
    if not classes or not images:
        return None
    digest = hashlib.sha256("\n".join(sorted(classes)).encode()).hexdigest()
    for known in KNOWN.values():
        if digest == known.classes and all(known.images.get(split) == count for split, count in images.items()):
            return known
    return None


def claimed(text: str) -> KnownSet | None:
    """The published set that a title or the last part of a name claims: its title or its id, as a whole."""
    wanted = _plain(text)
    return next((known for known in KNOWN.values() if wanted in (_plain(known.title), _plain(known.id))), None)


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
