"""ReCo (Zhang et al., IEEE TMM 2024, arXiv 2211.01796): contrast that also keeps relations.

Global: the strong view relates to past images as the weak view does. Local: a CutMix of two images lies between them.
Implemented from the mathematics of the released code, on a MoCo v2 host; the SimCLR host is our choice.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from clzoo.augment.mix import cutmix, draw_box
from clzoo.device import to_device
from clzoo.distributed import gather, gather_constant, own_rows
from clzoo.errors import ClzooError
from clzoo.losses import info_nce, info_nce_queue, reco_global
from clzoo.losses.reco import info_nce_without, reco_global_batch
from clzoo.losses.seen import between
from clzoo.methods.batch import Batch, Needs
from clzoo.methods.heads import Widths, mlp
from clzoo.methods.momentum import Queue
from clzoo.methods.momentum_host import MomentumHost
from clzoo.methods.record import Method
from clzoo.schema import Table


class ReCoOptions(Table):
    """`method:` of a ReCo recipe. Views: strong, strong, weak.

    Known: target "published" with target_first "q" ("k" is the form of an earlier release), local_negatives "queue".
    Our choice, against the collapse of short runs with few negatives: local_negatives "batch", and target "mixed_keys",
    in which both embeddings come from the momentum encoder, of the very views that were mixed. The SimCLR host has
    neither: it has no queue and no momentum encoder.
    """

    name: Literal["reco"]
    host: Literal["mocov2", "simclr"] = "mocov2"
    temperature: float = Field(0.2, gt=0)
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: float = Field(0.04, gt=0)
    lambda1: float = Field(1.0, ge=0)  # weight of the global term
    lambda2: float = Field(1.0, ge=0)  # weight of the local term
    target: Literal["published", "mixed_keys"] = "published"  # which two embeddings make the local target
    target_first: Literal["q", "k"] = "q"  # of the published target: whose embedding of the image itself enters it
    local_negatives: Literal["queue", "batch"] = "queue"  # batch: the queue and the batch's other targets
    queue: int = Field(65_536, gt=0)
    momentum: float = Field(0.999, ge=0, le=1)
    projector: Widths
    group: int | None = Field(None, gt=1)  # images among which CutMix partners and lambda are drawn


def create_reco(backbone: nn.Module, feature_dim: int, options: ReCoOptions) -> nn.Module:
    """ReCo on the host that `options.host` names.

    Raises:
        ClzooError: a local term that needs MoCo's queue or momentum encoder, on the SimCLR host.
    """
    if options.host == "simclr" and (options.target != "published" or options.local_negatives != "queue"):
        raise ClzooError(
            f"method.host=simclr has neither queue nor momentum encoder: method.target={options.target} and "
            f"method.local_negatives={options.local_negatives} do not fit it. Type: --set method.host=mocov2, or "
            "--set method.target=published --set method.local_negatives=queue"
        )
    return (ReCo if options.host == "mocov2" else ReCoSimCLR)(backbone, feature_dim, options)


def draw_mix(batch: Batch, group: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whom CutMix pairs within groups, drawn on the host: image i gets a box of its partner's other view.

    Returns:
        (B,) partners' rows, (B, 4) boxes, (B,) lambda: the share that image i keeps; on the device of the views.
    """
    partners, boxes, shares = [], [], []
    height, width = batch.views[0].shape[2:]
    for rows, generator in batch.groups(group):
        count = rows.stop - rows.start
        partners.append(torch.randperm(count, generator=generator) + rows.start)
        box, share = draw_box(generator, height, width)
        boxes.append(torch.tensor(box).expand(count, -1))
        shares.append(torch.full((count,), share))
    one, two, three = (to_device(torch.cat(drawn), batch.views[0].device) for drawn in (partners, boxes, shares))
    return one, two, three


