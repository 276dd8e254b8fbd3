"""SupCon (Khosla et al. 2020, arXiv 2004.11362): as SimCLR, but every image of the same class is a positive."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.distributed import gather_constant
from clzoo.losses import sup_con
from clzoo.methods.batch import Batch
from clzoo.methods.heads import Widths, mlp
from clzoo.methods.record import Method
from clzoo.methods.two_views import TwoViewMethod, needs_two_joined
from clzoo.schema import Table


class SupConOptions(Table):
    """`method:` of a SupCon recipe."""

    name: Literal["supcon"]
    temperature: float = Field(gt=0)
    projector: Widths


class SupCon(TwoViewMethod):
    """Uses labels. The head has no BatchNorm, as published."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: SupConOptions) -> None:
        super().__init__(backbone, mlp([feature_dim, *options.projector], hidden_batchnorm=False))
        self.options = options

    def forward(self, batch: Batch) -> torch.Tensor:
        assert batch.labels is not None
        return sup_con(self.project(batch), gather_constant(batch.labels), self.options.temperature)


METHOD = Method(
    title="SupCon (supervised contrastive learning)",
    arxiv="2004.11362",
    options=SupConOptions,
    build=SupCon,
    needs=needs_two_joined,
    labels=True,
)
