"""Maps of a network: of its end, before pooling, and of its stages, as timm's `features_only` gives them, by the names
that timm has for the stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from clzoo.errors import ClzooError


def stage_names(network: nn.Module) -> list[str]:
    """The stages, first to last: act1, layer1 ... layer4 of a ResNet, blocks.0 ... blocks.11 of a ViT.

    Raises:
        ClzooError: a network without stages.
    """
    stages: Any = getattr(network, "feature_info", None)
    if stages is None or not hasattr(network, "forward_intermediates"):
        raise ClzooError(f"{type(network).__name__} gives no maps of its stages; features are 'pooled' or 'patch'.")
    return [stage["module"] for stage in stages]


def maps_of(network: Any, inputs: torch.Tensor, stages: Sequence[str]) -> list[torch.Tensor]:
    """One map (B, C, h, w) for each of `stages`, in their order; of a ViT the patch tokens, before its last norm.

    Args:
        inputs: normalised, (B, 3, H, W).

    Raises:
        ClzooError: no stages, an unknown one, or a network without any.
    """
    names = stage_names(network)
    if not stages or (unknown := [stage for stage in stages if stage not in names]):
        found = repr(unknown[0]) if stages else "an empty list"
        raise ClzooError(f"features: found {found}; expected 'pooled', 'patch', or of {', '.join(names)}.")
    wanted = sorted({names.index(stage) for stage in stages})
    maps = network.forward_intermediates(inputs, indices=wanted, intermediates_only=True, output_fmt="NCHW")
    by_name = {names[index]: found for index, found in zip(wanted, maps, strict=True)}
    return [by_name[stage] for stage in stages]


def patches_of(network: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The map (B, C, h, w) that a network pools, or its patch tokens (B, N, C) without what stands before them.

    Args:
        inputs: normalised, (B, 3, H, W).

    Raises:
        ClzooError: a network that ends with something else: several maps, or tokens that are not told apart.
    """
    maps = network.forward_features(inputs)
    before = getattr(network, "num_prefix_tokens", None)
    if isinstance(maps, torch.Tensor) and maps.ndim == 4:
        # timm's Swin, MambaOut, Sequencer and a few others keep the channels last, and say so.
        return maps.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else maps
    told_apart = before is not None or getattr(network, "cls_token", None) is None
    if isinstance(maps, torch.Tensor) and maps.ndim == 3 and told_apart:
        return maps[:, before or 0 :]
    raise ClzooError(
        f"{type(network).__name__} ends with no map of its patches alone. Ask for the map of a stage, e.g. "
        f"features={stage_names(network)[-1]!r}"
    )
