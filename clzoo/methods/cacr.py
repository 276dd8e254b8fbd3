"""CACR (Zheng et al., TMLR 2023, arXiv 2105.03746): the farthest positives pull hardest, the nearest negatives push
hardest. Implemented from the mathematics of the published method, in its three forms.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.distributed import gather, gather_constant
from clzoo.errors import ClzooError
from clzoo.losses import cacr, cacr_momentum, cacr_queue
from clzoo.losses.seen import between
from clzoo.methods.batch import Batch, Needs
from clzoo.methods.heads import LastNorm, Widths, mlp, predictor
from clzoo.methods.momentum import Queue, cosine_to_one
from clzoo.methods.momentum_host import MomentumHost
from clzoo.methods.record import Method
from clzoo.schema import Table


class CACROptions(Table):
    """`method:` of a CACR recipe. K positives are K + 1 views.

    form: "batch" (A: CIFAR, STL), "queue" (B: MoCo v2 style) or "momentum" (C: MoCo v3 style, the released models).
    """

    name: Literal["cacr"]
    form: Literal["batch", "queue", "momentum"] = "batch"
    projector: Widths
    # forms A and B: inverse temperatures of the distance
    t_pos: float = Field(1.0, ge=0)
    t_neg: float = Field(2.0, ge=0)
    alpha: float = 1.0
    beta: float = 1.0
    detach_weights: bool | None = None  # None: as published for the form (A: False, B: True)
    # form A
    cost: Literal["euclidean", "rbf"] = "euclidean"
    symmetric: bool = False
    projector_batchnorm: bool = True  # off: the head of MoCo v2, for comparisons
    joint_forward: bool = False  # one pass for all views; as published each has its own BatchNorm statistics
    # forms B and C
    momentum: float = Field(0.999, ge=0, le=1)
    queue: int = Field(65_536, gt=0)
    # form C
    temperature: float = Field(1.0, gt=0)
    predictor: Widths | None = None
    predictor_last_norm: LastNorm = "none"  # ViTs: batch_without_affine


def create_cacr(backbone: nn.Module, feature_dim: int, options: CACROptions) -> nn.Module:
    """The form that `options.form` names."""
    forms = {"batch": CACRBatch, "queue": CACRQueue, "momentum": CACRMomentum}
    return forms[options.form](backbone, feature_dim, options)


class CACRBatch(nn.Module):
    """Form A: views of one batch among themselves."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: CACROptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp([feature_dim, *options.projector], hidden_batchnorm=options.projector_batchnorm)
        self.options = options
        self.one_pass = options.joint_forward  # each network is called once in a step

    def forward(self, batch: Batch) -> torch.Tensor:
        o = self.options
        if o.joint_forward:
            views = self._project(torch.cat(batch.views)).chunk(len(batch.views))
        else:
            views = tuple(self._project(view) for view in batch.views)
        return cacr(
            torch.stack([gather(view) for view in views]),  # (V, N, D)
            t_pos=o.t_pos,
            t_neg=o.t_neg,
            alpha=o.alpha,
            beta=o.beta,
            cost=o.cost,
            detach_weights=bool(o.detach_weights),
            symmetric=o.symmetric,
        )

    def _project(self, images: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.projector(self.backbone(images))
        return projected


class CACRQueue(MomentumHost):
    """Form B: all views through both encoders; negatives are the queue and the other queries of the same view."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: CACROptions) -> None:
        super().__init__(backbone, mlp([feature_dim, *options.projector], hidden_batchnorm=False))
        self.queue = Queue(options.queue, options.projector[-1])
        self.options = options

    def prepare(self, batch: Batch) -> tuple[torch.Tensor]:
        self.update_momentum(batch, self.options.momentum)
        return (self.key_order(batch),)

    def loss(self, batch: Batch, order: torch.Tensor) -> torch.Tensor:
        o = self.options
        q = torch.stack([gather(self.query(view)) for view in batch.views])  # (V, N, D)
        keys = [self.shuffled_key(view, order) for view in batch.views]
        loss = cacr_queue(
            q,
            torch.stack([gather_constant(key) for key in keys]),
            self.queue.entries,
            t_pos=o.t_pos,
            t_neg=o.t_neg,
            alpha=o.alpha,
            beta=o.beta,
            detach_weights=o.detach_weights is not False,
        )
        self.queue.push(keys[-1])
        return loss


class CACRMomentum(MomentumHost):
    """Form C: the first two views are global and have keys; further ones are local crops, queries only.

    With two views it is 0.5 x MoCo v3 exactly.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, options: CACROptions) -> None:
        if options.predictor is None:
            raise ClzooError(
                f"CACR's form 'momentum' has a predictor: --set method.predictor=[4096,{options.projector[-1]}]"
            )
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
        queries = [gather(self.query(view)) for view in batch.views]  # V times (N, D)
        own = torch.arange(len(queries[0]), device=queries[0].device)
        losses = []
        for target in range(2):
            keys = gather_constant(self.key(batch.views[target]))
            views = [v for v in range(len(queries)) if v != target]
            others = torch.stack([queries[v] for v in views])  # (V - 1, N, D)
            with between(views, [target]):
                losses.append(cacr_momentum(others, keys, own, self.options.temperature))
        return torch.stack(losses).mean()


def _needs(options: CACROptions) -> Needs:
    if options.form == "queue":
        return Needs(2, batchnorm="shuffled")
    return Needs(2, joined="all" if options.form == "batch" and options.joint_forward else 0)


def _forwards(options: CACROptions, views: int) -> int:
    extra = {"batch": 0, "queue": views, "momentum": 2}[options.form]  # keys: of all views, or of the two global ones
    return views + extra


METHOD = Method(
    title="CACR (contrastive attraction and contrastive repulsion)",
    arxiv="2105.03746",
    options=CACROptions,
    build=create_cacr,
    needs=_needs,
    forwards=_forwards,
)
