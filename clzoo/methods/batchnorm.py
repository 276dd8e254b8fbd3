"""BatchNorm with statistics over groups of the batch: what several devices do, on one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from clzoo.errors import ClzooError


class SplitBatchNorm2d(nn.BatchNorm2d):
    """As nn.BatchNorm2d, but in training each of `groups` interleaved parts of the batch has statistics of its own.

    MoCo needs it on one device: with common statistics query and key could recognise each other by them. The running
    averages are those of the groups' mean.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__(width)
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, H, W)
        if not self.training:
            return super().forward(x)
        batch, channels, height, width = x.shape
        g = self.groups
        if batch % g or batch == g:
            raise ClzooError(
                f"backbone.batchnorm_groups={g} must divide the batch of {batch} into groups of at least two images."
            )
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean, var = self.running_mean.repeat(g), self.running_var.repeat(g)
        # Image i goes to group i mod g: groups become channels.
        y = F.batch_norm(
            x.reshape(batch // g, g * channels, height, width),
            mean,
            var,
            self.weight.repeat(g),
            self.bias.repeat(g),
            training=True,
            momentum=self.momentum,
            eps=self.eps,
        )
        self.running_mean.copy_(mean.view(g, channels).mean(dim=0))
        self.running_var.copy_(var.view(g, channels).mean(dim=0))
        self.num_batches_tracked += 1
        return y.reshape(batch, channels, height, width)


def split_batchnorm(module: nn.Module, groups: int) -> nn.Module:
    """Replace every BatchNorm2d below `module` by a SplitBatchNorm2d with the same tensors and names."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            split = SplitBatchNorm2d(child.num_features, groups)
            split.load_state_dict(child.state_dict())
            setattr(module, name, split)
        else:
            split_batchnorm(child, groups)
    return module
