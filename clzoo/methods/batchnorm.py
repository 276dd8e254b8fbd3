"""BatchNorm with statistics over groups of the batch: what several devices do, on one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from clzoo.errors import ClzooError
from clzoo.timm_import import timm


class SplitBatchNorm2d(nn.BatchNorm2d):
    """As nn.BatchNorm2d, but in training each of `groups` interleaved parts of the batch has statistics of its own.

    MoCo needs it on one device: with common statistics query and key could recognise each other by them. The running
    averages are those of the groups' mean.

    Args:
        norm: whose tensors, settings and, if it is one of timm's with an activation behind it, activation these become.
    """

    def __init__(self, norm: nn.BatchNorm2d, groups: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.groups = groups
        for name, part in norm.named_children():  # "drop" and "act"
            setattr(self, name, part)
        self.load_state_dict(norm.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, H, W)
        y = self._in_groups(x) if self.training else super().forward(x)
        for part in self.children():
            y = part(y)
        return y

    def _in_groups(self, x: torch.Tensor) -> torch.Tensor:
        batch, g = len(x), self.groups
        if batch % g or batch == g:
            raise ClzooError(
                f"backbone.batchnorm_groups={g} must divide the batch of {batch} into groups of at least two images."
            )
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        # Groups as channels go through torch's own kernels. The compiler has none of them and makes better ones of the
        # formula: benchmarks/train_step.py --compile, docs/performance.md.
        return self._by_formula(x) if torch.compiler.is_compiling() else self._as_channels(x)

    def _as_channels(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), normalised by one batch norm of B/g images with g C channels."""
        batch, channels, height, width = x.shape
        g, (running_mean, running_var, momentum) = self.groups, self._running()
        mean, var = running_mean.repeat(g), running_var.repeat(g)
        # Image i goes to group i mod g: groups become channels.
        y = F.batch_norm(
            x.reshape(batch // g, g * channels, height, width),
            mean,
            var,
            self.weight.repeat(g),
            self.bias.repeat(g),
            training=True,
            momentum=momentum,
            eps=self.eps,
        )
        running_mean.copy_(mean.view(g, channels).mean(dim=0))
        running_var.copy_(var.view(g, channels).mean(dim=0))
        return y.reshape(batch, channels, height, width)

    def _by_formula(self, x: torch.Tensor) -> torch.Tensor:
        """The same in float32, written out for the compiler."""
        batch, channels, height, width = x.shape
        running_mean, running_var, momentum = self._running()
        count = batch // self.groups * height * width  # of a group, in each channel
        z = x.permute(0, 2, 3, 1).reshape(-1, self.groups, height * width, channels).float()  # (B/g, g, H W, C)
        var, mean = torch.var_mean(z, dim=(0, 2), correction=0, keepdim=True)  # (1, g, 1, C)
        y = (z - mean) * (torch.rsqrt(var + self.eps) * self.weight) + self.bias
        with torch.no_grad():
            running_mean.lerp_(mean.mean(dim=(0, 1, 2)), momentum)
            running_var.lerp_(var.mean(dim=(0, 1, 2)) * (count / (count - 1)), momentum)
        return y.to(x.dtype).reshape(batch, height, width, channels).permute(0, 3, 1, 2)

    def _running(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Running mean and variance (C,), and the share of a batch in them."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        return self.running_mean, self.running_var, self.momentum


def split_batchnorm(module: nn.Module, groups: int) -> nn.Module:
    """Replace every BatchNorm2d below `module` by a SplitBatchNorm2d with the same tensors, names and activation.

    Raises:
        ClzooError: a BatchNorm of a kind that does something else than normalise and activate.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            plain = child.affine and child.track_running_stats and child.momentum is not None
            if not plain or type(child) not in (nn.BatchNorm2d, timm.layers.BatchNormAct2d):
                raise ClzooError(
                    f"backbone.batchnorm_groups={groups}: there is no form in groups of {name}, a "
                    f"{type(child).__name__}. Type: --set backbone.batchnorm_groups=1"
                )
            setattr(module, name, SplitBatchNorm2d(child, groups))
        else:
            split_batchnorm(child, groups)
    return module
