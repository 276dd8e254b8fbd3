"""What a run can know of itself without labels: alignment, uniformity and effective rank of its projections."""

from __future__ import annotations

from typing import Any

import torch

from clzoo.losses.align_uniform import uniformity
from clzoo.losses.embeddings import unit


@torch.no_grad()
def monitor(method: Any, views: list[torch.Tensor]) -> dict[str, float]:
    """Measured in eval mode, which leaves no trace in the method: a monitored run equals an unmonitored one.

    Args:
        method: has `backbone` and `projector`.
        views: (B, 3, H, W) tensors; the first two are used, or the first twice.

    Returns:
        alignment (0: views coincide, up to 4), uniformity (0: collapse; about -4 and lower: spread), effective_rank of
        the features (exp of the entropy of the singular values; 1: collapse).
    """
    was_training = method.training
    method.eval()
    # Not the networks' compiled form, which would be compiled once more, for eval mode.
    features = [method.backbone.forward(view) for view in (views[0], views[min(1, len(views) - 1)])]
    first, second = (unit(method.projector.forward(feature)) for feature in features)
    method.train(was_training)
    return {
        "alignment": (first - second).square().sum(dim=1).mean().item(),
        "uniformity": uniformity(first).item(),
        "effective_rank": effective_rank(features[0]),
    }


def effective_rank(features: torch.Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred features (N, D) (Roy and Vetterli 2007)."""
    features = features.float()
    singular = torch.linalg.svdvals(features - features.mean(dim=0))
    share = singular / singular.sum().clamp_min(1e-12)
    return torch.exp(torch.special.entr(share).sum()).item()
