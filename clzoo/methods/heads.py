"""Projection and prediction heads: used in pretraining, left behind afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from clzoo.errors import ClzooError

Widths = Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]
"""Of a head in a recipe: hidden layers and output."""

LastNorm = Literal["none", "batch", "batch_without_affine", "layer"]


def predictor(projector: Sequence[int], widths: Sequence[int], *, last_norm: LastNorm) -> nn.Sequential:
    """The MLP from a projection back to one, which a momentum key is compared with.

    Raises:
        ClzooError: its output is not as wide as the projector's.
    """
    if widths[-1] != projector[-1]:
        right = [*widths[:-1], projector[-1]]
        raise ClzooError(
            f"method.predictor={list(widths)} has to end as wide as method.projector={list(projector)}, whose output "
            f"it predicts. Type: --set method.predictor={json.dumps(right, separators=(',', ':'))}"
        )
    return mlp([projector[-1], *widths], last_norm=last_norm)


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
