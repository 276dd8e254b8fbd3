"""Loss of resolution, each sample by its own factor: as if the picture had been stored smaller and enlarged again."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F


def downscale(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Smaller and back. Both are linear and separable: one matrix per sample, from the left and from the right.

    Args:
        images: floating (B, C, S, S).
        matrices: (B, S, S) of `downscale_matrices`.

    Returns:
        (B, C, S, S); bicubic may leave values a little outside [0, 1].
    """
    matrices = matrices.to(images.dtype)[:, None]  # (B, 1, S, S)
    return matrices @ images @ matrices.mT


def downscale_matrices(size: int, sides: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What resizing to `sides` (bilinear, antialiased) and back to `size` (bicubic) does to a column of pixels.

    Args:
        sides: (B,) int64 from 1 to `size`, in pixels, on the host.

    Returns:
        (N, size, size) of the N different sides, and for each sample which of them: (B,).
    """
    different, which = sides.unique(return_inverse=True)
    return torch.stack([_matrix(size, side) for side in different.tolist()]), which


@lru_cache(maxsize=512)
def _matrix(size: int, side: int) -> torch.Tensor:
    """(size, size), from the left of a column."""
    columns = torch.eye(size)[None, None]  # in each of them one pixel is lit
    smaller = F.interpolate(columns, size=(side, size), mode="bilinear", antialias=True)
    return F.interpolate(smaller, size=(size, size), mode="bicubic")[0, 0]
