"""Gradient checkpointing: a block's activations are computed again in the backward pass, and not kept until then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clzoo.errors import ClzooError

_STAGES = ("layer1", "layer2", "layer3", "layer4")


def recompute_blocks(backbone: nn.Module, architecture: str) -> None:
    """Make each block of a ResNet or ViT keep its input alone; gradients and BatchNorm's averages stay what they were.

    timm's own switch would let BatchNorm count each batch twice.

    Raises:
        ClzooError: another kind of network.
    """
    blocks = _blocks(backbone)
    if not blocks:
        raise ClzooError(
            f"gradient_checkpointing is for ResNets and ViTs; {architecture} has no blocks. Remove it from the recipe."
        )
    for block in blocks:
        block.forward = partial(_forward, block)


def _blocks(backbone: Any) -> list[Any]:
    stages = [getattr(backbone, name) for name in _STAGES] if hasattr(backbone, _STAGES[0]) else []
    return [block for stage in stages for block in stage] or list(getattr(backbone, "blocks", []))


def _forward(block: nn.Module, x: torch.Tensor) -> Any:
    forward: Any = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(x)
    return checkpoint(forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _averages_kept(block)))


@contextmanager
def _averages_kept(block: nn.Module) -> Iterator[None]:
    """The second pass writes its running averages into copies: the originals have seen the batch already.

    Other tensors, and not the same ones put back: autograd keeps them for the backward pass, and would notice.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        for name, buffer in norm._buffers.items():
            norm._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
