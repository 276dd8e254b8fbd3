"""Run by test_distributed.py under two Gloo processes: each takes half of a batch and writes loss and gradients."""

from __future__ import annotations

import sys
import warnings

import torch
import torch.distributed as dist
from tiny import OPTIONS, VIEWS, tiny_batch, tiny_method
from torch import nn

from clzoo.methods import Batch
from clzoo.pretrain.build import data_parallel


def without_batchnorm(module: nn.Module) -> nn.Module:
    """BatchNorm's statistics depend on who sees which image; GroupNorm's do not."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            group_norm = nn.GroupNorm(1, child.num_features, affine=child.affine)
            # A trainable weight that gets no gradient (a momentum copy's) would keep the processes waiting.
            group_norm.requires_grad_(all(p.requires_grad for p in child.parameters()))
            setattr(module, name, group_norm)
        else:
            without_batchnorm(child)
    return module


def loss_and_gradients(kind: str, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    loss = model(batch)
    loss.backward()
    method = model.module if hasattr(model, "module") else model
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    buffers = {name: b.clone() for name, b in method.named_buffers() if "entries" in name}
    return {"loss": loss.detach(), **found, **buffers}


def half(kind: str, rank: int) -> Batch:
    whole = tiny_batch(kind)
    rows = slice(4 * rank, 4 * rank + 4)
    assert whole.labels is not None
    return Batch([view[rows] for view in whole.views], whole.labels[rows], progress=whole.progress)


def running_mean(rank: int) -> torch.Tensor:
    """(1,) of a BatchNorm that saw 1 + rank twice; one that took over the first process's would differ."""
    model = data_parallel(nn.BatchNorm1d(1), torch.device("cpu"))
    for _ in range(2):
        model(torch.full((4, 1), 1.0 + rank)).sum().backward()
    return model.module.running_mean


def main(out: str) -> None:
    for category in (DeprecationWarning, FutureWarning):
        warnings.simplefilter("error", category)  # torch renames its collectives and options from time to time
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = {}
    for kind in OPTIONS:
        method = without_batchnorm(tiny_method(kind))
        model = data_parallel(method, torch.device("cpu"))
        results[kind] = loss_and_gradients(kind, model, half(kind, rank))
    results["buffers"] = running_mean(rank)
    torch.save(results, f"{out}/rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    assert VIEWS
    main(sys.argv[1])
