"""The road of a GPU: worker threads decode, the calling thread keeps the GPU busy.

The workers decode straight into a small ring of pinned batch buffers. A buffer is copied on a stream of its own while
the model is at the batch before; vectors come back asynchronously, and one batch stays in flight, so that the GPU never
waits for the bookkeeping. With `Settings.decode` "gpu" the workers only read plain JPEG files, and nvJPEG decodes them
on the stream of the copies; whatever it does not take goes through the workers and Pillow.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from clzoo.data.gpu_decoding import Decode, decode_and_fit, nvjpeg
from clzoo.embed.batch import Batch, Clock, Encoded, Readable, Settings, vectors_of
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

COMPILE_FROM = 500_000
"""With backend "auto" a network on CUDA is compiled for so many images or more (docs/scale.md says why)."""

_RING = 4  # batch buffers: one in the model, one in flight to or from the GPU, two being filled


class _Launched(NamedTuple):
    batch: Batch
    vectors: torch.Tensor  # (B, dim) of all slots, on the CPU, filled once `event` has happened
    event: torch.cuda.Event | None

    def is_done(self) -> bool:
        return self.event is None or self.event.query()


@dataclass
class _Tally:
    """How the images of a run were decoded."""

    all: int = 0
    on_gpu: int = 0
    refused: list[str] = field(default_factory=list)  # by nvJPEG, though they looked plain


def encode_on_gpu(
    items: Sequence[Readable],
    parts: Iterator[np.ndarray],
    encoder: Encoder,
    settings: Settings,
    clock: Clock,
    *,
    decode: Decode | None = None,
) -> Generator[Encoded, None, None]:
    """As `clzoo.embed.stream.encode_items`, of positions in parts of at most a batch.

    Args:
        decode: in the place of nvJPEG, where `settings.decode` is "gpu".

    Raises:
        ClzooError: the GPU cannot decode JPEG, or the network not be compiled.
    """
    is_cuda = encoder.device.type == "cuda"
    by_gpu = settings.decode == "gpu"
    decode = (decode or nvjpeg(encoder.device)) if by_gpu else None
    network = compiled(encoder, settings) if settings.compile else encoder
    copies = torch.cuda.Stream(encoder.device) if is_cuda else None
    side = encoder.config.preprocessing.size
    shape = (settings.batch_size, side, side, 3)
    free = [torch.empty(shape, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(_RING)]
    filling: deque[tuple[Batch, list[Future[None]]]] = deque()
    launched: deque[_Launched] = deque()
    tally = _Tally()
    pool = ThreadPoolExecutor(settings.workers, "clzoo-decode")

    def start(batch: Batch, slots: Sequence[int], *, leave_jpegs: bool = False) -> list[Future[None]]:
        return batch.submit(pool, items, encoder, settings.workers, slots, leave_jpegs=leave_jpegs)

    def decode_in_pool(batch: Batch, slots: Sequence[int]) -> None:
        _wait(start(batch, slots))

    try:
        while True:
            for part in islice(parts, len(free)):
                batch = Batch(part, free.pop())
                filling.append((batch, start(batch, range(len(part)), leave_jpegs=by_gpu)))
            if not filling and not launched:
                break
            if filling:
                batch, jobs = filling.popleft()
                clock.waiting += _wait(jobs)
                started = time.perf_counter()
                with torch.cuda.stream(copies) if copies is not None else nullcontext():
                    pixels = _on_device(batch, encoder, settings, decode, decode_in_pool, tally)
                if by_gpu and all(other.is_done() for other in launched):  # the model has run out of work meanwhile
                    clock.waiting += time.perf_counter() - started
                launched.append(_launch(batch, pixels, network, settings, copies))
            # On CUDA the newest batch stays in flight while the one before it is collected.
            while len(launched) > (1 if filling and is_cuda else 0):
                done = launched.popleft()
                if done.event is not None:
                    done.event.synchronize()
                yield done.batch.result(items, done.vectors.numpy()[done.batch.decoded], settings)
                free.append(done.batch.pixels)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if by_gpu:
        _say(tally)


def _wait(jobs: Sequence[Future[None]]) -> float:
    """Until they are done; how many seconds that took."""
    started = time.perf_counter()
    for job in jobs:
        job.result()
    return time.perf_counter() - started


def _on_device(
    batch: Batch,
    encoder: Encoder,
    settings: Settings,
    decode: Decode | None,
    decode_in_pool: Callable[[Batch, Sequence[int]], None],
    tally: _Tally,
) -> torch.Tensor:
    """uint8 (B, H, W, 3) on the encoder's device: a row for each slot, of failed ones whatever lay in the buffer.

    For a compiled network B is the batch size, always: it is made for one shape.
    """
    tally.all += len(batch.positions)
    images: dict[int, torch.Tensor] = {}
    if decode is not None and batch.jpegs:
        slots, jpegs = list(batch.jpegs), list(batch.jpegs.values())
        fitted = decode_and_fit(jpegs, decode, encoder.config.preprocessing)
        images = {slot: image for slot, image in zip(slots, fitted, strict=True) if isinstance(image, torch.Tensor)}
        tally.on_gpu += len(images)
        tally.refused += [reason for reason in fitted if isinstance(reason, str)]
        decode_in_pool(batch, [slot for slot in slots if slot not in images])
        batch.jpegs.clear()
    rows = settings.batch_size if settings.compile else len(batch.positions)
    if len(images) == len(batch.positions):
        pixels = torch.empty((rows, *batch.pixels.shape[1:]), dtype=torch.uint8, device=encoder.device)
    else:
        pixels = batch.pixels[:rows].to(encoder.device, non_blocking=True)
    for slot, image in images.items():
        pixels[slot] = image
    return pixels


def _launch(
    batch: Batch, pixels: torch.Tensor, network: Encoder, settings: Settings, copies: torch.cuda.Stream | None
) -> _Launched:
    if copies is None:
        return _Launched(batch, vectors_of(pixels, network, settings)[: len(batch.positions)].cpu(), None)
    stream = torch.cuda.current_stream(network.device)
    stream.wait_stream(copies)
    pixels.record_stream(stream)  # their memory belongs to the other stream, which could take it back too early
    vectors = vectors_of(pixels, network, settings)[: len(batch.positions)]
    landing = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    landing.copy_(vectors, non_blocking=True)
    event = torch.cuda.Event()
    event.record(stream)  # also the end of the copy to the GPU: then the buffer may be filled anew
    return _Launched(batch, landing, event)


def compile_pays(device: torch.device, images: int) -> bool:
    """Whether backend "auto" compiles the network for so many images on a device."""
    return device.type == "cuda" and images >= COMPILE_FROM


def compiled(encoder: Encoder, settings: Settings) -> Encoder:
    """The encoder with its network compiled for batches of one size; the encoder itself stays as it is.

    Raises:
        ClzooError: torch cannot compile it here.
    """
    twin = copy.copy(encoder)  # the weights are shared, and so is their hash where it is known
    size, side = settings.batch_size, encoder.config.preprocessing.size
    log.info("compiling %s for batches of %d images", encoder.config.architecture, size)
    started = time.perf_counter()
    try:
        twin.module = torch.compile(encoder.module, dynamic=False)
        pixels = torch.zeros((size, side, side, 3), dtype=torch.uint8, device=encoder.device)
        vectors_of(pixels, twin, settings).cpu()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of the compiler, of the code it made, or of a tool that it did not find
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ClzooError(
            f"torch {torch.__version__} cannot compile {encoder.config.architecture} on {encoder.device}: {reason}. "
            "To run it uncompiled, ask for --backend torch."
        ) from error
    log.info("compiled in %.0f s", time.perf_counter() - started)
    return twin


def _say(tally: _Tally) -> None:
    log.info("decoded on the GPU: %d of %d images, the others on the CPU", tally.on_gpu, tally.all)
    if tally.refused:
        log.warning(
            "nvJPEG refused %d plain JPEG files, which were decoded on the CPU: %s",
            len(tally.refused),
            tally.refused[0],
        )
