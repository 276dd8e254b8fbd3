"""MoCo v2 (Chen et al. 2020, arXiv 2003.04297): a query against its momentum key and a queue of past keys."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.distributed import gather
from clzoo.losses import info_nce_queue
from clzoo.methods.batch import Batch, Needs
from clzoo.methods.heads import Widths, mlp
from clzoo.methods.momentum import Queue
from clzoo.methods.momentum_host import MomentumHost
from clzoo.methods.record import Method
from clzoo.schema import Table


class MoCoV2Options(Table):
    """`method:` of a MoCo v2 recipe."""

    name: Literal["mocov2"]
    temperature: float = Field(0.2, gt=0)
    queue: int = Field(65_536, gt=0)
    momentum: float = Field(0.999, ge=0, le=1)
    projector: Widths
    projector_batchnorm: bool = False  # on: the head of SimCLR, for comparisons


class MoCoV2(MomentumHost):
    """The first view is the query, the second the key."""

    one_pass = True  # each network is called once in a step

    def __init__(self, backbone: nn.Module, feature_dim: int, options: MoCoV2Options) -> None:
        head = mlp([feature_dim, *options.projector], hidden_batchnorm=options.projector_batchnorm)
        super().__init__(backbone, head)
        self.queue = Queue(options.queue, options.projector[-1])
        self.options = options

    def prepare(self, batch: Batch) -> tuple[torch.Tensor]:
        self.update_momentum(batch, self.options.momentum)
        return (self.key_order(batch),)

    def loss(self, batch: Batch, order: torch.Tensor) -> torch.Tensor:
        q, k = self.query(batch.views[0]), self.shuffled_key(batch.views[1], order)
        loss = info_nce_queue(gather(q), gather(k), self.queue.entries, self.options.temperature)
        self.queue.push(k)
        return loss


METHOD = Method(
    title="MoCo v2",
    arxiv="2003.04297",
    options=MoCoV2Options,
    build=MoCoV2,
    needs=lambda options: Needs(2, 2, batchnorm="shuffled"),
)
