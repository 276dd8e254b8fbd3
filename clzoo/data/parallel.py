"""Work on many images in threads: Pillow decodes and resizes outside the interpreter's lock.

Threads and not processes, because they share the listing, the open shards and the pinned buffers: nothing is copied
between processes, memory does not grow with the workers, and nothing depends on how the platform starts a process.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

S = TypeVar("S")
T = TypeVar("T")

_CHUNK = 16  # images of one job: small ones take less time than handing a job over
_AHEAD = 4  # jobs per worker that may be finished or queued beyond the one that is waited for


def usable_cores() -> int:
    """Cores that this process may use; of those of the machine its share where torchrun starts several."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def in_order(function: Callable[[int], T], count: int) -> Iterator[T]:
    """function(0), function(1), ... computed in threads, at most some hundred results ahead of the consumer."""
    return mapped_in_order(function, range(count), usable_cores() * _AHEAD * _CHUNK)


def mapped_in_order(function: Callable[[S], T], items: Iterable[S], ahead: int) -> Iterator[T]:
    """function(item) of each item, computed in threads, about `ahead` results ahead of the consumer and no more.

    Items are taken from the iterable when their turn comes, in the thread of the consumer.
    """
    workers = usable_cores()
    chunk = max(1, min(_CHUNK, ahead // (2 * workers)))
    left = iter(items)
    jobs = iter(lambda: list(islice(left, chunk)), [])
    running: deque[Future[list[T]]] = deque()
    pool = ThreadPoolExecutor(workers, "clzoo-decode")

    def work(part: list[S]) -> list[T]:
        return [function(item) for item in part]

    try:
        running.extend(pool.submit(work, job) for job in islice(jobs, max(1, ahead // chunk)))
        while running:
            yield from running.popleft().result()
            running.extend(pool.submit(work, job) for job in islice(jobs, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def stacked(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Arrays of one shape, `size` at a time (the last time fewer), as one array (B, ...)."""
    left = iter(arrays)
    while part := list(islice(left, size)):
        batch = np.stack(part)
        part.clear()  # one copy while the batch is worked on
        yield batch
