"""Hydra-MoCo (Wu et al., arXiv 2410.18200): Hydra's pair loss beside instance discrimination, on a MoCo v3 skeleton."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.distributed import gather, gather_constant
from clzoo.losses import info_nce_keys
from clzoo.losses.seen import between
from clzoo.methods.batch import Batch
from clzoo.methods.heads import LastNorm, Widths, mlp, predictor
from clzoo.methods.hydra import Direction, PairLoss, Pairs, draw_partners
from clzoo.methods.momentum import cosine_to_one
from clzoo.methods.momentum_host import MomentumHost
from clzoo.methods.record import Method
from clzoo.schema import Table


class HydraMoCoOptions(Table):
    """`method:` of a Hydra-MoCo recipe: (L_ins + beta L_pair + alpha L_cls) / (1 + alpha + beta).

    The authors' projector ends in LayerNorm and their predictor without a norm; MoCo v3's ViT heads end in BatchNorm
    without affine, which keeps gates from closing.
    """

    name: Literal["hydra_moco"]
    temperature: float = Field(0.2, gt=0)
    pairs: Pairs = "arbitrary"
    gate: bool = True
    gamma: float = Field(0.0, ge=0)
    alpha: float = Field(0.0, ge=0)
    beta: float = Field(1.0, ge=0)
    momentum: float = Field(0.99, ge=0, le=1)
    projector: Widths
    predictor: Widths
    projector_last_norm: LastNorm = "layer"
    predictor_last_norm: LastNorm = "none"
    group: int | None = Field(None, gt=1)


class HydraMoCo(MomentumHost):
    """The pair loss beside instance discrimination, on a MoCo v3 skeleton."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: HydraMoCoOptions, classes: int) -> None:
        super().__init__(
            backbone,
            mlp([feature_dim, *options.projector], last_norm=options.projector_last_norm),
            predictor(options.projector, options.predictor, last_norm=options.predictor_last_norm),
        )
        self.pair_loss = PairLoss(classes, options.predictor[-1], options)
        self.options = options

    def prepare(self, batch: Batch) -> tuple[torch.Tensor]:
        """(B,) partner classes."""
        o = self.options
        self.update_momentum(batch, cosine_to_one(o.momentum, batch.progress))
        return (draw_partners(batch, o.pairs, self.pair_loss.classes, o.group)[0],)

    def loss(self, batch: Batch, drawn: torch.Tensor) -> torch.Tensor:
        assert batch.labels is not None
        o = self.options
        q1, q2 = (gather(self.query(view)) for view in batch.views)
        k1, k2 = (gather_constant(self.key(view)) for view in batch.views)
        labels = gather_constant(batch.labels)
        partners = gather_constant(drawn)
        rows = torch.arange(len(labels), device=labels.device)
        loss = info_nce_keys(q1, k2, rows, o.temperature)
        with between(queries=[1], keys=[0]):
            loss = (loss + info_nce_keys(q2, k1, rows, o.temperature)) / 2
        directions = [Direction(q1, k2, [0], [1]), Direction(q2, k1, [1], [0])]
        loss = loss + o.beta * self.pair_loss(directions, labels, partners)
        if o.alpha:
            loss = loss + o.alpha * self.pair_loss(directions, labels, labels)
        return loss / (1 + o.alpha + o.beta)


METHOD = Method(
    title="Hydra-MoCo (later renamed SimLAP)",
    arxiv="2410.18200",
    options=HydraMoCoOptions,
    build=HydraMoCo,
    forwards=lambda options, views: 2 * views,  # each view is query and key
    labels=True,
    classes=True,
)
