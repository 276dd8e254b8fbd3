"""Projection and prediction heads: used in pretraining, left behind afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

LastNorm = Literal["none", "batch", "batch_without_affine", "layer"]


def mlp(widths: Sequence[int], *, hidden_batchnorm: bool = True, last_norm: LastNorm = "none") -> nn.Sequential:
    """Linear layers through `widths`, ReLU between them.

    Args:
        widths: input, hidden ..., output; two numbers give one linear layer.
        hidden_batchnorm: BatchNorm before each ReLU (SimCLR, MoCo v3); off for MoCo v2's head.
        last_norm: after the last layer; a bias there is kept only where no norm takes it away.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        norm = last_norm if last else ("batch" if hidden_batchnorm else "none")
        layers.append(nn.Linear(before, after, bias=norm in ("none", "layer")))
        if norm in ("batch", "batch_without_affine"):
            layers.append(nn.BatchNorm1d(after, affine=norm == "batch"))
        if norm == "layer":
            layers.append(nn.LayerNorm(after))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
