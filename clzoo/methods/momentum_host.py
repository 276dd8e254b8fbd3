"""What the momentum methods share: a query road with gradient and a key road through averaged weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from clzoo.device import to_device
from clzoo.distributed import shuffled, world_size
from clzoo.methods.batch import Batch
from clzoo.methods.momentum import momentum_copy, momentum_update

_SHUFFLE = 65_536  # a generator number that no group has


class MomentumHost(nn.Module):
    """Encoder with projector (and predictor), and the momentum copies of backbone and projector.

    A step has two parts: `prepare` moves the momentum encoder and draws on the host, `loss` is arithmetic on tensors.
    A subclass has both.
    """

    prepare: Callable[[Batch], tuple[torch.Tensor, ...]]
    loss: Callable[..., torch.Tensor]

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.predictor = nn.Identity() if predictor is None else predictor
        self.momentum_backbone = momentum_copy(backbone)
        self.momentum_projector = momentum_copy(projector)

    def query(self, view: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D) with gradient."""
        projected: torch.Tensor = self.predictor(self.projector(self.backbone(view)))
        return projected

    @torch.no_grad()
    def key(self, view: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D) through the momentum encoder."""
        projected: torch.Tensor = self.momentum_projector(self.momentum_backbone(view))
        return projected

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss () of a step."""
        return self.loss(batch, *self.prepare(batch))

    def key_order(self, batch: Batch) -> torch.Tensor:
        """(world * B,) the order of a step's keys, drawn on the host; on the device of the views."""
        order = torch.randperm(len(batch) * world_size(), generator=batch.generator(_SHUFFLE))
        return to_device(order, batch.views[0].device)

    @torch.no_grad()
    def shuffled_key(self, view: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """`key` under shuffled BatchNorm: over processes and groups of the batch the images lie in `key_order`."""
        return shuffled(self.key, view, order)

    def update_momentum(self, batch: Batch, momentum: float) -> None:
        """Before the keys, and once for each move of the weights: of an accumulated step in the first part alone."""
        if batch.part == 0:
            momentum_update(self.momentum_backbone, self.backbone, momentum)
            momentum_update(self.momentum_projector, self.projector, momentum)
