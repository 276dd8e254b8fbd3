"""The k nearest where several are equally near: a score does not depend on the order of the classes."""

from __future__ import annotations

import torch


def chance_of_k_highest(similarity: torch.Tensor, k: int) -> torch.Tensor:
    """How likely each column is among the k highest of its row, (B, N) float64, where ties are broken at random.

    1 above the k-th value and 0 below; those that are equal to it share the places that are left.

    Args:
        similarity: (B, N), -inf for what may not be chosen; at least k others.
    """
    kth = similarity.topk(k, dim=1).values[:, -1:]  # (B, 1)
    higher, tied = similarity > kth, similarity == kth
    left = k - higher.sum(dim=1, keepdim=True)  # (B, 1), at least 1
    return higher.double() + tied * (left / tied.sum(dim=1, keepdim=True)).double()
