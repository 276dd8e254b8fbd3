"""Alignment and uniformity on the hypersphere (Wang and Isola 2020, arXiv 2005.10242)."""

import math

import torch

from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import check_views, full_precision, unit
from clzoo.losses.seen import between, note


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
    apart = (x - y).norm(dim=1)  # (N,)
    note("attraction", lambda: alpha * apart.pow(alpha - 2)[:, None], ("own",), "alpha |x - y|^(alpha - 2)")
    with between((0,), (0,)):
        of_x = uniformity(x, t)
    with between((1,), (1,)):
        of_y = uniformity(y, t)
    return w_align * apart.pow(alpha).mean() + w_uniform * (of_x + of_y) / 2


def uniformity(x: torch.Tensor, t: float = 2.0) -> torch.Tensor:
    """U(x) = log mean_{i<j} exp(-t |x_i - x_j|^2) of unit vectors x (N, D); 0 at collapse, lower is more uniform."""
    n = len(x)
    itself = torch.arange(n, device=x.device)

    def block(rows: torch.Tensor, itself: torch.Tensor) -> torch.Tensor:
        cosine = rows @ x.T  # (b, N)
        exponent = -t * (2 - 2 * cosine)
        exponent = exponent.scatter(1, itself[:, None], float("-inf"))
        note(
            "repulsion",
            lambda: exponent.softmax(dim=1),
            ("images",),
            "exp(-t D), as a share of the query's",
            cosine=cosine,
        )
        return exponent.logsumexp(dim=1)

    # Every pair is met twice, once from each side: the mean over i != j is that over i < j.
    return in_row_blocks(block, x, itself, columns=n).logsumexp(dim=0) - math.log(n * (n - 1))
