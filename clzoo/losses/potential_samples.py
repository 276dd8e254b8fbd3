"""Mining of Potential Samples (Dong et al., arXiv 2311.00358): a re-implementation from the abstract.

Known from the abstract: mined positives beside the augmented view under soft and hard weighting, and negatives that are
neither too hard nor too easy. Every formula below is our choice.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from clzoo.errors import ClzooError
from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import full_precision, unit
from clzoo.losses.seen import is_watched, note

Positives = Literal["aug_only", "hard", "soft", "both"]
Negatives = Literal["near_positive", "band", "all", "hcl"]


@full_precision
def potential_samples(
    z: torch.Tensor,
    key: torch.Tensor,
    queue: torch.Tensor,
    *,
    temperature: float = 0.2,
    k: int = 5,
    positives: Positives = "both",
    negatives: Negatives = "near_positive",
    rho: float = 0.5,
    eta: float = 0.5,
    tau_w: float = 0.1,
    a: float = 12.5,
    b: float = 0.0,
    beta: float = 1.0,
    band: tuple[float, float] = (0.05, 0.5),
    mined_mass: float | torch.Tensor = 1.0,
    weak: torch.Tensor | None = None,
) -> torch.Tensor:
    """MoCo's loss with mined positives M (weights omega) and weighted negatives N = queue without M (weights v).

        mean_i sum_{p in {key} u M} omega_p * -log[ e^{z.p/T} / ( e^{z.p/T} + sum_{n in N} v_n e^{z.n/T} ) ]

    No gradient reaches M, omega or v. `positives="aug_only", negatives="all"` is exactly MoCo v2.

    Args:
        z: (N, D) embeddings with gradient.
        key: (N, D) momentum embeddings of the other view.
        queue: (K, D) past keys, K > k.
        k: mined positives per image: the queue entries nearest to the key, or to `weak`.
        positives: weights of the positives: "hard" 1 - rho on the key and rho/k on each mined one; "soft" a softmax of
            their similarities to the key over tau_w; "both" eta soft + (1 - eta) hard; "aug_only" mines none.
        negatives: "near_positive" v ~ exp(-a (s_n - s_p + b)^2); "hcl" v ~ exp(beta s_n / T), both with mean 1; "all"
            v = 1; "band" v = 1 but for the hardest `band[0]` and the easiest `band[1]` share, which get 0.
        mined_mass: m in omega <- (1 - m)(1, 0, ...) + m omega; a run raises it from 0.
        weak: (N, D) momentum embeddings of weak views, the second reading: M is searched with them. "hard" then puts
            rho on the nearest neighbor alone, and only where it is nearer than in three quarters of the batch; "soft"
            is e = softmax(similarity / tau_w) over M times a confidence 1 - entropy(e) / log k, the rest on the key.

    Raises:
        ClzooError: a queue that is not longer than k.
    """
    z, key, queue = unit(z), unit(key).detach(), unit(queue).detach()
    searching = key if weak is None else unit(weak).detach()
    mined = 0 if positives == "aug_only" else k
    if len(queue) <= mined:
        raise ClzooError(f"the queue holds {len(queue)} entries; mining k={k} positives needs a longer one.")

    def block(z: torch.Tensor, key: torch.Tensor, searching: torch.Tensor, sure: torch.Tensor) -> torch.Tensor:
        scores, neighbors = (searching @ queue.T).topk(mined, dim=1)  # (b, k): M
        s_key = (z * key).sum(dim=1, keepdim=True)  # (b, 1)
        s_queue = z @ queue.T  # (b, K)
        if weak is None:
            omega = _positive_weights(scores, positives, rho, eta, tau_w, mined_mass)  # (b, 1 + k)
        else:
            omega = _sure_positive_weights(scores, sure, positives, rho, eta, tau_w, mined_mass)
        log_v = _log_negative_weights(
            s_queue.detach(), s_key.detach(), neighbors, negatives, a=a, b=b, beta=beta / temperature, band=band
        )  # (b, K), -inf on M
        repulsion = (log_v + s_queue / temperature).logsumexp(dim=1, keepdim=True)  # (b, 1)
        attraction = torch.cat([s_key, s_queue.gather(1, neighbors)], dim=1) / temperature  # (b, 1 + k)
        total = torch.logaddexp(attraction, repulsion)

        def pull() -> torch.Tensor:  # (b, 1 + k)
            return omega * (repulsion - total).exp()

        def on_queue(mined: torch.Tensor) -> torch.Tensor:  # (b, 1 + k) -> (b, 1 + K)
            return torch.cat([mined[:, :1], torch.zeros_like(s_queue).scatter(1, neighbors, mined[:, 1:])], dim=1)

        if is_watched():
            note(
                "attraction",
                on_queue(pull()),
                ("own", "queue"),
                "omega of the positive, times the negatives' part beside it",
                beside=("omega", on_queue(omega)),
            )
            note(
                "repulsion",
                (log_v + s_queue / temperature - repulsion).exp() * pull().sum(dim=1, keepdim=True),
                ("queue",),
                "its part of the negatives under v, times all attraction of the query",
                beside=("v", log_v.exp()),
                cosine=s_queue,
            )
        return (omega * (total - attraction)).sum(dim=1)

    sure = _nearer_than_most(searching, queue) if weak is not None else searching.new_ones(len(z), dtype=torch.bool)
    return in_row_blocks(block, z, key, searching, sure, columns=len(queue)).mean()


@full_precision
@torch.no_grad()
def mutual_neighbors(weak: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """Share of images that are the nearest of their own nearest queue entry, among batch and queue: () in [0, 1].

    Args:
        weak: (N, D) momentum embeddings of weak views.
        queue: (K, D) past keys.
    """
    weak, queue = unit(weak), unit(queue)

    def block(w: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        similarity, nearest = (w @ queue.T).max(dim=1, keepdim=True)  # (b, 1)
        entry = queue[nearest.squeeze(1)]  # (b, D)
        in_queue = (entry @ queue.T).scatter(1, nearest, float("-inf"))  # (b, K)
        in_batch = (entry @ weak.T).scatter(1, row[:, None], float("-inf"))  # (b, N)
        return (similarity > torch.cat([in_queue, in_batch], dim=1)).all(dim=1)

    rows = torch.arange(len(weak), device=weak.device)
    return in_row_blocks(block, weak, rows, columns=len(queue) + len(weak)).float().mean()


@torch.no_grad()
def _nearer_than_most(searching: torch.Tensor, queue: torch.Tensor) -> torch.Tensor:
    """(N,) whether the nearest neighbor's similarity is above the batch's 75th percentile."""
    nearest = in_row_blocks(lambda w: (w @ queue.T).amax(dim=1), searching, columns=len(queue))
    return nearest > nearest.quantile(0.75)


def _sure_positive_weights(
    scores: torch.Tensor,
    sure: torch.Tensor,
    mode: Positives,
    rho: float,
    eta: float,
    tau_w: float,
    mass: float | torch.Tensor,
) -> torch.Tensor:
    """omega (b, 1 + k) of the second reading: what is not sure of its neighbors keeps to the key; rows sum to 1."""
    hard, soft = torch.zeros_like(scores), torch.zeros_like(scores)
    if mode != "aug_only":
        hard[:, 0] = rho * sure
        likely = (scores / tau_w).softmax(dim=1)  # (b, k)
        entropy = torch.special.entr(likely).sum(dim=1, keepdim=True)
        soft = likely * (1 - entropy / max(math.log(scores.shape[1]), 1e-12))  # one neighbor alone is sure of itself
    share = {"aug_only": 0.0, "hard": 0.0, "soft": 1.0, "both": eta}[mode]
    mined = mass * ((1 - share) * hard + share * soft)
    return torch.cat([1 - mined.sum(dim=1, keepdim=True), mined], dim=1)


def _positive_weights(
    scores: torch.Tensor, mode: Positives, rho: float, eta: float, tau_w: float, mass: float | torch.Tensor
) -> torch.Tensor:
    """omega (b, 1 + k) of the key and the mined positives with similarities `scores` (b, k); rows sum to 1."""
    ones = scores.new_ones(len(scores), 1)  # also where nothing is mined and `scores` is (b, 0)
    alone = torch.cat([ones, torch.zeros_like(scores)], dim=1)
    if mode == "aug_only":
        return alone
    hard = torch.cat([(1 - rho) * ones, (rho / scores.shape[1]) * torch.ones_like(scores)], dim=1)
    soft = (torch.cat([ones, scores], dim=1) / tau_w).softmax(dim=1)
    omega = {"hard": hard, "soft": soft, "both": (1 - eta) * hard + eta * soft}[mode]
    return (1 - mass) * alone + mass * omega


def _log_negative_weights(
    s_queue: torch.Tensor,
    s_key: torch.Tensor,
    neighbors: torch.Tensor,
    mode: Negatives,
    *,
    a: float,
    b: float,
    beta: float,
    band: tuple[float, float],
) -> torch.Tensor:
    """log v (b, K), -inf on the mined positives; v has mean 1 over N, but for "band", which is not rescaled."""
    outside = torch.full(neighbors.shape, float("-inf"), dtype=s_queue.dtype, device=s_queue.device)
    count = s_queue.shape[1] - neighbors.shape[1]  # |N|
    if mode == "all":
        return torch.zeros_like(s_queue).scatter(1, neighbors, outside)
    if mode == "band":
        ranked = s_queue.scatter(1, neighbors, outside).argsort(dim=1, descending=True)  # M comes last
        first = min(int(band[0] * count), count - 1)
        last = max(first + 1, count - int(band[1] * count))  # at least one negative stays
        return torch.full_like(s_queue, float("-inf")).scatter(1, ranked[:, first:last], 0.0)
    exponent = -a * (s_queue - s_key + b).square() if mode == "near_positive" else beta * s_queue
    exponent = exponent.scatter(1, neighbors, outside)
    return exponent.log_softmax(dim=1) + math.log(count)
