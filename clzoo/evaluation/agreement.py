"""How much two models agree on the same images: similarity of their features, and neighbors in common."""

from __future__ import annotations

import torch

from clzoo.errors import ClzooError
from clzoo.neighbors import nearest

_ROWS = 4096  # of one block in float64: 64 MB of 2048 features


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Linear centered kernel alignment of features (N, D1) and (N, D2) of the same images, in [0, 1].

    |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of column-centred features, equation 5 with the linear HSIC of Kornblith et al.
    2019 (arXiv 1905.00414), not debiased: with few images and many features it is high by chance. Invariant to
    rotations and to the scale of either; features are not normalised. 0 where all rows of either are equal. Summed in
    float64 over blocks of rows, in memory for the D x D products.

    Raises:
        ClzooError: not the same number of images, fewer than two, or values that are not finite.
    """
    _check(x, y, at_least=2)
    mean_x, mean_y = (part.mean(dim=0, dtype=torch.float64) for part in (x, y))
    xx, yy, yx = (
        torch.zeros(rows, columns, dtype=torch.float64, device=x.device)
        for rows, columns in ((x.shape[1], x.shape[1]), (y.shape[1], y.shape[1]), (y.shape[1], x.shape[1]))
    )
    for part_x, part_y in zip(x.split(_ROWS), y.split(_ROWS), strict=True):
        centered_x, centered_y = part_x.double() - mean_x, part_y.double() - mean_y  # (b, D1), (b, D2)
        xx.addmm_(centered_x.T, centered_x)
        yy.addmm_(centered_y.T, centered_y)
        yx.addmm_(centered_y.T, centered_x)
    norms = (xx.norm() * yy.norm()).item()
    return min(1.0, yx.square().sum().item() / norms) if norms > 0 else 0.0


def neighbor_overlap(x: torch.Tensor, y: torch.Tensor, k: int = 10) -> float:
    """Mean share of an image's k nearest others in x (N, D1) that are among its k nearest others in y (N, D2).

    Exact cosine neighbors; of equally near ones the earlier rows, in x as in y, so equal features agree.
    1 is full agreement; unrelated features share k / (N - 1) on average. In [0, 1].

    Raises:
        ClzooError: not the same number of images, k or fewer of them, or values that are not finite.
    """
    _check(x, y, at_least=k + 1)
    of_x, of_y = _others(x, k), _others(y, k)  # (N, k)
    shared = (of_x[:, :, None] == of_y[:, None, :]).any(dim=2)
    return shared.double().mean().item()


def _others(x: torch.Tensor, k: int) -> torch.Tensor:
    """Rows (N, k) of the nearest to each, without itself."""
    _, rows = nearest(x, x, k + 1)
    others = rows != torch.arange(len(x), device=rows.device)[:, None]
    # Where more than k others are as near as the row itself, it may not be among the k + 1: the last one goes.
    others[others.all(dim=1), k] = False
    return rows[others].view(len(x), k)


def _check(x: torch.Tensor, y: torch.Tensor, *, at_least: int) -> None:
    if len(x) != len(y):
        raise ClzooError(f"models are compared on the same images; found features of {len(x)} and of {len(y)}.")
    if len(x) < at_least:
        raise ClzooError(f"the comparison needs at least {at_least} images, found {len(x)}.")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ClzooError("features to compare are not finite (NaN or infinity): one of the encoders is broken.")
