"""Decoding overlapped with the model: from items to vectors, in order, in bounded memory.

On a CPU every worker thread decodes a small batch and runs the model on it with one thread (Pillow and torch both work
outside the interpreter's lock). Workers never wait for each other, so all cores stay busy even if one of them is taken
by something else; splitting every layer over the cores makes all wait for the slowest, some hundred times a batch.

On a GPU the workers decode straight into a small ring of pinned batch buffers, while the calling thread runs the model;
copies are asynchronous, and one batch stays in flight, so that the GPU never waits for the bookkeeping.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from clzoo.data.sources import Failure
from clzoo.embed.manifest import STORE_DTYPES
from clzoo.encoder import Encoder, ImageLike
from clzoo.errors import ClzooError, UnreadableImageError

_RING = 4  # batch buffers: one in the model, one in flight to or from the GPU, two being filled
_CHUNKS_PER_WORKER = 4  # jobs that a GPU batch is cut into for each worker: few futures, yet short tails
_AHEAD = 2  # batches that may be finished or queued beyond those the workers are at


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


@dataclass
class Clock:
    """Where the time went."""

    waiting: float = 0.0  # seconds in which the model waited for decoded images


def default_batch_size(encoder: Encoder) -> int:
    """256 on a GPU; on a CPU as many as hold the pixels of 16 images of 224 x 224, from 16 to 256. (Our choice.)"""
    if encoder.device.type != "cpu":
        return 256
    return min(max(16, 16 * 224**2 // encoder.config.preprocessing.size**2), 256)


def encode_items(
    items: Sequence[Readable], positions: np.ndarray, encoder: Encoder, settings: Settings, clock: Clock
) -> Generator[Encoded, None, None]:
    """Embed the chosen items in their order, a batch at a time; close the iterator to cancel the rest.

    Args:
        items: everything that there is.
        positions: int64 (M,), which of them to embed.
        clock: receives the time spent waiting.

    Raises:
        ClzooError: the device is out of memory.
    """
    if len(positions) == 0:
        return
    size = settings.batch_size
    count = -(-len(positions) // size)
    try:
        if encoder.device.type == "cpu":
            # A multiple of the workers, so that all of them have something to do until the end.
            count = min(-(-count // settings.workers) * settings.workers, len(positions))
            yield from _on_cpu(items, _split(positions, count), encoder, settings, clock)
        else:
            yield from _on_gpu(items, _split(positions, count), encoder, settings, clock)
    except torch.OutOfMemoryError as error:
        raise ClzooError(
            f"{encoder.device} has not enough memory for batches of {size} images. "
            f"Ask for a smaller --batch-size, such as {max(1, size // 2)}."
        ) from error


def _split(positions: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """`count` consecutive parts whose sizes differ by one at most."""
    for part in range(count):
        yield positions[len(positions) * part // count : len(positions) * (part + 1) // count]


# On a CPU: whole batches in parallel ----------------------------------------------------------------------------------


def _on_cpu(
    items: Sequence[Readable], parts: Iterator[np.ndarray], encoder: Encoder, settings: Settings, clock: Clock
) -> Generator[Encoded, None, None]:
    threads_before = torch.get_num_threads()
    # The setting counts for the thread that makes it, and for threads that come after it.
    pool = ThreadPoolExecutor(settings.workers, "clzoo-embed", torch.set_num_threads, (1,))
    running: deque[Future[tuple[Encoded, float]]] = deque()
    try:
        while True:
            for part in islice(parts, settings.workers + _AHEAD - len(running)):
                running.append(pool.submit(_decode_and_encode, items, part, encoder, settings))
            if not running:
                return
            encoded, seconds = running.popleft().result()
            clock.waiting += seconds / settings.workers
            yield encoded
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads_before)


def _decode_and_encode(
    items: Sequence[Readable], positions: np.ndarray, encoder: Encoder, settings: Settings
) -> tuple[Encoded, float]:
    """One batch, start to end, in one thread; also the seconds that decoding took."""
    started = time.perf_counter()
    side = encoder.config.preprocessing.size
    batch = _Batch(positions, torch.empty((len(positions), side, side, 3), dtype=torch.uint8))
    batch.decode(items, encoder, range(len(positions)))
    seconds = time.perf_counter() - started
    return batch.result(items, _vectors(batch, encoder, settings).numpy(), settings), seconds


# On a GPU: decoding beside the model ----------------------------------------------------------------------------------


class _Launched(NamedTuple):
    batch: _Batch
    vectors: torch.Tensor  # on the CPU, filled once `event` has happened
    event: torch.cuda.Event | None


def _on_gpu(
    items: Sequence[Readable], parts: Iterator[np.ndarray], encoder: Encoder, settings: Settings, clock: Clock
) -> Generator[Encoded, None, None]:
    is_cuda = encoder.device.type == "cuda"
    side = encoder.config.preprocessing.size
    shape = (settings.batch_size, side, side, 3)
    free = [torch.empty(shape, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(_RING)]
    filling: deque[tuple[_Batch, list[Future[None]]]] = deque()
    launched: deque[_Launched] = deque()
    pool = ThreadPoolExecutor(settings.workers, "clzoo-decode")
    try:
        while True:
            for part in islice(parts, len(free)):
                batch = _Batch(part, free.pop())
                filling.append((batch, batch.submit(pool, items, encoder, settings.workers)))
            if not filling and not launched:
                return
            if filling:
                batch, jobs = filling.popleft()
                started = time.perf_counter()
                for job in jobs:
                    job.result()
                clock.waiting += time.perf_counter() - started
                launched.append(_launch(batch, encoder, settings))
            # On CUDA the newest batch stays in flight while the one before it is collected.
            while len(launched) > (1 if filling and is_cuda else 0):
                done = launched.popleft()
                if done.event is not None:
                    done.event.synchronize()
                yield done.batch.result(items, done.vectors.numpy(), settings)
                free.append(done.batch.pixels)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _launch(batch: _Batch, encoder: Encoder, settings: Settings) -> _Launched:
    vectors = _vectors(batch, encoder, settings)
    if encoder.device.type != "cuda":
        return _Launched(batch, vectors.cpu(), None)
    landing = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    landing.copy_(vectors, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(encoder.device))
    return _Launched(batch, landing, event)


# What both share ------------------------------------------------------------------------------------------------------


class _Batch:
    """Some items, the buffer their pixels go to, and why those that failed did."""

    def __init__(self, positions: np.ndarray, pixels: torch.Tensor) -> None:
        self.positions = positions  # of the items in the listing
        self.pixels = pixels  # uint8 (at least B, H, W, 3)
        self.reasons: list[str | None] = [None] * len(positions)

    def submit(
        self, pool: ThreadPoolExecutor, items: Sequence[Readable], encoder: Encoder, workers: int
    ) -> list[Future[None]]:
        count = len(self.positions)
        step = max(1, count // (workers * _CHUNKS_PER_WORKER))
        chunks = (range(start, min(start + step, count)) for start in range(0, count, step))
        return [pool.submit(self.decode, items, encoder, chunk) for chunk in chunks]

    def decode(self, items: Sequence[Readable], encoder: Encoder, slots: range) -> None:
        """Decode the items of these slots into the buffer."""
        pixels = self.pixels.numpy()
        for slot in slots:
            try:
                pixels[slot] = encoder.pixels(items[self.positions[slot]].read())
            except UnreadableImageError as error:
                self.reasons[slot] = str(error)
            except Exception as error:  # whatever one image does to a decoder must not end the run
                self.reasons[slot] = f"{type(error).__name__}: {error}"

    def good_pixels(self) -> torch.Tensor:
        """uint8 (n, H, W, 3) of the items that were decoded; without a copy if that is all of them."""
        good = torch.tensor([reason is None for reason in self.reasons])
        pixels = self.pixels[: len(good)]
        return pixels if good.all() else pixels[good]

    def result(self, items: Sequence[Readable], vectors: np.ndarray, settings: Settings) -> Encoded:
        """Vectors (n, dim) of the decoded items, less those that are not finite; and all failures."""
        decoded = [slot for slot, reason in enumerate(self.reasons) if reason is None]
        finite = np.isfinite(vectors).all(axis=1)
        for row in np.flatnonzero(~finite):
            advice = " in fp16; try --store-dtype fp32" if settings.store_dtype == "fp16" else ""
            self.reasons[decoded[row]] = f"the model's feature is not finite{advice}"
        failures = []
        for position, reason in zip(self.positions, self.reasons, strict=True):
            if reason is not None:
                item = items[position]
                failures.append(Failure(item.path, item.size, item.mtime_ns, reason))
        positions = self.positions[[slot for slot, reason in enumerate(self.reasons) if reason is None]]
        return Encoded(positions, vectors if finite.all() else vectors[finite], failures)


def _vectors(batch: _Batch, encoder: Encoder, settings: Settings) -> torch.Tensor:
    """(n, dim) of the decoded images in the store's type, on the encoder's device."""
    dtype = getattr(torch, STORE_DTYPES[settings.store_dtype])
    pixels = batch.good_pixels()
    if len(pixels) == 0:
        return torch.empty((0, encoder.dim), dtype=dtype)
    vectors = encoder.encode(pixels, dtype=settings.dtype)
    return (F.normalize(vectors, dim=1) if settings.normalize else vectors).to(dtype)
