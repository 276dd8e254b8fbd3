"""HCL (Robinson et al. 2021, arXiv 2010.04592): SimCLR with hard negatives weighted up and hidden positives corrected.

With beta = 0 it is the debiased loss (Chuang et al. 2020, arXiv 2007.00224).
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.losses import hcl
from clzoo.methods.batch import Batch
from clzoo.methods.heads import Widths, mlp
from clzoo.methods.record import Method
from clzoo.methods.two_views import TwoViewMethod, needs_two_joined
from clzoo.schema import Table


class HCLOptions(Table):
    """`method:` of an HCL recipe; the defaults are the published ones."""

    name: Literal["hcl"]
    temperature: float = Field(0.5, gt=0)
    tau_plus: float = Field(0.1, ge=0, lt=1)
    beta: float = Field(1.0, ge=0)
    projector: Widths


class HCL(TwoViewMethod):
    """forward is the re-weighted InfoNCE of the batch."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: HCLOptions) -> None:
        super().__init__(backbone, mlp([feature_dim, *options.projector]))
        self.options = options

    def forward(self, batch: Batch) -> torch.Tensor:
        o = self.options
        return hcl(self.project(batch), temperature=o.temperature, tau_plus=o.tau_plus, beta=o.beta)


METHOD = Method(
    title="HCL (contrastive learning with hard negatives)",
    arxiv="2010.04592",
    options=HCLOptions,
    build=HCL,
    needs=needs_two_joined,
)
