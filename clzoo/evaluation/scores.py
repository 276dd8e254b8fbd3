"""From class scores to accuracies: top-1, top-5, per class, balanced, and by how many training images a class has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Accuracy:
    """Percentages on one test set.

    Attributes:
        top1, top5: over images; top5 is None with five classes or fewer.
        balanced: mean over the classes that have test images.
        per_class: (C,), NaN for a class without test images.
    """

    top1: float
    top5: float | None
    balanced: float
    per_class: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """For metrics.json; null where a class has no test images."""
        return {
            "top1": round(self.top1, 4),
            "top5": None if self.top5 is None else round(self.top5, 4),
            "balanced": round(self.balanced, 4),
            "per_class": [None if np.isnan(value) else round(float(value), 4) for value in self.per_class],
        }


def accuracy_of(scores: torch.Tensor, labels: torch.Tensor) -> Accuracy:
    """Accuracies of class scores (N, C) against labels (N,); of equal scores the lower class counts as the higher.

    A score of -inf is no rank: a class that has it is never a hit.
    """
    classes = scores.shape[1]
    # The rank of the right class: how many score higher, or as high with a lower number.
    own = scores.gather(1, labels[:, None])  # (N, 1)
    lower = torch.arange(classes, device=scores.device) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & lower)).sum(dim=1)
    rank = rank.where(own[:, 0] > float("-inf"), classes)
    hits = (rank == 0).double()
    counts = torch.bincount(labels, minlength=classes).double()
    per_class = 100 * torch.bincount(labels, weights=hits, minlength=classes) / counts  # NaN where there are no images
    return Accuracy(
        top1=100 * hits.mean().item(),
        top5=100 * (rank < 5).double().mean().item() if classes > 5 else None,
        balanced=per_class[counts > 0].mean().item(),
        per_class=per_class.cpu().numpy(),
    )
