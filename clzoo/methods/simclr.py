"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an image agree, all other images of the batch repel."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.losses import info_nce
from clzoo.methods.heads import mlp_projector
from clzoo.schema import Table


class SimCLROptions(Table):
    """`method:` of a SimCLR recipe; the defaults are those of small images (our choice, usual in public recipes)."""

    name: Literal["simclr"]
    temperature: float = Field(0.5, gt=0)
    hidden_dim: int = Field(512, gt=0)
    out_dim: int = Field(128, gt=0)

    @property
    def views(self) -> int:
        return 2


class SimCLR(nn.Module):
    """Backbone and projector; `forward` is the loss of one batch of views."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: SimCLROptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp_projector(feature_dim, options.hidden_dim, options.out_dim)
        self.options = options

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        """Loss of two views, each (B, 3, H, W). One forward pass for both: BatchNorm sees all 2B images."""
        z = self.projector(self.backbone(torch.cat(views)))  # (2B, out_dim)
        return info_nce(torch.stack(z.chunk(2)), self.options.temperature)
