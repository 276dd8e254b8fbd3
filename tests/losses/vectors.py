"""The deterministic embeddings that the recorded values of the losses belong to."""

import torch


def waves(views: list[int], images: int = 4, dim: int = 3) -> torch.Tensor:
    """x[v, m, c] = sin(1 + 12 v + 3 m + c), float64, (len(views), images, dim)."""
    v = torch.tensor(views, dtype=torch.float64)[:, None, None]
    m = torch.arange(images, dtype=torch.float64)[None, :, None]
    c = torch.arange(dim, dtype=torch.float64)[None, None, :]
    return torch.sin(1 + 12 * v + 3 * m + c)
