"""How a run is asked to stop, by a person or by a scheduler, and how its processes agree on the step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import torch

from clzoo.distributed import world_size

_HEARD = b"\nstopping after this step, with a checkpoint. Ctrl-C again stops at once, without one.\n"

_asked: list[threading.Event] = []  # of the main thread: at most one
_heard = threading.Event()  # a signal, since the main thread last began to listen


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and the first Ctrl-C set, so that the loop can end with a checkpoint.

    The second Ctrl-C raises KeyboardInterrupt wherever the program is. Outside the main thread, where Python takes no
    signals, nothing is installed and the event is never set. On leaving, the handlers of before are back. One inside
    another is the same event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    if _asked:
        yield _asked[-1]
        return
    _heard.clear()
    interrupts = 0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        stop.set()
        _heard.set()
        if number != signal.SIGINT:
            return
        interrupts += 1
        if interrupts > 1:
            raise KeyboardInterrupt
        with suppress(OSError):  # not through sys.stderr: the signal may have come in the middle of a write to it
            os.write(2, _HEARD)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    _asked.append(stop)
    try:
        yield stop
    finally:
        _asked.pop()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def was_asked() -> bool:
    """Whether a signal came in the main thread's latest `asked_to_stop`: it was not the clock that stopped there."""
    return _heard.is_set()


def any_process(flag: bool) -> bool:
    """Whether any process says so: all have to stop at the same step. Exchanged on the hosts, past the devices."""
    if world_size() == 1:
        return flag
    wants = torch.tensor(int(flag))
    torch.distributed.all_reduce(wants, op=torch.distributed.ReduceOp.MAX)
    return bool(wants.item())
