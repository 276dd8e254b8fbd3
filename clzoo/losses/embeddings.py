"""What every loss does first with its embeddings."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
import torch.nn.functional as F

from clzoo.errors import ClzooError
from clzoo.losses.seen import called

P = ParamSpec("P")


def full_precision(loss: Callable[P, torch.Tensor]) -> Callable[P, torch.Tensor]:
    """The loss without autocast, which would round similarities to bf16: by up to 0.004, and then divided by 0.1.

    Who watches (`clzoo.losses.seen`) is told of each call.
    """

    @functools.wraps(loss)
    def outside_autocast(*args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        devices = (value.device.type for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        with called(loss.__name__), torch.autocast(next(devices, "cpu"), enabled=False):
            return loss(*args, **kwargs)

    return outside_autocast


def unit(z: torch.Tensor) -> torch.Tensor:
    """L2-normalised over the last dimension, in float32 or (for float64 input) float64."""
    return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1)


def check_views(z: torch.Tensor, *, views: int | None = None) -> None:
    """Refuse anything but (V, N, D) with at least two views of at least two images."""
    right = z.ndim == 3 and z.shape[0] >= 2 and z.shape[1] >= 2 and (views is None or z.shape[0] == views)
    if not right:
        expected = f"({views or 'V >= 2'}, N >= 2, D)"
        raise ClzooError(f"the loss expects embeddings of shape {expected}, found {tuple(z.shape)}: one row per view.")
