"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an image agree, all other images of the batch repel."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.losses import info_nce
from clzoo.methods.batch import Batch
from clzoo.methods.heads import Widths, mlp
from clzoo.methods.record import Method
from clzoo.methods.two_views import TwoViewMethod, needs_two_joined
from clzoo.schema import Table


class SimCLROptions(Table):
    """`method:` of a SimCLR recipe."""

    name: Literal["simclr"]
    temperature: float = Field(gt=0)
    projector: Widths  # hidden widths and output
    projector_batchnorm: bool = True  # off: the head of MoCo v2, for comparisons


class SimCLR(TwoViewMethod):
    """forward is InfoNCE among the 2N projections of the batch."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: SimCLROptions) -> None:
        head = mlp([feature_dim, *options.projector], hidden_batchnorm=options.projector_batchnorm)
        super().__init__(backbone, head)
        self.options = options

    def forward(self, batch: Batch) -> torch.Tensor:
        return info_nce(self.project(batch), self.options.temperature)


METHOD = Method(
    title="SimCLR",
    arxiv="2002.05709",
    options=SimCLROptions,
    build=SimCLR,
    needs=needs_two_joined,
)
