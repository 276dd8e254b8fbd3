"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057): symmetric, with a predictor, against the keys of the batch."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.distributed import gather, gather_constant
from clzoo.losses import info_nce_keys
from clzoo.losses.seen import between
from clzoo.methods.batch import Batch
from clzoo.methods.heads import LastNorm, Widths, mlp, predictor
from clzoo.methods.momentum import cosine_to_one
from clzoo.methods.momentum_host import MomentumHost
from clzoo.methods.record import Method
from clzoo.schema import Table


class MoCoV3Options(Table):
    """`method:` of a MoCo v3 recipe; `momentum` rises to 1 along a cosine.

    predictor_last_norm: "none" with ResNets, "batch_without_affine" with ViTs, as published.
    """

    name: Literal["mocov3"]
    temperature: float = Field(gt=0)
    momentum: float = Field(0.99, ge=0, le=1)
    projector: Widths
    predictor: Widths
    predictor_last_norm: LastNorm = "none"


class MoCoV3(MomentumHost):
    """forward is 2T times the sum of both directions' InfoNCE."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: MoCoV3Options) -> None:
        super().__init__(
            backbone,
            mlp([feature_dim, *options.projector], last_norm="batch_without_affine"),
            predictor(options.projector, options.predictor, last_norm=options.predictor_last_norm),
        )
        self.options = options

    def prepare(self, batch: Batch) -> tuple[()]:
        self.update_momentum(batch, cosine_to_one(self.options.momentum, batch.progress))
        return ()

    def loss(self, batch: Batch) -> torch.Tensor:
        temperature = self.options.temperature
        q1, q2 = (gather(self.query(view)) for view in batch.views)
        k1, k2 = (gather_constant(self.key(view)) for view in batch.views)
        own = torch.arange(len(q1), device=q1.device)
        loss = info_nce_keys(q1, k2, own, temperature)
        with between(queries=[1], keys=[0]):
            loss = loss + info_nce_keys(q2, k1, own, temperature)
        return 2 * temperature * loss


METHOD = Method(
    title="MoCo v3",
    arxiv="2104.02057",
    options=MoCoV3Options,
    build=MoCoV3,
    forwards=lambda options, views: 2 * views,  # each view is query and key
)
