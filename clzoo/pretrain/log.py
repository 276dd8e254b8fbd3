"""What a run says while it trains: JSON lines in its folder, a progress bar on a terminal; and how it is stopped."""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from clzoo.distributed import rank

logger = logging.getLogger("clzoo")

EVERY = 50  # steps between two lines


class StepLog:
    """Averages over `EVERY` steps: loss, learning rate, images per second, share of the time spent on making views.

    Lines go to `folder/log.jsonl`, and to TensorBoard's files where it is installed. Of several processes the first
    writes.
    """

    def __init__(self, folder: Path, first_step: int, total_steps: int) -> None:
        self._writes = rank() == 0
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8") if self._writes else None
        self._tensorboard = _tensorboard(folder) if self._writes else None
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            disable=not (sys.stderr.isatty() and self._writes and logger.isEnabledFor(logging.INFO)),
        )
        self._task = self._bar.add_task("", total=total_steps, completed=first_step)
        self._losses: list[torch.Tensor] = []
        self._images = 0
        self._waited = 0.0
        self._since = time.monotonic()

    def __enter__(self) -> StepLog:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time spent inside counts as waiting for views."""
        since = time.monotonic()
        yield
        self._waited += time.monotonic() - since

    def add(self, step: int, loss: torch.Tensor, learning_rate: float, images: int) -> None:
        """Count one step; every `EVERY` steps write a line."""
        self._losses.append(loss.detach())
        self._images += images
        self._bar.advance(self._task)
        if (step + 1) % EVERY:
            return
        seconds = time.monotonic() - self._since
        line = {
            "step": step + 1,
            "loss": round(torch.stack(self._losses).mean().item(), 6),
            "learning_rate": learning_rate,
            "images_per_second": round(self._images / seconds, 1),
            "data_wait": round(self._waited / seconds, 4),
        }
        self._write(line)
        self._bar.update(
            self._task,
            description=f"loss {line['loss']:.4f}  {line['images_per_second']:.0f} img/s  data {line['data_wait']:.0%}",
        )
        self._losses, self._images, self._waited, self._since = [], 0, 0.0, time.monotonic()

    def note(self, step: int, values: dict[str, float]) -> None:
        """A line of other measurements at a step."""
        self._write({"step": step, **{name: round(value, 4) for name, value in values.items()}})

    def _write(self, line: dict[str, float]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._tensorboard is not None:
            for name, value in line.items():
                if name != "step":
                    self._tensorboard.add_scalar(name, value, line["step"])


def _tensorboard(folder: Path) -> Any:
    """A writer of event files, or None where TensorBoard is not installed (`pip install "clzoo[log]"`)."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


@contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the loop can end with a checkpoint; outside the main thread never set."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = signal.signal(signal.SIGTERM, ask_to_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
