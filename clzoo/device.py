"""Which device a model runs on. Never a silent fall-back."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from clzoo.errors import ClzooError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("clzoo")

_computed_in: int | None = None  # the process in which torch computed; what a fork inherits names its parent


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1", "mps" into a usable device; "auto" logs which one it took.

    Raises:
        ClzooError: the asked device is not usable here.
    """
    import torch

    mind_fork()
    if str(device) == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        log.info("device: %s (chosen by device='auto')", kind)
        return torch.device(kind)
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ClzooError(f"unknown device {device!r}; expected auto, cpu, cuda, cuda:N or mps.") from error
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (resolved.index or 0) >= count:
            raise ClzooError(
                f"device {str(device)!r} was asked for, but torch {torch.__version__} sees {count} CUDA device(s). "
                "Type: nvidia-smi; or ask for --device cpu."
            )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ClzooError("device 'mps' was asked for, but torch sees no Apple GPU here. Ask for --device cpu.")
    return resolved


def mind_fork(*, computes: bool = False) -> None:
    """In a process that was forked from one in which torch computed, let it compute with one thread, and say so.

    The threads of GNU OpenMP, which torch has on Linux, are not there after a fork, and torch waits for them for ever.

    Args:
        computes: torch is about to compute in this process.
    """
    global _computed_in
    import torch

    forked = sys.platform == "linux" and _computed_in not in (None, os.getpid())
    if forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        log.warning(
            "this process was forked from one in which torch had computed, whose threads are not here: it computes "
            "with one thread. For all of them start processes by multiprocessing.get_context('spawn')"
        )
    if computes:
        _computed_in = os.getpid()


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Small parameters from the host, without waiting for what the device is doing."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def has_native_bf16(kind: str = "cpu") -> bool:
    """Whether this machine's CPU ("cpu": AVX512-BF16 or AMX) or GPU ("cuda": Ampere and later) multiplies bfloat16 by
    itself; others emulate it, unusably slowly.
    """
    import torch

    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # of torch 2.6 and later
    return any(getattr(torch.cpu, name, bool)() for name in asked)
