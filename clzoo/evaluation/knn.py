"""k-nearest-neighbour classification of frozen features.

Protocol knn:v1(k=20,T=0.07,cos): the bank is the whole train split; each of the k nearest by cosine similarity s votes
for its class with weight exp(s / T); the class with most votes wins, the lower class number on a tie.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from clzoo.errors import ClzooError

K, TEMPERATURE = 20, 0.07
PROTOCOL = f"knn:v1(k={K},T={TEMPERATURE},cos)"

_CHUNK_BYTES = 256 << 20  # of one block of similarities


def knn_predict(
    bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, k: int = K, temperature: float = TEMPERATURE
) -> torch.Tensor:
    """Predicted classes (Q,) of `queries` (Q, D) from `bank` (N, D) with labels (N,); exact, in chunks of queries.

    Features are L2-normalised here. Weighted votes as in Wu et al. 2018 (arXiv 1805.01978, section 3.4).

    Raises:
        ClzooError: k larger than the bank, or features that are not finite.
    """
    if k > len(bank):
        raise ClzooError(f"k-NN with k={k} needs at least {k} bank images, found {len(bank)}.")
    if not (torch.isfinite(bank).all() and torch.isfinite(queries).all()):
        raise ClzooError("k-NN was given features that are not finite (NaN or infinity): the encoder is broken.")
    bank = F.normalize(bank.float(), dim=1)
    queries = F.normalize(queries.float(), dim=1)
    classes = int(bank_labels.max()) + 1
    rows = max(1, _CHUNK_BYTES // (4 * len(bank)))
    predictions = []
    for part in queries.split(rows):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)  # (q, k)
        # Subtracting the largest similarity scales all votes of a query alike and keeps exp in range.
        weights = torch.exp((similarity - similarity[:, :1]) / temperature)
        votes = torch.zeros(len(part), classes, device=part.device).scatter_add_(1, bank_labels[nearest], weights)
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def knn_accuracy(
    bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, query_labels: torch.Tensor
) -> float:
    """Top-1 accuracy in percent under the protocol of this file."""
    predicted = knn_predict(bank, bank_labels, queries)
    return 100 * (predicted == query_labels).float().mean().item()
