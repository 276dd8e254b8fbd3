"""The set of images that a run trains on: in memory if it fits, else decoded while training."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from clzoo.config import Preprocessing
from clzoo.data import content
from clzoo.data.collection import EXPECTED_LABELS, ArrayImages, Collection, Images, slow_at_random
from clzoo.data.decoding import decode_into_memory
from clzoo.data.imbalance import imbalanced_rows
from clzoo.data.opening import open_source
from clzoo.data.parallel import in_order, stacked
from clzoo.data.parts import parts_of
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import DECODING
from clzoo.transform import resize_and_crop

log = logging.getLogger("clzoo")

MEMORY_BUDGET = 8 << 30
"""Bytes up to which a set is held in memory, the same everywhere: where a run may be resumed, it holds the same images.
(Our choice: all of STL-10 at 96 px, Tiny-ImageNet at 64 px, 43,000 images at 256 px.)"""


BATCH = 500
"""Images of `pixel_batches` at a time."""


@dataclass(eq=False)
class TrainingSet:
    """Images by sample number, with labels.

    Attributes:
        origin: what the user named, for messages.
        images: where they are read from.
        rows: int64 (N,), the number of each sample in `images`.
        labels: int64 (N,), positions in `classes`; None without labels.
        weights: float64 (N,), how often a sample is drawn beside others; None: each once in an epoch.
        pixels: uint8 (N, size, size, 3) of a resident set; None if the images are decoded while training.
        left_out: "name: reason" of what was found unreadable when the set was opened; it has no sample number.
        unreadable: "name: reason" by sample number of what was found unreadable since then; see `image`.
        unlabelled: why there are no labels, and what to do.
    """

    origin: str
    images: Images
    rows: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    pixels: np.ndarray | None = None
    weights: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    unreadable: dict[int, str] = field(default_factory=dict)
    unlabelled: str = EXPECTED_LABELS

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_count(self) -> int | None:
        """The number of classes, None without labels."""
        return None if self.labels is None else len(self.classes)

    @property
    def skipped(self) -> tuple[str, ...]:
        """ "name: reason" of every image that could not be used so far."""
        return (*self.left_out, *self.unreadable.values())

    def image(self, sample: int) -> Image.Image:
        """The image that stands for a sample, from any thread.

        It is the sample's own; if that cannot be decoded, the next one that can, of the same class if there are labels
        (our choice). So labels stay right, an epoch keeps its length, and who decodes when makes no difference.
        Each unreadable image is named once.

        Raises:
            ClzooError: no image of the class (or of the set) can be decoded.
        """
        if self.pixels is not None:
            return Image.fromarray(self.pixels[sample])
        for candidate in self._from(sample):
            if candidate not in self.unreadable:
                try:
                    return self.images.read(int(self.rows[candidate]))
                except UnreadableImageError as reason:
                    self._note(candidate, reason)
        of_class = "" if self.labels is None else f" of the class {self.classes[self.labels[sample]]}"
        raise ClzooError(f"{self.origin}: no image{of_class} can be decoded, the first: {self.unreadable[sample]}")

    def require_labels(self, who: str) -> np.ndarray:
        """The labels, for a method or an evaluation that cannot do without.

        Args:
            who: who needs them, for the message.

        Raises:
            ClzooError: there are none, or all images are of one class.
        """
        if self.labels is None:
            raise ClzooError(f"{who} needs labels, and {self.origin} has none. {self.unlabelled}")
        present = np.unique(self.labels)
        if len(present) < 2:
            raise ClzooError(
                f"{who} needs at least two classes, and all {len(self)} images of {self.origin} are of the class "
                f"{self.classes[present[0]]}."
            )
        return self.labels

    def fingerprint(self) -> dict[str, Any]:
        """What the data are, for the run folder: equal for the same images and labels, wherever they lie.

        Of a resident set the pixels are hashed; of a streamed one names and encoded images, which reads what no earlier
        run has read (clzoo.data.content). A pack states the hash of its pixels.
        """
        identity: dict[str, Any] = {}
        if self.pixels is not None:
            digest = hashlib.sha256(self.pixels.data)
        elif isinstance(self.images, ArrayImages) and self.images.sha256 is not None:
            of_rows = hashlib.sha256(self.images.sha256.encode() + self.rows.astype("<i8").tobytes())
            digest = hashlib.sha256(of_rows.hexdigest().encode())
        else:
            # Earlier versions hashed names and sizes, and said nothing. Other rules would decode other pixels.
            identity = {"identity": "content", "decoding": DECODING}
            digest = content.identity(self.images, self.rows, content.digests(self.images, self.rows))
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return {
            "images": len(self),
            "classes": len(self.classes),
            "skipped": len(self.left_out),
            "held": "streamed" if self.pixels is None else "in memory",
            **identity,
            "sha256": digest.hexdigest(),
        }

    def _from(self, sample: int) -> Iterator[int]:
        """The sample, and those that may stand for it in the order in which they are tried."""
        yield sample
        of_class = np.arange(len(self)) if self.labels is None else np.flatnonzero(self.labels == self.labels[sample])
        place = int(np.searchsorted(of_class, sample))
        yield from np.roll(of_class, -place)[1:].tolist()

    def _note(self, sample: int, reason: Exception) -> None:
        named = f"{self.images.name(int(self.rows[sample]))}: {reason}"
        if self.unreadable.setdefault(sample, named) is named:  # the first of the threads that found it
            log.warning("skipped %s (%d so far; the next readable image stands for it)", named, len(self.unreadable))


def open_training_set(
    name: str,
    path: str | Path | None,
    size: int,
    *,
    split: Literal["pretrain", "train", "test"] = "pretrain",
    subset: str | None = None,
    held_out: bool = False,
    budget: int = MEMORY_BUDGET,
    download: bool = False,
) -> TrainingSet:
    """Open the images of one split.

    Args:
        name: the recipe's data set, such as "cifar10"; it tells which of torchvision's sets to look for.
        path: a source, as `clzoo.data.opening.open_source` takes it.
        size: side in pixels at which a resident set is held: shorter side resized to it, centre cut out.
        split: "pretrain" is "train", except of STL-10, whose labelled and unlabelled images it is.
        subset: "linear", "exponential" or "longtail-R" (see clzoo.data.imbalance), of the split "pretrain" alone.
        held_out: without the images that the rule of clzoo.data.parts holds out.
        budget: bytes up to which the set is held in memory; 0 to stream it.
        download: fetch a missing torchvision data set into `path`.

    Raises:
        ClzooError: nothing there, not this split, no image that can be decoded, a subset without labels.
    """
    if path is None:
        raise ClzooError(f"no data were named for {name}. Type: clzoo pretrain R --data DIR")
    collection = open_source(path, split, name=name, download=download)
    rows = parts_of(collection.images).train if held_out else _rows_of(collection, split, subset)
    return training_set_of(collection, rows, size, budget=budget)


def training_set_of(collection: Collection, rows: np.ndarray, size: int, *, budget: int = MEMORY_BUDGET) -> TrainingSet:
    """The images `rows` (int64 (N,)) of a collection, held at `size` px if they fit `budget` bytes.

    Raises:
        ClzooError: no image can be decoded.
    """
    labels = None if collection.labels is None else collection.labels[rows]
    opened = TrainingSet(
        collection.origin,
        collection.images,
        rows,
        labels,
        collection.classes,
        left_out=collection.failures,
        unlabelled=collection.unlabelled,
    )
    need = len(rows) * size * size * 3
    if need > budget:
        log.info(
            "%d images of %s are decoded while training: at %d px they take %.1f GiB, more than the %.1f GiB for sets "
            "in memory", len(rows), collection.origin, size, need / 2**30, budget / 2**30,
        )  # fmt: skip
        if why := slow_at_random(collection.images):
            log.warning("%s: %s. Once and for all: clzoo pack SOURCE --size 256 --out DIR", collection.origin, why)
        return opened
    return _held_in_memory(opened, size)


def _rows_of(collection: Collection, split: str, subset: str | None) -> np.ndarray:
    if subset is None:
        return np.arange(len(collection.images))
    if split != "pretrain":
        raise ClzooError(f"data.subset={subset} is for the images of pretraining; evaluation takes the whole {split}.")
    if collection.labels is None:
        raise ClzooError(
            f"data.subset={subset} needs labels, and {collection.origin} has none. {collection.unlabelled}"
        )
    return imbalanced_rows(collection.labels, len(collection.classes), subset)


def _held_in_memory(opened: TrainingSet, size: int) -> TrainingSet:
    """The same set with its pixels, less what cannot be decoded."""
    pixels, kept, skipped = decode_into_memory(opened.images, opened.rows, size)
    if len(kept) == 0:
        raise ClzooError(f"none of the {len(opened)} images of {opened.origin} can be decoded; the first: {skipped[0]}")
    if skipped:
        log.warning("%d of %d images cannot be decoded and are left out", len(skipped), len(opened))
    labels = None if opened.labels is None else opened.labels[np.isin(opened.rows, kept)]
    left_out = (*opened.left_out, *skipped)
    return dataclasses.replace(opened, rows=kept, labels=labels, pixels=pixels, left_out=left_out)


def pixel_batches(images: TrainingSet, p: Preprocessing) -> Iterator[np.ndarray]:
    """The set as an encoder takes it, uint8 (B, size, size, 3): as held in memory where that fits, else resized."""
    if images.pixels is not None and images.pixels.shape[1] == p.size and p.crop_pct == 1.0:
        yield from (images.pixels[first : first + BATCH] for first in range(0, len(images), BATCH))
        return
    yield from stacked(in_order(lambda sample: resize_and_crop(images.image(sample), p), len(images)), BATCH)
