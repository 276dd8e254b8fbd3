"""Classes are joined by name, never by number, wherever two sets of labels meet: splits, packs, a model and its data.

Which number a class has depends on where it comes from: folders are sorted as text ("10" before "2"), the class numbers
of shards as numbers, and a Hub data set has an order of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from clzoo.errors import ClzooError


class Labelled(Protocol):
    """A dataclass of images with labels: a Collection, a TrainingSet or Features."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> Any: ...
    @property
    def origin(self) -> str: ...


S = TypeVar("S", bound=Labelled)

_NAMED = 5  # names in a message


def with_classes_of(reference: Labelled, other: S) -> S:
    """`other` with its labels counted in the classes of `reference`: equal names have equal numbers afterwards.

    Both are a Collection, a TrainingSet or Features, `reference` train and `other` test. Classes without images that
    the other side does not know are no difference: an empty folder, or a number that no `.cls` has.

    Raises:
        ClzooError: the two have different classes; names them.
    """
    one, two = reference.classes, other.classes
    if one == two:
        return other
    only_one, only_two = _used(reference) - set(two), _used(other) - set(one)
    if only_one or only_two:
        raise ClzooError(
            f"{reference.origin} and {other.origin} differ in their classes: "
            f"only in train {some(sorted(only_one))}; only in test {some(sorted(only_two))}. "
            "Classes are joined by name: give both the same class folders."
        )
    number = {name: position for position, name in enumerate(one)}
    place = np.array([number.get(name, -1) for name in two], np.int64)  # -1: a class without images
    labels = other.labels
    joined = place[labels] if isinstance(labels, np.ndarray) else labels.new_tensor(place)[labels]
    return dataclasses.replace(other, labels=joined, classes=one)  # type: ignore[type-var]


def places_by_name(names: Sequence[str], among: Sequence[str]) -> np.ndarray | None:
    """int64 (C,): the position of each of `names` in `among`; None unless both hold the same names."""
    if len(names) != len(among) or set(names) != set(among):
        return None
    place = {name: position for position, name in enumerate(among)}
    return np.array([place[name] for name in names], np.int64)


def some(names: Sequence[str]) -> str:
    """The first names, for a message."""
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) + rest) or "none"


def _used(images: Labelled) -> set[str]:
    """Names of the classes that have images."""
    return {images.classes[number] for number in np.unique(np.asarray(images.labels)).tolist()}
