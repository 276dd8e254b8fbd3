"""What the in-batch baselines share: one encoder, two views, one forward pass for both."""

from __future__ import annotations

import torch
from torch import nn

from clzoo.distributed import gather
from clzoo.methods.batch import Batch, Needs


def needs_two_joined(options: object) -> Needs:
    """The `needs` of such a method, whatever its options."""
    return Needs(2, 2, joined="all")


class TwoViewMethod(nn.Module):
    """Backbone and projector; a subclass says which loss its projections get."""

    one_pass = True  # each network is called once in a step

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def project(self, batch: Batch) -> torch.Tensor:
        """(2, N, D) projections of the whole batch over all processes; BatchNorm sees both views at once."""
        z = self.projector(self.backbone(torch.cat(batch.views)))  # (2B, D)
        return torch.stack([gather(view) for view in z.chunk(2)])
