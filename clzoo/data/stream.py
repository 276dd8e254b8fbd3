"""The views of step after step, in the order that the loop asks for; crops are decoded ahead, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice, tee
from typing import NamedTuple

import torch

from clzoo.augment.views import ViewPolicy, crop_on_host, finish_view, make_view
from clzoo.data.parallel import usable_cores
from clzoo.data.training import TrainingSet
from clzoo.device import to_device

AHEAD = 3
"""Batches that are being decoded while the loop works on one."""

LARGEST_BATCHED_ON_CPU = 96
"""Pixels up to which a CPU crops whole batches; above, image by image was faster when measured once."""

_JOBS_PER_WORKER = 4  # that a batch is cut into: few hand-overs, yet no worker is idle for long


def crops_on_host(images: TrainingSet, policies: Sequence[ViewPolicy], device: torch.device) -> bool:
    """Whether crops are made image by image by `stream_crops`, not for whole batches on the device."""
    largest = max(policy.size for policy in policies)
    return images.pixels is None or (device.type == "cpu" and largest > LARGEST_BATCHED_ON_CPU)


def stream_views(
    images: TrainingSet,
    batches: Iterable[tuple[int, torch.Tensor]],
    policies: Sequence[ViewPolicy],
    finish: Callable[[torch.Tensor], torch.Tensor],
    *,
    seed: int,
    device: torch.device,
    road_of: torch.device | None = None,
) -> Generator[tuple[torch.Tensor, list[torch.Tensor]], None, None]:
    """Samples and views of batch after batch, by the road that `crops_on_host` chooses; close it to cancel what runs.

    Args:
        batches: (epoch, samples int64 (B,)) of the coming steps; read a few batches ahead where crops are decoded.
        policies: one per view.
        finish: makes of a view's pixels, (B, size, size, 3) in [0, 255], what is yielded: `normalize`, for example. It
            gets one view at a time, so that no two lie unfinished in memory. They are float32, and uint8 where the
            host made all of it, crop and flip alone.
        road_of: the device whose road is taken, where that is not `device`.

    Yields:
        The samples as given, and V finished views on `device`.

    Raises:
        ClzooError: as `stream_crops`.
    """
    if not crops_on_host(images, policies, road_of or device):
        held = torch.from_numpy(images.pixels).to(device)  # (N, S, S, 3) uint8
        for epoch, samples in batches:
            pixels = views_of(held[to_device(samples, device)], samples, policies, seed=seed, epoch=epoch)
            yield samples, [finish(view) for view in pixels]
        return
    batches, ahead = tee(batches)
    with closing(stream_crops(images, ahead, policies, seed=seed, device=device)) as crops:
        for (epoch, samples), batch in zip(batches, crops, strict=True):
            yield (
                samples,
                [
                    finish(
                        crop
                        if policy.only_crops
                        else _pixels(finish_view(crop, policy, seed=seed, epoch=epoch, samples=samples, view=view))
                    )
                    for view, (crop, policy) in enumerate(zip(batch, policies, strict=True))
                ],
            )


def views_of(
    pixels: torch.Tensor, samples: torch.Tensor, policies: Sequence[ViewPolicy], *, seed: int, epoch: int
) -> Iterator[torch.Tensor]:
    """One view after the other of stored images (B, H, W, 3) uint8: float32 (B, size, size, 3) in [0, 255]."""
    for view, policy in enumerate(policies):
        yield _pixels(make_view(pixels, policy, seed=seed, epoch=epoch, samples=samples, view=view))


def _pixels(view: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) in [0, 1] -> (B, S, S, 3) in [0, 255]."""
    return 255 * view.permute(0, 2, 3, 1)


