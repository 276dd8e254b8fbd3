"""A store as a teacher: its vectors, the images behind them, and what does not let them be learnt from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from clzoo.adaptation.survey import FEWEST
from clzoo.config import TIMM_PREFIX
from clzoo.data.collection import ChosenImages, Collection
from clzoo.data.content import Stamp, digests, stamp_of
from clzoo.data.storage import is_remote
from clzoo.embed import Store
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.images import decode_image
from clzoo.losses.embeddings import unit
from clzoo.timm_import import timm
from clzoo.wording import clzoo_command
from clzoo.zoo.entries import described

_ALIKE = 1e-5  # 1 - length of the mean of all directions, below which they are one (our choice)


@dataclass(frozen=True)
class StoreImages:
    """The images behind the rows of a store."""

    store: Store

    def __len__(self) -> int:
        return len(self.store)

    def name(self, row: int) -> str:
        return self.store.paths[row]

    def read(self, row: int) -> Image.Image:
        return decode_image(self.content(row))

    def content(self, row: int) -> bytes:
        return self.store.image_bytes(row)

    def stamp(self, row: int) -> Stamp | None:
        name = self.name(row)
        return None if _is_elsewhere(self.store, name) else stamp_of(self.store.root / name)


@dataclass(frozen=True)
class Teacher:
    """A store that can be learnt from.

    Attributes:
        images: those that are there, with labels where all rows have one and there are two classes.
        limits: sentences about what is not as it could be.
        why_unjudged: why there can be no verdict; None where `images` has labels.
    """

    store: Store
    images: Collection
    limits: tuple[str, ...] = ()
    why_unjudged: str | None = None
    _rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    def vectors(self, rows: np.ndarray) -> torch.Tensor:
        """float32 (N, D) as stored, of images by their numbers (N,) in `images`."""
        return torch.from_numpy(self.store.raw_rows(self._rows[rows]).astype(np.float32))

    def features(self, rows: np.ndarray) -> Features:
        """The same with labels, for k-NN."""
        assert self.images.labels is not None
        labels = torch.from_numpy(self.images.labels[rows])
        return Features(self.vectors(rows), labels, self.images.classes, self.images.origin, {}, rows)


def teacher_of(store: Store, *, moved: bool) -> Teacher:
    """Look at all of a store, and at the images behind it.

    Args:
        moved: whether the images lie elsewhere than when they were embedded, where their times may be others.

    Raises:
        ClzooError: a store that is not finished, too few rows, vectors that are no directions or all the same, images
            that are gone or were changed since they were embedded.
    """
    path = store.path
    if not store.complete:
        raise ClzooError(f"{path} is not finished: its embedding was cut off. Go on with it: {_embed(store)}")
    if len(store) < FEWEST:
        raise ClzooError(
            f"{path} holds {len(store)} different images; distilling takes at least {FEWEST}. Add images: "
            f"{_embed(store)}"
        )
    _require_directions(store)
    _require_unchanged(store, moved=moved)
    images = StoreImages(store)
    there = digests(images, np.arange(len(store))).any(axis=1)  # (N,)
    rows, gone = np.flatnonzero(there), np.flatnonzero(~there)
    if len(rows) == 0:
        raise ClzooError(
            f"none of the {len(store)} images of {path} can be read in {store.manifest.root}, the first: "
            f"{store.paths[0]}. If they were moved: {clzoo_command('distil', path, '--images', 'DIR')}"
        )
    limits = []
    if len(gone):
        limits.append(
            f"{len(gone)} of {len(store)} images of the store cannot be read and are left out, the first: "
            f"{store.paths[gone[0]]}"
        )
    labels, classes, why = _labels_of(store, rows)
    return Teacher(
        store, Collection(str(store.path), ChosenImages(images, rows), labels, classes), tuple(limits), why, rows
    )


def parameters_of(store: Store) -> int | None:
    """How many the teacher has; None where that is not known on this machine."""
    try:
        if store.manifest.load.startswith(TIMM_PREFIX):
            with torch.device("meta"):
                network = timm.create_model(store.manifest.load.removeprefix(TIMM_PREFIX).partition(".")[0])
            return sum(parameter.numel() for parameter in network.parameters())
        return described(store.manifest.load)[0].parameters
    except (ClzooError, RuntimeError):  # not here any more, or not known to this timm
        return None


def _labels_of(store: Store, rows: np.ndarray) -> tuple[np.ndarray | None, tuple[str, ...], str | None]:
    names = [store.labels[row] for row in rows]
    without = sum(name is None for name in names)
    if without:
        some = "the store has no labels" if without == len(names) else f"{without} rows of the store have no label"
        return None, (), f"{some}; with them there is a verdict: {_embed(store, labels=True)}"
    classes, labels = np.unique([str(name) for name in names], return_inverse=True)
    if len(classes) == 1:
        return None, (), f"all images are of the class {classes[0]}, and a verdict needs two"
    return labels.astype(np.int64), tuple(classes.tolist()), None


def _require_directions(store: Store) -> None:
    """Refuse vectors that are not finite, zero, or all the same."""
    bad: list[int] = []
    total, done = np.zeros(store.dim), 0
    for _, vectors in store.batches():
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)  # (n,)
        usable = np.isfinite(lengths) & (lengths > 0)
        bad += (done + np.flatnonzero(~usable)).tolist()
        total += unit(torch.from_numpy(vectors[usable])).double().sum(dim=0).numpy()
        done += len(vectors)
    again = f"Look at the model: {clzoo_command('verify', store.manifest.load)}; then embed again, with another --out."
    if bad:
        raise ClzooError(
            f"{len(bad)} of {len(store)} vectors of {store.path} are zero or not finite, the first that of "
            f"{store.paths[bad[0]]}: nothing can be learnt of them. {again}"
        )
    if 1 - np.linalg.norm(total) / len(store) < _ALIKE:
        raise ClzooError(
            f"all {len(store)} vectors of {store.path} are the same: nothing can be learnt of them. {again}"
        )


def _require_unchanged(store: Store, *, moved: bool) -> None:
    """Refuse images of another size or time than when they were embedded, or in an archive of another time.

    Where they were moved, their times may be others, and sizes alone are compared.
    """
    changed, resized = [], False
    sizes, times = (store.items[column].to_pylist() for column in ("size", "mtime_ns"))
    for name, size, time in zip(store.paths, sizes, times, strict=True):
        if _is_elsewhere(store, name):
            continue
        place = store.root / name
        try:
            now = os.stat(place)  # noqa: PTH116 (called for every image)
            same_size, same_time = now.st_size == size, now.st_mtime_ns == time
        except FileNotFoundError:
            continue  # what is not there at all is another's to say
        except NotADirectoryError:  # a member of an archive or a table
            around = next((parent for parent in place.parents if parent.is_file()), None)
            same_size, same_time = True, around is None or around.stat().st_mtime_ns == time
        if not (same_size and (moved or same_time)):
            changed.append(name)
            resized |= not same_size
    if changed:
        here = clzoo_command("distil", store.path, "--images", store.manifest.root)
        only_times = "" if resized else f" Or, if the images are the same and only their times are not: {here}"
        raise ClzooError(
            f"{len(changed)} of {len(store)} images of {store.path} were changed since they were embedded, the first: "
            f"{changed[0]}. Renew the vectors: {_embed(store)}{only_times}"
        )


def _is_elsewhere(store: Store, name: str) -> bool:
    return is_remote(store.manifest.root) or is_remote(name)


def _embed(store: Store, *, labels: bool = False) -> str:
    """What to type to make the store, or to go on with it."""
    return store.manifest.command(store.path, *(["--labels"] if labels else []))
