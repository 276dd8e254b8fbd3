"""What a run says while it trains: JSON lines in its folder; a bar on a terminal, and elsewhere now and then a line."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from clzoo.distributed import rank
from clzoo.heartbeat import Heartbeat
from clzoo.progress import Progress

EVERY = 50  # steps between two lines ...
LINES = 20  # ... of which a short run has at least so many, one for each step if it has fewer


class StepLog:
    """Lines with the loss, the rate, images per second, and the share of the time spent on making views.

    A line is the mean over the steps since the one before. The first step of a run has a line of its own, without
    speeds, and so has the last, wherever the run ends. Lines go to `folder/log.jsonl`, and to TensorBoard's files where
    it is installed. Of several processes the first writes.
    """

    def __init__(self, folder: Path, first_step: int, total_steps: int, heartbeat: Heartbeat | None = None) -> None:
        self._writes = rank() == 0
        self._file = _opened(folder / "log.jsonl") if self._writes else None
        self._tensorboard = _tensorboard(folder) if self._writes else None
        self._progress = Progress("step", total_steps, done=first_step, shown=self._writes, heartbeat=heartbeat)
        self._total, self._done = total_steps, first_step
        self._every = min(EVERY, max(1, total_steps // LINES))
        self._losses: list[torch.Tensor] = []
        self._rate = 0.0
        self._described = ""
        self._images = 0
        self._waited = 0.0
        self._since = time.monotonic()

    def __enter__(self) -> StepLog:
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._write_line()
        self._progress.__exit__(kind, error, tb)
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

    def is_due(self, step: int) -> bool:
        """Whether `add` of this step will read the losses and write a line."""
        return step == 0 or (step + 1) % self._every == 0 or step + 1 == self._total

    def add(self, step: int, loss: torch.Tensor, learning_rate: float, images: int) -> None:
        """Count one step, and write a line where one is due."""
        self._losses.append(loss.detach())
        self._images += images
        self._rate, self._done = learning_rate, step + 1
        if self.is_due(step):
            self._write_line()
        self._progress.tell(self._done, self._described)

    def note(self, step: int, values: dict[str, float]) -> None:
        """A line of other measurements at a step; JSON has no word for those that are not finite."""
        self._write({"step": step, **{name: round(value, 4) for name, value in values.items() if math.isfinite(value)}})

    def _write_line(self) -> None:
        """Mean loss and speeds since the line before; nothing where there was no step since."""
        if not self._losses:
            return
        seconds = max(time.monotonic() - self._since, 1e-9)
        line = {
            "step": self._done,
            "loss": round(torch.stack(self._losses).mean().item(), 6),
            "learning_rate": self._rate,
        }
        self._described = f"loss {line['loss']:.4f}"
        if self._done > 1:  # the first step is slow: it compiles, or fills the caches
            line["images_per_second"] = round(self._images / seconds, 1)
            line["data_wait"] = round(self._waited / seconds, 4)
            self._described += f"  {line['images_per_second']:.0f} img/s  data {line['data_wait']:.0%}"
        self._write(line)
        self._losses, self._images, self._waited, self._since = [], 0, 0.0, time.monotonic()

    def _write(self, line: dict[str, float]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        if self._tensorboard is not None:
            for name, value in line.items():
                if name != "step":
                    self._tensorboard.add_scalar(name, value, line["step"])


def _opened(path: Path) -> TextIO:
    """The log, to write behind its last whole line: a full disk, or a machine that went down, may have cut one off."""
    if path.is_file() and not (found := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, found.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def _tensorboard(folder: Path) -> Any:
    """A writer of event files, or None where TensorBoard is not installed (`pip install "clzoo[log]"`)."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