def stream_crops(
    images: TrainingSet,
    batches: Iterable[tuple[int, torch.Tensor]],
    policies: Sequence[ViewPolicy],
    *,
    seed: int,
    device: torch.device,
    workers: int | None = None,
    ahead: int = AHEAD,
) -> Generator[list[torch.Tensor], None, None]:
    """The host's part of each view (see clzoo.augment.views.crop_on_host) of batch after batch.

    The result is a function of (seed, epoch, sample, view) alone: neither workers nor `ahead` nor where the loop began
    make a difference. Every image is decoded once for all its views. Close the generator to cancel what is under way.

    On CUDA the workers write into pinned buffers, and a stream of its own copies them over while the step before
    computes. A buffer is written again only after its copy is done.

    Args:
        images: streamed or resident (on a CPU per-image crops are the faster ones at 224 px).
        batches: (epoch, samples int64 (B,)) of the coming steps; read `ahead` of what was handed out.
        policies: one per view.
        workers: threads; as many as cores by default.

    Yields:
        V tensors uint8 (B, size, size, 3) on `device`, size that of the view's policy.

    Raises:
        ClzooError: a class without an image that can be decoded.
    """
    pending = iter(batches)
    threads = workers or usable_cores()
    pool = ThreadPoolExecutor(threads, "clzoo-crop")
    transfer = _Transfer(device, policies, sets=ahead + 3)  # `ahead`, the one waited for, two on their way to the GPU
    decoding: deque[_Decoding] = deque()
    arriving: deque[_Arriving] = deque()

    def start(count: int) -> None:
        for epoch, samples in islice(pending, count):
            batch = _Decoding(transfer.take(len(samples)), samples.tolist(), epoch)
            batch.submit(pool, threads * _JOBS_PER_WORKER, images, policies, seed)
            decoding.append(batch)

    try:
        start(ahead + 1)
        while decoding or arriving:
            # The batch to hand out, and the one after it where that needs no waiting.
            while decoding and (not arriving or (len(arriving) == 1 and decoding[0].is_done())):
                arriving.append(transfer.send(decoding.popleft().result()))
                start(1)
            yield transfer.receive(arriving.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Decoding:
    """A batch in the hands of the workers."""

    buffers: list[torch.Tensor]  # per view uint8 (B, size, size, 3), in host memory
    samples: list[int]
    epoch: int
    jobs: list[Future[None]] = field(default_factory=list)

    def submit(
        self, pool: ThreadPoolExecutor, jobs: int, images: TrainingSet, policies: Sequence[ViewPolicy], seed: int
    ) -> None:
        arrays = [buffer.numpy() for buffer in self.buffers]

        def crop(slots: range) -> None:
            for slot in slots:
                sample = self.samples[slot]
                image = images.image(sample)
                for view, policy in enumerate(policies):
                    arrays[view][slot] = crop_on_host(
                        image, policy, seed=seed, epoch=self.epoch, sample=sample, view=view
                    )

        count = len(self.samples)
        step = max(1, count // jobs)
        self.jobs = [pool.submit(crop, range(first, min(first + step, count))) for first in range(0, count, step)]

    def is_done(self) -> bool:
        return all(job.done() for job in self.jobs)

    def result(self) -> list[torch.Tensor]:
        for job in self.jobs:
            job.result()
        return self.buffers


class _Arriving(NamedTuple):
    views: list[torch.Tensor]  # on the device
    copied: torch.cuda.Event | None


class _Transfer:
    """Buffers for the workers, and their way to the device."""

    def __init__(self, device: torch.device, policies: Sequence[ViewPolicy], sets: int) -> None:
        self.device = device
        self.sizes = [policy.size for policy in policies]
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.left = sets  # pinned sets that may still be made; then the oldest is used again
        self.used: deque[tuple[list[torch.Tensor], torch.cuda.Event]] = deque()

    def take(self, count: int) -> list[torch.Tensor]:
        """Empty buffers for `count` samples of each view."""
        pinned = self.stream is not None
        if self.left > 0 or not self.used or not pinned:
            self.left -= 1
            return [torch.empty((count, size, size, 3), dtype=torch.uint8, pin_memory=pinned) for size in self.sizes]
        buffers, copied = self.used.popleft()
        copied.synchronize()
        if len(buffers[0]) != count:
            self.left += 1
            return self.take(count)
        return buffers

    def send(self, buffers: list[torch.Tensor]) -> _Arriving:
        """Start the way to the device."""
        if self.stream is None:
            return _Arriving([buffer.to(self.device) for buffer in buffers], None)
        with torch.cuda.stream(self.stream):
            views = [buffer.to(self.device, non_blocking=True) for buffer in buffers]
            copied = self.stream.record_event()
        self.used.append((buffers, copied))
        return _Arriving(views, copied)

    def receive(self, arriving: _Arriving) -> list[torch.Tensor]:
        """Tensors that the current stream may use."""
        if arriving.copied is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(arriving.copied)
            for view in arriving.views:
                view.record_stream(current)  # its memory was taken on the other stream
        return arriving.views
