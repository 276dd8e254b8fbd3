"""What is known of a source before anything is trained: how many images, how different, how large; what is wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clzoo.data.collection import Collection
from clzoo.data.parallel import usable_cores
from clzoo.data.parts import Parts
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.wording import clzoo_command

FEWEST = 50
"""Different images below which nothing is adapted (our choice)."""

FEW = 200
"""Images below which no verdict but "no evidence" can come: a fifth of them is too few to be judged on."""

LOOKED_AT = 500
"""Images, evenly spaced over the source, that are decoded for the survey."""

_THUMBNAIL = 8  # pixels
_FLAT = 3  # levels between the darkest and the brightest value of a thumbnail of one colour
_STEP = 16  # levels: thumbnails that are equal when divided by it show the same


@dataclass(frozen=True)
class Survey:
    """Of a source.

    Attributes:
        side: median length of the shorter side, in pixels.
        grey: whether no image has colours.
        limits: sentences about what the images do not allow.
    """

    images: int
    distinct: int
    side: int
    grey: bool
    limits: tuple[str, ...]


def survey(collection: Collection, parts: Parts, encoder: Encoder) -> Survey:
    """Look at a source.

    Raises:
        ClzooError: too few images, one image again and again, images of one flat colour, mostly unreadable ones.
    """
    count, origin = len(collection), collection.origin
    if parts.distinct < FEWEST:
        model = encoder.place or encoder.config.name
        copies = f", of which {parts.distinct} differ" if parts.distinct < count else ""
        raise ClzooError(
            f"{origin} has {count} images{copies}; adaptation takes at least {FEWEST} different ones. Add images, or "
            f"use the encoder as it is: {clzoo_command('embed', origin, '--model', model)}"
        )
    rows = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(np.int64))
    with ThreadPoolExecutor(usable_cores()) as pool:
        seen = list(pool.map(lambda row: _look(collection, int(row)), rows))
    read = [found for found in seen if not isinstance(found, str)]
    unreadable = [found for found in seen if isinstance(found, str)]
    if len(read) < FEWEST or len(unreadable) > len(read):
        raise ClzooError(
            f"{len(unreadable)} of {len(seen)} images of {origin} that were looked at cannot be read, the first: "
            f"{unreadable[0]}. Take them away, or repair them."
        )
    thumbnails = np.stack([thumbnail for _, thumbnail in read]).astype(np.int64)  # (n, 8, 8, 3)
    _refuse_alike(thumbnails, origin)
    side = int(np.median([length for length, _ in read]))
    grey = bool((np.ptp(thumbnails, axis=3) <= _FLAT).all())
    limits = [*_limits(count, parts, side, encoder)]
    if unreadable:
        limits.append(
            f"{len(unreadable)} of {len(seen)} images that were looked at cannot be read and are left out: "
            f"{unreadable[0]}"
        )
    return Survey(count, parts.distinct, side, grey, tuple(limits))


def _look(collection: Collection, row: int) -> tuple[int, np.ndarray] | str:
    """Length of the shorter side and a thumbnail uint8 (8, 8, 3); "name: reason" of an image that cannot be read."""
    try:
        image = collection.images.read(row)
    except UnreadableImageError as reason:
        return f"{collection.images.name(row)}: {reason}"
    small = image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return min(image.size), np.asarray(small)


def _refuse_alike(thumbnails: np.ndarray, origin: str) -> None:
    count = len(thumbnails)
    flat = int((np.ptp(thumbnails, axis=(1, 2)).max(axis=1) <= _FLAT).sum())
    if flat > 0.9 * count:
        raise ClzooError(
            f"{flat} of {count} images of {origin} are one flat colour each: nothing can be learnt of them. "
            "Name images that show something: clzoo adapt OTHER_IMAGES"
        )
    kinds = len(np.unique((thumbnails // _STEP).reshape(count, -1), axis=0))
    if kinds < 0.1 * count:
        raise ClzooError(
            f"{count} images of {origin} show {kinds} different pictures at {_THUMBNAIL} x {_THUMBNAIL} px: they are "
            f"copies of one another. To see which: {clzoo_command('embed', origin, '--out', 'STORE')} && clzoo "
            "curate duplicates STORE"
        )


def require_classes(collection: Collection, parts: Parts) -> list[str]:
    """Look at labels that are to judge; returns sentences about what they do not allow.

    Raises:
        ClzooError: one class alone, or so many that no two images can be compared.
    """
    labels, origin = collection.labels, collection.origin
    assert labels is not None
    if len(present := np.unique(labels)) < 2:
        raise ClzooError(
            f"--labels: all {len(labels)} images of {origin} are of the class {collection.classes[present[0]]}, and a "
            "verdict needs two classes. Give each class a folder of its own, or leave out --labels."
        )
    counts = np.bincount(labels[parts.train], minlength=len(collection.classes))  # (C,)
    unknown = int((counts[labels[parts.judged]] == 0).sum())
    if counts.max() < 2 or unknown == len(parts.judged):
        raise ClzooError(
            f"--labels: {origin} has {len(labels)} images of {len(present)} classes, too few of each to compare one "
            "with another. Are these names of images instead of classes? Expected several images a class; or leave out "
            "--labels."
        )
    if unknown:
        return [
            f"{unknown} of {len(parts.judged)} held-out images are of classes that the others do not hold: every "
            "encoder is wrong on them"
        ]
    return []


def _limits(count: int, parts: Parts, side: int, encoder: Encoder) -> list[str]:
    found, size = [], encoder.config.preprocessing.size
    if parts.distinct < FEW:
        different = "" if parts.distinct == count else "different "
        found.append(
            f"{parts.distinct} {different}images are fewer than {FEW}: too few are held out for a verdict other than "
            '"no evidence"'
        )
    if copies := len(parts.held) - len(parts.judged):
        found.append(
            f"{copies} of {len(parts.held)} held-out images are copies of others there and are not judged again"
        )
    if side * 2 < size:
        found.append(
            f"the images are {side} px and {encoder.config.name} takes {size} px: they are enlarged {size / side:.1f} "
            "times, which costs time and adds nothing; an encoder for small images fits better (clzoo list)"
        )
    return found
