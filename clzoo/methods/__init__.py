"""What trains: one file per method, each an nn.Module whose forward is the loss of a batch of views.

A method declares in its options how many `views` it needs. To add one: a loss in clzoo/losses, a file here, a line in
METHODS and in MethodOptions, and a recipe.
"""

from typing import Any

from torch import nn

from clzoo.methods.cacr import CACR, CACROptions
from clzoo.methods.simclr import SimCLR, SimCLROptions

MethodOptions = CACROptions | SimCLROptions

METHODS: dict[str, Any] = {"cacr": CACR, "simclr": SimCLR}


def create_method(backbone: nn.Module, feature_dim: int, options: MethodOptions) -> nn.Module:
    """The method that `options.name` names, around a backbone (B, 3, H, W) -> (B, feature_dim)."""
    method: nn.Module = METHODS[options.name](backbone, feature_dim, options)
    return method
