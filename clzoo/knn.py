"""k-nearest-neighbor classification: the votes.

Each of the k nearest by cosine similarity s votes for its class with weight exp(s / T); the class with most votes wins,
the lower class number on a tie. These are the votes of Wu et al. 2018 (arXiv 1805.01978, section 3.4), whose own k and
T are knn:instdisc(k=200,T=0.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clzoo.neighbors import nearest


@dataclass(frozen=True)
class Knn:
    """A protocol; `also` is what its id states besides k and T."""

    name: str
    k: int
    temperature: float
    also: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Such as "knn:v1(k=20,T=0.07,cos)"."""
        return f"{self.name}({','.join([f'k={self.k}', f'T={self.temperature:g}', *self.also])})"


KNN_V1 = Knn("knn:v1", k=20, temperature=0.07, also=("cos",))
KNN_INSTDISC = Knn("knn:instdisc", k=200, temperature=0.1)
PROTOCOL = KNN_V1.id


def knn_predict(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    k: int = KNN_V1.k,
    temperature: float = KNN_V1.temperature,
) -> torch.Tensor:
    """Predicted classes (Q,) of `queries` (Q, D) from `bank` (N, D) with labels (N,).

    Raises:
        ClzooError: see `nearest`.
    """
    similarity, rows = nearest(bank, queries, k)
    neighbor_labels = bank_labels.to(rows.device)[rows]
    classes = int(bank_labels.max()) + 1
    return vote(similarity, neighbor_labels, classes, k=k, temperature=temperature).argmax(dim=1)


def knn_accuracy(
    bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, query_labels: torch.Tensor
) -> float:
    """Top-1 accuracy in percent under knn:v1."""
    predicted = knn_predict(bank, bank_labels, queries)
    return 100 * (predicted == query_labels).float().mean().item()


def vote(
    similarity: torch.Tensor,
    neighbor_labels: torch.Tensor,
    classes: int,
    *,
    k: int,
    temperature: float,
    prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """Votes (Q, C), float64, of the first k neighbors, each exp(similarity / temperature) for its class.

    A class that none of the neighbors is of has -inf, not 0: it has no rank, so it is among nobody's best five.

    Args:
        similarity: (Q, K) descending, K >= k, as from `nearest`.
        neighbor_labels: (Q, K) int64.
        prior: (C,) each class's share of the bank. A class's votes are divided by it, which is what a balanced bank
            would have given in expectation (our choice); a class that the bank does not have gets none.

    All votes of a query are scaled alike, by that of its nearest, which keeps exp in range.
    """
    weights = torch.exp((similarity[:, :k].double() - similarity[:, :1]) / temperature)  # (Q, k)
    votes = weights.new_zeros(len(weights), classes)
    voted = torch.zeros_like(votes, dtype=torch.bool).scatter_(1, neighbor_labels[:, :k], True)  # (Q, C)
    # Neighbor by neighbor and not in one call: a GPU adds in any order, and two classes with the same votes would tie
    # or not by chance.
    for place in range(k):
        votes.scatter_add_(1, neighbor_labels[:, place : place + 1], weights[:, place : place + 1])
    if prior is not None:
        votes = votes / prior.to(votes)
    return torch.where(voted, votes, float("-inf"))
