"""Run by test_distributed.py under two Gloo processes: each takes half of a batch and writes loss and gradients."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from tiny import OPTIONS, VIEWS, tiny_batch, tiny_method
from torch import nn

from clzoo.methods import Batch


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


def main(out: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = {}
    for kind in OPTIONS:
        method = without_batchnorm(tiny_method(kind))
        model = nn.parallel.DistributedDataParallel(method, broadcast_buffers=False)
        results[kind] = loss_and_gradients(kind, model, half(kind, rank))
    torch.save(results, f"{out}/rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    assert VIEWS
    main(sys.argv[1])
