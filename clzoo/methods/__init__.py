"""What trains: one file per method, each an nn.Module whose forward is the loss of a batch of views.

A method declares what it needs (clzoo.methods.batch.Needs). To add one: docs/add_a_method.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from clzoo.errors import ClzooError
from clzoo.methods.align_uniform import AlignUniform, AlignUniformOptions
from clzoo.methods.batch import Batch, Needs
from clzoo.methods.cacr import CACROptions, create_cacr
from clzoo.methods.hcl import HCL, HCLOptions
from clzoo.methods.hydra import Hydra, HydraMoCo, HydraMoCoOptions, HydraOptions
from clzoo.methods.mocov2 import MoCoV2, MoCoV2Options
from clzoo.methods.mocov3 import MoCoV3, MoCoV3Options
from clzoo.methods.potential_samples import PotentialSamples, PotentialSamplesOptions
from clzoo.methods.reco import ReCoOptions, create_reco
from clzoo.methods.simclr import SimCLR, SimCLROptions
from clzoo.methods.supcon import SupCon, SupConOptions

__all__ = ["METHODS", "Batch", "MethodOptions", "Needs", "create_method", "encoder_forwards"]

MethodOptions = (
    AlignUniformOptions
    | CACROptions
    | HCLOptions
    | HydraMoCoOptions
    | HydraOptions
    | MoCoV2Options
    | MoCoV3Options
    | PotentialSamplesOptions
    | ReCoOptions
    | SimCLROptions
    | SupConOptions
)

METHODS: dict[str, Callable[..., nn.Module]] = {
    "align_uniform": AlignUniform,
    "cacr": create_cacr,
    "hcl": HCL,
    "hydra": Hydra,
    "hydra_moco": HydraMoCo,
    "mocov2": MoCoV2,
    "mocov3": MoCoV3,
    "potential_samples": PotentialSamples,
    "reco": create_reco,
    "simclr": SimCLR,
    "supcon": SupCon,
}


def create_method(
    backbone: nn.Module, feature_dim: int, options: MethodOptions, *, views: int, classes: int | None = None
) -> Any:
    """The method that `options.name` names, around a backbone (B, 3, H, W) -> (B, feature_dim).

    Args:
        views: how many views a batch will have.
        classes: number of classes of the data; Hydra's gates need it.

    Raises:
        ClzooError: the number of views does not fit, or labels are missing.
    """
    extra = {}
    if options.name.startswith("hydra"):
        if classes is None:
            raise ClzooError(f"{options.name} pairs images by class, but the data have no labels.")
        extra = {"classes": classes}
    method = METHODS[options.name](backbone, feature_dim, options, **extra)
    needs: Needs = method.needs  # type: ignore[assignment]
    needs.check_views(options.name, views)
    if needs.labels and classes is None:
        raise ClzooError(f"{options.name} needs labels, but the data have none.")
    return method


def encoder_forwards(options: MethodOptions, views: int) -> int:
    """How often one image goes through an encoder, or its momentum copy, in a step with so many views."""
    match options:
        case MoCoV3Options() | HydraMoCoOptions() | CACROptions(form="queue"):
            return 2 * views  # each view is query and key
        case CACROptions(form="momentum"):
            return views + 2  # local crops are queries only
        case ReCoOptions():
            weak = options.host == "mocov2" or options.lambda1 > 0
            local = 1 + (options.target == "mixed_keys")  # the CutMix of two views, the momentum key of the first
            return 2 + weak + local * (options.lambda2 > 0)
        case _:
            return views
