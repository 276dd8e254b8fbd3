"""Alignment and uniformity (Wang and Isola 2020, arXiv 2005.10242): views close together, images spread evenly."""

from typing import Literal

import torch
from torch import nn

from clzoo.losses import align_uniform
from clzoo.methods.batch import Batch
from clzoo.methods.heads import Widths, mlp
from clzoo.methods.record import Method
from clzoo.methods.two_views import TwoViewMethod, needs_two_joined
from clzoo.schema import Table


class AlignUniformOptions(Table):
    """`method:` of an Align+Uniform recipe; the defaults are the published ones."""

    name: Literal["align_uniform"]
    w_align: float = 1.0
    w_uniform: float = 1.0
    alpha: float = 2.0
    t: float = 2.0
    projector: Widths


class AlignUniform(TwoViewMethod):
    """One linear layer as head, as published, where `projector` is one number."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: AlignUniformOptions) -> None:
        super().__init__(backbone, mlp([feature_dim, *options.projector]))
        self.options = options

    def forward(self, batch: Batch) -> torch.Tensor:
        o = self.options
        return align_uniform(self.project(batch), w_align=o.w_align, w_uniform=o.w_uniform, alpha=o.alpha, t=o.t)


METHOD = Method(
    title="Align + Uniform",
    arxiv="2005.10242",
    options=AlignUniformOptions,
    build=AlignUniform,
    needs=needs_two_joined,
)
