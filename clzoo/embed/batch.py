"""What the roads of a CPU and of a GPU share: how to embed, a batch on its way, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from clzoo.data.gpu_decoding import is_plain_jpeg
from clzoo.data.listing import Failure
from clzoo.embed.manifest import STORE_DTYPES
from clzoo.encoder import Encoder, ImageLike
from clzoo.errors import UnreadableImageError

_CHUNKS_PER_WORKER = 4  # jobs that a batch is cut into for each worker: few futures, yet short tails


class Readable(Protocol):
    """What can be embedded; a `clzoo.data.sources.Item` is one."""

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def mtime_ns(self) -> int: ...

    def read(self) -> ImageLike:
        """The image, encoded or decoded.

        Raises:
            UnreadableImageError: the reason alone.
        """
        ...


class Encoded(NamedTuple):
    """What became of one batch: positions and vectors of the good ones, failures of the others."""

    positions: np.ndarray  # int64 (n,), into the listing's items
    vectors: np.ndarray  # (n, dim) in the store's dtype
    failures: list[Failure]


@dataclass(frozen=True)
class Settings:
    """How to embed."""

    batch_size: int  # images in one forward pass
    workers: int  # threads
    dtype: str  # compute type, as in `Encoder.encode`
    store_dtype: str  # "fp16" or "fp32", of the vectors
    normalize: bool  # divide each vector by its L2 norm, before rounding to the store's type
    decode: str = "cpu"  # or "gpu": plain JPEG files by nvJPEG
    compile: bool = False  # the network by torch.compile; on a GPU


@dataclass
class Clock:
    """Where the time went."""

    waiting: float = 0.0  # seconds in which the model waited for decoded images


class Batch:
    """Some items, the buffer their pixels go to, and why those that failed did."""

    def __init__(self, positions: np.ndarray, pixels: torch.Tensor) -> None:
        self.positions = positions  # of the items in the listing
        self.pixels = pixels  # uint8 (at least B, H, W, 3)
        self.reasons: list[str | None] = [None] * len(positions)
        self.jpegs: dict[int, bytes] = {}  # files of the slots that the GPU is to decode

    def submit(
        self,
        pool: ThreadPoolExecutor,
        items: Sequence[Readable],
        encoder: Encoder,
        workers: int,
        slots: Sequence[int],
        *,
        leave_jpegs: bool = False,
    ) -> list[Future[None]]:
        """`decode` in the threads of a pool, a few slots at a time."""
        step = max(1, len(slots) // (workers * _CHUNKS_PER_WORKER))
        chunks = (slots[start : start + step] for start in range(0, len(slots), step))
        return [pool.submit(self.decode, items, encoder, chunk, leave_jpegs=leave_jpegs) for chunk in chunks]

    def decode(
        self, items: Sequence[Readable], encoder: Encoder, slots: Sequence[int], *, leave_jpegs: bool = False
    ) -> None:
        """Decode the items of these slots into the buffer; with `leave_jpegs` plain JPEG files are read alone."""
        pixels = self.pixels.numpy()
        for slot in slots:
            try:
                image = items[self.positions[slot]].read()
                if leave_jpegs and isinstance(image, bytes) and is_plain_jpeg(image):
                    self.jpegs[slot] = image
                else:
                    pixels[slot] = encoder.pixels(image)
            except UnreadableImageError as error:
                self.reasons[slot] = str(error)
            except Exception as error:  # whatever one image does to a decoder must not end the run
                self.reasons[slot] = f"{type(error).__name__}: {error}"

    @property
    def decoded(self) -> list[int]:
        """The slots that did not fail."""
        return [slot for slot, reason in enumerate(self.reasons) if reason is None]

    def good_pixels(self) -> torch.Tensor:
        """uint8 (n, H, W, 3) of the items that were decoded; without a copy if that is all of them."""
        good = torch.tensor([reason is None for reason in self.reasons])
        pixels = self.pixels[: len(good)]
        return pixels if good.all() else pixels[good]

    def result(self, items: Sequence[Readable], vectors: np.ndarray, settings: Settings) -> Encoded:
        """Vectors (n, dim) of the decoded items, less those that are not finite; and all failures."""
        decoded = self.decoded
        finite = np.isfinite(vectors).all(axis=1)
        for row in np.flatnonzero(~finite):
            advice = " in fp16; try --store-dtype fp32" if settings.store_dtype == "fp16" else ""
            self.reasons[decoded[row]] = f"the model's feature is not finite{advice}"
        failures = []
        for position, reason in zip(self.positions, self.reasons, strict=True):
            if reason is not None:
                item = items[position]
                failures.append(Failure(item.path, item.size, item.mtime_ns, reason))
        positions = self.positions[self.decoded]
        return Encoded(positions, vectors if finite.all() else vectors[finite], failures)


def vectors_of(pixels: torch.Tensor, encoder: Encoder, settings: Settings) -> torch.Tensor:
    """uint8 (n, H, W, 3) -> (n, dim) in the store's type, on the encoder's device."""
    dtype = getattr(torch, STORE_DTYPES[settings.store_dtype])
    if len(pixels) == 0:
        return torch.empty((0, encoder.dim), dtype=dtype)
    vectors = encoder.encode(pixels, dtype=settings.dtype)
    return (F.normalize(vectors, dim=1) if settings.normalize else vectors).to(dtype)
