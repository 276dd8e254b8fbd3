"""What trains: one file per method, with an nn.Module whose forward is the loss of a batch of views, and its record.

To add one: docs/add_a_method.md.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from operator import or_
from typing import TYPE_CHECKING, Any

from torch import nn

from clzoo.errors import ClzooError
from clzoo.methods.batch import Batch, Needs
from clzoo.methods.record import Method

__all__ = ["METHODS", "Batch", "Method", "MethodOptions", "Needs", "create_method", "encoder_forwards"]

_FILES = (
    "align_uniform",
    "cacr",
    "hcl",
    "hydra",
    "hydra_moco",
    "mocov2",
    "mocov3",
    "potential_samples",
    "reco",
    "simclr",
    "supcon",
)

METHODS: dict[str, Method] = {
    method.name: method for method in (import_module(f"clzoo.methods.{file}").METHOD for file in _FILES)
}
"""By name."""

if TYPE_CHECKING:
    MethodOptions = Any
else:
    MethodOptions = reduce(or_, (method.options for method in METHODS.values()))


def create_method(
    backbone: nn.Module, feature_dim: int, options: MethodOptions, *, views: int, classes: int | None = None
) -> Any:
    """The method that `options.name` names, around a backbone (B, 3, H, W) -> (B, feature_dim).

    Its attribute `needs` says what it needs with these options.

    Args:
        views: how many views a batch will have.
        classes: number of classes of the data, or None without labels.

    Raises:
        ClzooError: the number of views does not fit, or labels are missing.
    """
    method = METHODS[options.name]
    needs = method.needs_of(options)
    needs.check_views(options.name, views)
    if needs.labels and classes is None:
        raise ClzooError(f"{options.name} needs labels, but the data have none.")
    built: Any = method.build(backbone, feature_dim, options, **({"classes": classes} if method.classes else {}))
    built.needs = needs
    return built


def encoder_forwards(options: MethodOptions, views: int) -> int:
    """How often one image goes through an encoder, or its momentum copy, in a step with so many views."""
    return METHODS[options.name].forwards(options, views)
