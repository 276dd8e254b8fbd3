"""Decoding overlapped with the model: from items to vectors, in order, in bounded memory.

On a CPU every worker thread decodes a small batch and runs the model on it with one thread (Pillow and torch both work
outside the interpreter's lock). Workers never wait for each other, so all cores stay busy even if one of them is taken
by something else; splitting every layer over the cores makes all wait for the slowest, some hundred times a batch.
The road of a GPU is `clzoo.embed.gpu`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch

from clzoo.embed.batch import Batch, Clock, Encoded, Readable, Settings, vectors_of
from clzoo.embed.gpu import encode_on_gpu
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError

__all__ = ["Clock", "Encoded", "Readable", "Settings", "default_batch_size", "encode_items"]

_AHEAD = 2  # batches that may be finished or queued beyond those the workers are at


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
            yield from encode_on_gpu(items, _split(positions, count), encoder, settings, clock)
    except torch.OutOfMemoryError as error:
        raise ClzooError(
            f"{encoder.device} has not enough memory for batches of {size} images. "
            f"Ask for a smaller --batch-size, such as {max(1, size // 2)}."
        ) from error


def _split(positions: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """`count` consecutive parts whose sizes differ by one at most."""
    for part in range(count):
        yield positions[len(positions) * part // count : len(positions) * (part + 1) // count]


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
    batch = Batch(positions, torch.empty((len(positions), side, side, 3), dtype=torch.uint8))
    batch.decode(items, encoder, range(len(positions)))
    seconds = time.perf_counter() - started
    vectors = vectors_of(batch.good_pixels(), encoder, settings)
    return batch.result(items, vectors.numpy(), settings), seconds
