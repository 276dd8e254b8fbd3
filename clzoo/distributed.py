"""Several processes: the whole batch's embeddings in each of them. With one process a gather is the identity."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

PATIENCE = timedelta(days=1)
"""That the others wait for what the first does alone: read a whole data set, measure k-NN, write an encoder."""


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, if it did; yields this process's device.

    NCCL for tensors on CUDA, Gloo for those in host memory. "auto" and "cuda" become the GPU of this process's local
    rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Number of training processes; 1 outside torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(x: torch.Tensor) -> torch.Tensor:
    """(B, ...) of each process -> (world * B, ...) in the order of ranks, with gradient.

    The backward pass sums the gradients of all processes for the local rows; every process evaluates the loss of the
    whole batch, and DistributedDataParallel's mean over processes makes that the gradient of the one loss.
    """
    return _Gather.apply(x) if world_size() > 1 else x


class _Gather(torch.autograd.Function):
    """By the collectives that every torch has: those with a gradient of their own were renamed twice by 2.14."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        return gather_constant(x)

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:  # (world * B, ...) -> (B, ...)
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        own = len(total) // world_size()
        return total[rank() * own :][:own]


@torch.no_grad()
def gather_constant(x: torch.Tensor) -> torch.Tensor:
    """As `gather`, without gradient: keys, labels."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def own_rows(batch: int, device: torch.device) -> torch.Tensor:
    """(B,) rows of this process's batch in a gathered tensor."""
    return torch.arange(batch, device=device) + rank() * batch


def shuffled(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """MoCo's shuffled BatchNorm: `function` on the rows of all processes dealt out anew, the result put back.

    A key's batch statistics then come from other images than its query's, and betray nothing. That holds for one
    process as well, where BatchNorm has statistics over groups of the batch (clzoo.methods.batchnorm).

    Args:
        order: (world * B,) permutation on the device of x, the same in every process.
    """
    batch = len(x)
    own = slice(rank() * batch, (rank() + 1) * batch)
    y = gather_constant(function(gather_constant(x)[order[own]]))  # row i belongs to image order[i]
    return torch.empty_like(y).index_copy_(0, order, y)[own]
