"""InfoNCE in its three forms: within a batch (SimCLR), against a queue (MoCo), against a batch of keys (MoCo v3)."""

import torch
import torch.nn.functional as F

from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import check_views, full_precision, unit
from clzoo.losses.seen import between, note_cross_entropy


@full_precision
def info_nce(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Each embedding finds the other view of its image among all 2N - 1 others (Chen et al. 2020, equation 1).

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
    itself = torch.arange(2 * n, device=z.device)
    other_view = itself.roll(n)

    def block(rows: torch.Tensor, itself: torch.Tensor, other_view: torch.Tensor) -> torch.Tensor:
        logits = (rows @ both.T / temperature).scatter(1, itself[:, None], float("-inf"))  # (b, 2N)
        note_cross_entropy(logits, other_view, ("images",), temperature=temperature)
        return F.cross_entropy(logits, other_view, reduction="none")

    with between((0, 1), (0, 1)):
        return in_row_blocks(block, both, itself, other_view, columns=2 * n).mean()


@full_precision
def info_nce_queue(q: torch.Tensor, k: torch.Tensor, queue: torch.Tensor, temperature: float) -> torch.Tensor:
    """Each query finds its own key among the queue's entries (He et al. 2020, arXiv 1911.05722, equation 1).

    Args:
        q, k: (N, D) queries and their keys; pass keys without gradient.
        queue: (K, D) past keys, all of them negatives.
    """
    q, k, queue = unit(q), unit(k), unit(queue)

    def block(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        positive = (q * k).sum(dim=1, keepdim=True)  # (b, 1)
        logits = torch.cat([positive, q @ queue.T], dim=1) / temperature  # (b, 1 + K)
        note_cross_entropy(logits, None, ("own", "queue"), temperature=temperature)
        return logits.logsumexp(dim=1) - logits[:, 0]

    return in_row_blocks(block, q, k, columns=1 + len(queue)).mean()


@full_precision
def info_nce_keys(q: torch.Tensor, k: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """Each query finds its own key among all keys of the batch (Chen et al. 2021, arXiv 2104.02057, algorithm 1).

    MoCo v3 multiplies this term by 2T; here it is plain.

    Args:
        q: (N, D) queries.
        k: (M, D) keys, gathered over processes; pass them without gradient.
        target: (N,) row of each query's own key.
    """
    q, k = unit(q), unit(k)

    def block(q: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = q @ k.T / temperature  # (b, M)
        note_cross_entropy(logits, target, ("images",), temperature=temperature)
        return F.cross_entropy(logits, target, reduction="none")

    return in_row_blocks(block, q, target, columns=len(k)).mean()
