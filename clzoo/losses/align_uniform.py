"""Alignment and uniformity on the hypersphere (Wang and Isola 2020, arXiv 2005.10242)."""

import math

import torch

from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import check_views, full_precision, unit


@full_precision
def align_uniform(
    z: torch.Tensor, *, w_align: float = 1.0, w_uniform: float = 1.0, alpha: float = 2.0, t: float = 2.0
) -> torch.Tensor:
    """w_align mean |x - y|^alpha  +  w_uniform 1/2 [U(x) + U(y)].

    Args:
        z: (2, N, D): x and y, the embeddings of two views.

    Raises:
        ClzooError: z is not (2, N >= 2, D).
    """
    check_views(z, views=2)
    x, y = unit(z)
    alignment = (x - y).norm(dim=1).pow(alpha).mean()
    return w_align * alignment + w_uniform * (uniformity(x, t) + uniformity(y, t)) / 2


def uniformity(x: torch.Tensor, t: float = 2.0) -> torch.Tensor:
    """U(x) = log mean_{i<j} exp(-t |x_i - x_j|^2) of unit vectors x (N, D); 0 at collapse, lower is more uniform."""
    n = len(x)
    itself = torch.arange(n, device=x.device)

    def block(rows: torch.Tensor, itself: torch.Tensor) -> torch.Tensor:
        exponent = -t * (2 - 2 * rows @ x.T)  # (b, N)
        return exponent.scatter(1, itself[:, None], float("-inf")).logsumexp(dim=1)

    # Every pair is met twice, once from each side: the mean over i != j is that over i < j.
    return in_row_blocks(block, x, itself, columns=n).logsumexp(dim=0) - math.log(n * (n - 1))
