"""InfoNCE, the loss of SimCLR (Chen et al. 2020, arXiv 2002.05709, equation 1)."""

import torch
import torch.nn.functional as F

from clzoo.losses.embeddings import check_views, unit


def info_nce(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Each embedding finds the other view of its image among all 2N - 1 others of the batch.

        -log e^{s+/T} / (e^{s+/T} + sum_j e^{s_j/T}),   s = cosine similarity, averaged over the 2N embeddings

    Args:
        z: (2, N, D) embeddings of two views.
        temperature: T.

    Raises:
        ClzooError: z is not (2, N >= 2, D).
    """
    check_views(z, views=2)
    n = z.shape[1]
    both = unit(z).flatten(0, 1)  # (2N, D)
    logits = both @ both.T / temperature  # (2N, 2N)
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), float("-inf"))
    other_view = torch.arange(2 * n, device=z.device).roll(n)  # (2N,)
    return F.cross_entropy(logits, other_view)
