"""Gaussian blur, each sample with its own width."""

from __future__ import annotations

import torch

_BLOCK = 64  # rows of the result per matrix product


def default_kernel_size(size: int) -> int:
    """The odd number of taps nearest to a tenth of the side, as SimCLR has it: 3 at 32 px, 9 at 96, 23 at 224."""
    return 2 * (size // 20) + 1


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Blur with torchvision's kernel: `kernel_size` samples of the Gaussian, normalised; edges are reflected.

    Separable: a banded matrix per sample, from the left and from the right.

    Args:
        images: floating (B, C, S, S).
        sigma: (B,) in pixels.
        kernel_size: odd, at most 2 S - 1.
    """
    band = _blur_matrix(sigma, kernel_size, images.shape[3]).to(images.dtype)  # (B, S, S)
    count, channels, size, _ = images.shape
    across = _banded_product(band, images.reshape(count, channels * size, size).transpose(1, 2), kernel_size // 2)
    across = across.view(count, size, channels, size).permute(0, 3, 2, 1)  # (B, rows, C, columns)
    down = _banded_product(band, across.reshape(count, size, channels * size), kernel_size // 2)
    return down.view(count, size, channels, size).permute(0, 2, 1, 3).contiguous()


def _banded_product(band: torch.Tensor, x: torch.Tensor, reach: int) -> torch.Tensor:
    """band (B, S, S) @ x (B, S, N), skipping what is known to be zero."""
    size = band.shape[1]
    blocks = []
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        low, high = max(start - reach, 0), min(stop + reach, size)
        blocks.append(band[:, start:stop, low:high] @ x[:, low:high])
    return torch.cat(blocks, dim=1)


def _blur_matrix(sigma: torch.Tensor, kernel_size: int, size: int) -> torch.Tensor:
    """(B, size, size): row j holds the weights of the pixels that blur into pixel j."""
    reach = kernel_size // 2
    offset = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)  # (B, K)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    pixel = torch.arange(size, device=sigma.device)
    source = (pixel[:, None] + offset).abs()  # reflected at the first pixel ...
    source = (size - 1) - ((size - 1) - source).abs()  # ... and at the last
    matrix = kernel.new_zeros(len(sigma), size, size)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None, :].expand(-1, size, -1))
