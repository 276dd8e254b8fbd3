"""Hydra (Wu et al., arXiv 2410.18200; later named SimLAP): any two images may be a positive pair, if they are compared
in a subspace that suits their two classes. Uses class labels in pretraining.

Implemented from the mathematics of the released code.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from clzoo.augment.rows import to_device
from clzoo.distributed import gather, gather_constant
from clzoo.losses import hydra_pair, info_nce_keys
from clzoo.methods.batch import Batch, Needs
from clzoo.methods.heads import LastNorm, mlp
from clzoo.methods.momentum import cosine_to_one
from clzoo.methods.momentum_host import MomentumHost
from clzoo.schema import Table

Pairs = Literal["arbitrary", "identical", "distinct"]

Direction = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Anchors (N, D), keys (N, D), and the anchors' own rows among the keys where these are the same embeddings."""


class FeatureFilter(nn.Module):
    """The gate of a pair of classes: g(a, b) = sigmoid(f_g((f_l(a) + f_l(b)) / 2)), symmetric, in (0, 1)^d."""

    def __init__(self, classes: int, dim: int, label_dim: int = 512, hidden_dim: int = 1024) -> None:
        super().__init__()
        self.label_embedding = nn.Embedding(classes, label_dim)  # N(0, 1), torch's default
        self.gate = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(label_dim),
            nn.Linear(label_dim, hidden_dim),
            nn.ReLU(),
            nn.BatchNorm1d(hidden_dim),
            nn.Linear(hidden_dim, dim),
        )

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Classes (N,) and (N,) -> gates (N, d)."""
        gates: torch.Tensor = self.gate((self.label_embedding(a) + self.label_embedding(b)) / 2).sigmoid()
        return gates


class HydraOptions(Table):
    """`method:` of a Hydra recipe.

    pairs: "arbitrary" permutes the batch; "identical" pairs an image with its own class; "distinct" with another class.
    gate: False leaves the gate open (all ones): the control that is known to ruin arbitrary pairs.
    single_view: all views are one batch in which each embedding is anchor and key (the authors' CIFAR-10 preset).
    """

    name: Literal["hydra"]
    temperature: float = Field(0.1, gt=0)
    pairs: Pairs = "arbitrary"
    gate: bool = True
    gamma: float = Field(0.0, ge=0)  # weight of the gates' entropy
    single_view: bool = False
    projector: list[int] = Field(min_length=1)
    group: int | None = Field(None, gt=1)


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
    projector: list[int] = Field(min_length=1)
    predictor: list[int] = Field(min_length=1)
    projector_last_norm: LastNorm = "layer"
    predictor_last_norm: LastNorm = "none"
    group: int | None = Field(None, gt=1)


def draw_partners(batch: Batch, pairs: Pairs, classes: int, group: int | None, copies: int = 1) -> torch.Tensor:
    """(copies, B) partner classes of this process's images, a function of (seed, step) and the labels.

    Args:
        copies: rows that an image has in the batch. One permutation goes over all rows of a group, so that an image's
            copies have partners of their own.
    """
    assert batch.labels is not None
    labels = batch.labels.expand(copies, -1)
    if pairs == "identical":
        return labels
    partners = torch.empty(labels.shape, dtype=labels.dtype, device=labels.device)
    for images, generator in batch.groups(group):
        rows = labels[:, images].flatten()
        if pairs == "arbitrary":
            drawn = rows[to_device(torch.randperm(len(rows), generator=generator), rows.device)]
        else:  # uniform over the other classes
            shift = torch.randint(1, max(2, classes), (len(rows),), generator=generator)
            drawn = (rows + to_device(shift, rows.device)) % classes
        partners[:, images] = drawn.view(copies, -1)
    return partners


class PairLoss(nn.Module):
    """The gates and the pair loss of both Hydras."""

    def __init__(self, classes: int, dim: int, options: HydraOptions | HydraMoCoOptions) -> None:
        super().__init__()
        self.classes = classes
        self.filter = FeatureFilter(classes, dim) if options.gate else None
        self.options = options

    def forward(
        self,
        directions: list[Direction],
        labels: torch.Tensor,
        partners: torch.Tensor,
    ) -> torch.Tensor:
        """Mean over directions of the pair loss.

        Args:
            labels, partners: (N,) of the whole batch, the same for all directions.
        """
        anchors = directions[0][0]
        gates = torch.ones_like(anchors) if self.filter is None else self.filter(labels, partners)
        losses = [
            hydra_pair(q, k, gates, labels, partners, labels, self.options.temperature, own_key=own)
            for q, k, own in directions
        ]
        loss = torch.stack(losses).mean()
        if self.options.gamma and self.filter is not None:
            every = torch.arange(self.classes, device=labels.device)
            loss = loss + self.options.gamma * bernoulli_entropy(self.filter(every, every))
        return loss


def bernoulli_entropy(gates: torch.Tensor) -> torch.Tensor:
    """Mean of -g log g - (1 - g) log(1 - g), in nats."""
    return F.binary_cross_entropy(gates, gates)


class Hydra(nn.Module):
    """Two views through one encoder, no predictor; the projector ends in LayerNorm, which lets gates close.

    Each of two views is a forward pass of its own, with its own BatchNorm statistics; the views of a single-view recipe
    are one batch.
    """

    needs = Needs(1, labels=True)  # of a single-view recipe

    def __init__(self, backbone: nn.Module, feature_dim: int, options: HydraOptions, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp([feature_dim, *options.projector], last_norm="layer")
        self.pair_loss = PairLoss(classes, options.projector[-1], options)
        self.options = options
        if not options.single_view:
            self.needs = Needs(2, 2, labels=True)

    def forward(self, batch: Batch) -> torch.Tensor:
        assert batch.labels is not None
        o = self.options
        copies = len(batch.views) if o.single_view else 1
        drawn = draw_partners(batch, o.pairs, self.pair_loss.classes, o.group, copies)
        partners = torch.cat([gather_constant(copy) for copy in drawn])  # (copies * N,)
        labels = gather_constant(batch.labels).repeat(copies)
        directions: list[Direction]
        if o.single_view:
            z = self._project(torch.cat(batch.views)).chunk(copies)
            everything = torch.cat([gather(copy) for copy in z])  # (copies * N, D)
            directions = [(everything, everything, torch.arange(len(everything), device=everything.device))]
        else:
            first, second = (gather(self._project(view)) for view in batch.views)  # each (N, D)
            directions = [(first, second, None), (second, first, None)]
        loss: torch.Tensor = self.pair_loss(directions, labels, partners)
        return loss

    def _project(self, images: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.projector(self.backbone(images))
        return projected


class HydraMoCo(MomentumHost):
    """The pair loss beside instance discrimination, on a MoCo v3 skeleton."""

    needs: ClassVar[Needs] = Needs(2, 2, momentum_encoder=True, labels=True)

    def __init__(self, backbone: nn.Module, feature_dim: int, options: HydraMoCoOptions, classes: int) -> None:
        super().__init__(
            backbone,
            mlp([feature_dim, *options.projector], last_norm=options.projector_last_norm),
            mlp([options.projector[-1], *options.predictor], last_norm=options.predictor_last_norm),
        )
        self.pair_loss = PairLoss(classes, options.predictor[-1], options)
        self.options = options

    def forward(self, batch: Batch) -> torch.Tensor:
        assert batch.labels is not None
        o = self.options
        self.update_momentum(cosine_to_one(o.momentum, batch.progress))
        q1, q2 = (gather(self.query(view)) for view in batch.views)
        k1, k2 = (gather_constant(self.key(view)) for view in batch.views)
        labels = gather_constant(batch.labels)
        partners = gather_constant(draw_partners(batch, o.pairs, self.pair_loss.classes, o.group)[0])
        rows = torch.arange(len(labels), device=labels.device)
        loss = (info_nce_keys(q1, k2, rows, o.temperature) + info_nce_keys(q2, k1, rows, o.temperature)) / 2
        directions: list[Direction] = [(q1, k2, None), (q2, k1, None)]
        loss = loss + o.beta * self.pair_loss(directions, labels, partners)
        if o.alpha:
            loss = loss + o.alpha * self.pair_loss(directions, labels, labels)
        return loss / (1 + o.alpha + o.beta)