def local_target(own: torch.Tensor, other: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The point between two images' unit embeddings (B, D) that a CutMix should reach, without gradient."""
    share = share[:, None]
    return (share * F.normalize(own.float(), dim=1) + (1 - share) * F.normalize(other.float(), dim=1)).detach()


class ReCo(MomentumHost):
    """L = L_nce + lambda1 L_global + lambda2 L_local on MoCo v2. With both weights 0 it is MoCo v2 exactly."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: ReCoOptions) -> None:
        super().__init__(backbone, mlp([feature_dim, *options.projector], hidden_batchnorm=False))
        self.queue = Queue(options.queue, options.projector[-1])
        self.weak_queue = Queue(options.queue, options.projector[-1])
        self.options = options

    def prepare(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """The keys' order, and what `draw_mix` draws where there is a local term."""
        self.update_momentum(batch, self.options.momentum)
        return self.key_order(batch), *(draw_mix(batch, self.options.group) if self.options.lambda2 else ())

    def loss(self, batch: Batch, order: torch.Tensor, *mix: torch.Tensor) -> torch.Tensor:
        o = self.options
        strong, strong_too, weak = batch.views
        q, k, w = self.query(strong), self.shuffled_key(strong_too, order), self.shuffled_key(weak, order)
        loss = info_nce_queue(gather(q), gather(k), self.queue.entries, o.temperature)
        if o.lambda1:
            loss = loss + o.lambda1 * reco_global(
                gather(q), gather(w), self.weak_queue.entries, o.student_temperature, o.teacher_temperature
            )
        if o.lambda2:
            partners, boxes, share = mix
            mixed = cutmix(strong, strong_too[partners], boxes)
            v = gather(self.query(mixed))
            published = q if o.target_first == "q" else k
            own = self.shuffled_key(strong, order) if o.target == "mixed_keys" else published
            targets = gather_constant(local_target(own, k[partners], share))
            with between([mixed], [1 if own is k else 0]):
                loss = loss + o.lambda2 * self._local(v, targets, partners)
        self.queue.push(k)
        self.weak_queue.push(w)
        return loss

    def _local(self, v: torch.Tensor, targets: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        """The local term of the whole batch: mixed images v (N, D) against their targets (N, D)."""
        entries, temperature = self.queue.entries, self.options.temperature
        if self.options.local_negatives == "queue":
            return info_nce_queue(v, targets, entries, temperature)
        rows = own_rows(len(partners), partners.device)
        involved = torch.stack([rows, rows[partners], rows[partners.argsort()]], dim=1)  # itself, partner, partner of
        return info_nce_without(v, targets, targets, gather_constant(involved), temperature, queue=entries)


class ReCoSimCLR(nn.Module):
    """The same three terms among the images of one batch (our choice)."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: ReCoOptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp([feature_dim, *options.projector])
        self.options = options

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.loss(batch, *self.prepare(batch))

    def prepare(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """What `draw_mix` draws, where there is a local term."""
        return draw_mix(batch, self.options.group) if self.options.lambda2 else ()

    def loss(self, batch: Batch, *mix: torch.Tensor) -> torch.Tensor:
        o = self.options
        strong, strong_too, weak = batch.views
        z1, z2 = self._project(torch.cat([strong, strong_too])).chunk(2)
        all1, all2 = gather(z1), gather(z2)
        loss = info_nce(torch.stack([all1, all2]), o.temperature)
        if o.lambda1:
            with torch.no_grad():
                w = self._project(weak)
            with between([0], [2]):
                relation = reco_global_batch(all1, gather_constant(w), o.student_temperature, o.teacher_temperature)
            loss = loss + o.lambda1 * relation
        if o.lambda2:
            partners, boxes, share = mix
            mixed = cutmix(strong, strong_too[partners], boxes)
            target = local_target(z1 if o.target_first == "q" else z2, z2[partners], share)
            own = own_rows(len(batch), mixed.device)
            neither = gather_constant(torch.stack([own, own[partners]], dim=1))  # (N, 2)
            v = gather(self._project(mixed))
            with between([mixed], [1]):
                local = info_nce_without(v, gather_constant(target), all2, neither, o.temperature)
            loss = loss + o.lambda2 * local
        return loss

    def _project(self, images: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.projector(self.backbone(images))
        return projected


def _forwards(options: ReCoOptions, views: int) -> int:
    weak = options.host == "mocov2" or options.lambda1 > 0
    local = 1 + (options.target == "mixed_keys")  # the CutMix of two views, the momentum key of the first
    return 2 + weak + local * (options.lambda2 > 0)


METHOD = Method(
    title="ReCo (relation-aware contrastive learning)",
    arxiv="2211.01796",
    options=ReCoOptions,
    build=create_reco,
    needs=lambda options: Needs(3, 3, batchnorm="shuffled" if options.host == "mocov2" else "sync", joined=2),
    forwards=_forwards,
)
