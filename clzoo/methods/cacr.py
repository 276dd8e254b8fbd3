"""CACR, form A (Zheng et al., TMLR 2023, arXiv 2105.03746): the farthest positives pull hardest, the nearest negatives
push hardest. Implemented from the mathematics of the published method.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.losses import cacr
from clzoo.methods.heads import mlp_projector
from clzoo.schema import Table


class CACROptions(Table):
    """`method:` of a CACR recipe; the defaults are the published ones for CIFAR-10 (K = 4 positives are five views).

    The head is our choice: the published small network ends in two wide layers of its own.
    """

    name: Literal["cacr"]
    views: int = Field(5, ge=2)
    t_pos: float = Field(1.0, ge=0)
    t_neg: float = Field(0.9, ge=0)
    alpha: float = 1.0
    beta: float = 1.0
    cost: Literal["euclidean", "rbf"] = "euclidean"
    detach_weights: bool = False
    symmetric: bool = False
    joint_forward: bool = False
    hidden_dim: int = Field(512, gt=0)
    out_dim: int = Field(128, gt=0)


class CACR(nn.Module):
    """Backbone and projector; `forward` is the loss of one batch of views."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: CACROptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp_projector(feature_dim, options.hidden_dim, options.out_dim)
        self.options = options

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        """Loss of V views, each (B, 3, H, W)."""
        o = self.options
        if o.joint_forward:  # one pass, BatchNorm statistics over all views
            z = torch.stack(self._project(torch.cat(views)).chunk(len(views)))
        else:  # as published: one pass and one set of BatchNorm statistics per view
            z = torch.stack([self._project(view) for view in views])  # (V, B, out_dim)
        return cacr(
            z,
            t_pos=o.t_pos,
            t_neg=o.t_neg,
            alpha=o.alpha,
            beta=o.beta,
            cost=o.cost,
            detach_weights=o.detach_weights,
            symmetric=o.symmetric,
        )

    def _project(self, images: torch.Tensor) -> torch.Tensor:
        return self.projector(self.backbone(images))
