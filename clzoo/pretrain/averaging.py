"""What becomes of a backbone's weights at the end of a run: part of the way back towards where they started.

A network that is halfway between the start and the end of a further training often keeps what the start could do and
most of what was gained (Wortsman et al. 2022, arXiv 2109.01903). Running averages of BatchNorm do not mix: those of the
mixed network are estimated anew, from views as the run made them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from clzoo.methods import Batch

BATCHES = 50
"""At most so many are looked at for the statistics."""


def parameters_of(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the weights that training moves."""
    return {name: parameter.detach().clone() for name, parameter in backbone.named_parameters()}


@torch.no_grad()
def move_towards(backbone: nn.Module, start: dict[str, torch.Tensor], share: float) -> None:
    """weights <- (1 - share) * weights + share * start."""
    for name, parameter in backbone.named_parameters():
        parameter.lerp_(start[name].to(parameter), share)


@torch.no_grad()
def estimate_batchnorm(method: Any, batches: Iterable[Batch]) -> None:
    """Set the running statistics of the backbone's BatchNorms to their averages over the first views of batches."""
    norms = [module for module in method.backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    was_training = method.training
    method.backbone.train()
    for number, batch in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (number + 1)  # a plain average; groups of SplitBatchNorm want a number
        method.backbone.forward(batch.views[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    method.train(was_training)
