"""The momentum encoder and the queue of past keys (MoCo, arXiv 1911.05722)."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from clzoo.distributed import gather_constant
from clzoo.errors import ClzooError


def momentum_copy(module: nn.Module) -> nn.Module:
    """A copy without gradient, in train mode like its original: its BatchNorm has statistics of its own."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def momentum_update(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """average <- momentum * average + (1 - momentum) * module, parameters only. Called before the keys are made."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - momentum)


def cosine_to_one(start: float, progress: float) -> float:
    """The momentum at a share of the run: from `start` to 1 along half a cosine."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class Queue(nn.Module):
    """First in, first out: (K, D) unit vectors, random at the start. Part of the state that a checkpoint keeps."""

    entries: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("entries", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: torch.Tensor) -> None:
        """Replace the oldest entries by the normalised keys (B, D) of all processes.

        Raises:
            ClzooError: the queue's size is not a multiple of the global batch.
        """
        keys = F.normalize(gather_constant(keys).float(), dim=1)
        size, batch = len(self.entries), len(keys)
        if size % batch:
            raise ClzooError(
                f"a queue of {size} is no multiple of the batch of {batch}: --set method.queue={size // batch * batch}"
            )
        rows = self.pointer + torch.arange(batch, device=keys.device)  # on the device: a step does not wait for it
        # A new tensor, not a write in place: this step's loss may still need the old entries for its gradient.
        self.entries = self.entries.index_copy(0, rows, keys)
        self.pointer.add_(batch).remainder_(size)
