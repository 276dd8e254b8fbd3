"""CACR: contrastive attraction and contrastive repulsion (Zheng et al., TMLR 2023, arXiv 2105.03746).

Positives are compared among themselves and negatives among themselves: the farther a positive is, the more it is
attracted; the closer a negative is, the more it is repelled. With D(u, v) = |u - v|^2 on the unit sphere:

    pi+(x+|x) ~ exp(+t_pos D(x, x+))        pi-(x-|x) ~ exp(-t_neg D(x, x-))
    L = alpha E_pi+[D(x, x+)]  -  beta E_pi-[D(x, x-)]

Three published forms: `cacr` within a batch, `cacr_queue` and `cacr_momentum` with a momentum encoder.
"""

from itertools import combinations, permutations
from typing import Literal

import torch
import torch.nn.functional as F

from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import check_views, full_precision, unit
from clzoo.losses.seen import between, note, note_cross_entropy, query_view

PULL = "pi+ ~ exp(t_pos D): the farther positive more"
PUSH = "pi- ~ exp(-t_neg D): the nearer negative more"


@full_precision
def cacr(
    z: torch.Tensor,
    *,
    t_pos: float,
    t_neg: float,
    alpha: float = 1.0,
    beta: float = 1.0,
    cost: Literal["euclidean", "rbf"] = "euclidean",
    t: float = 2.0,
    detach_weights: bool = False,
    symmetric: bool = False,
) -> torch.Tensor:
    """CACR among the views of one batch (form A of the published method; CIFAR, STL).

    `t_pos` and `t_neg` multiply the distance: they are inverse temperatures (an InfoNCE temperature T is t = 1/(2T)).
    Zero gives uniform weights, the paper's ablation. With two views the one positive has weight 1, and `t_pos` no
    effect. Gradient flows through the weights too, as published: a negative farther than the mean distance + 1/t_neg
    is then attracted.

    Args:
        z: (V, N, D) embeddings of V = K + 1 views of N images; K is the number of positives.
        alpha, beta: weights of attraction (in [0, 4 alpha]) and repulsion (in [-4 beta, 0] for "euclidean").
        cost: distance under repulsion; "rbf" is beta log of the mean of exp(-t D).
        t: inverse width of "rbf".
        detach_weights: no gradient through pi+ and pi- (off in the published form A).
        symmetric: for every pair of views let both be queries (off in the published form: the earlier view only).

    Raises:
        ClzooError: z is not (V >= 2, N >= 2, D).
    """
    check_views(z)
    z = unit(z)
    attraction = alpha * _attraction(z, t_pos, detach_weights)
    view_pairs = (permutations if symmetric else combinations)(range(len(z)), 2)
    repulsion = []
    for v, u in view_pairs:
        with between((v,), (u,)):
            repulsion.append(_repulsion(z[v], z[u], t_neg, cost, t, detach_weights))
    return attraction + beta * torch.stack(repulsion).mean()


@full_precision
def cacr_queue(
    q: torch.Tensor,
    k: torch.Tensor,
    queue: torch.Tensor,
    *,
    t_pos: float,
    t_neg: float,
    alpha: float = 1.0,
    beta: float = 1.0,
    detach_weights: bool = True,
) -> torch.Tensor:
    """CACR with momentum keys and a queue (form B of the published method; ImageNet).

    Positives of q_i^v are the keys of the other views of image i, weighted without gradient. Its negatives are the
    queue and the other queries of the same view, under one softmax.

    Args:
        q: (V, N, D) queries of all views.
        k: (V, N, D) momentum keys of the same views; pass them without gradient.
        queue: (K, D) past keys.
        detach_weights: no gradient through the weights of the negatives. The released code detaches those of the
            queue only; one switch for both is our choice.

    Raises:
        ClzooError: q is not (V >= 2, N >= 2, D).
    """
    check_views(q)
    q, k, queue = unit(q), unit(k), unit(queue)
    distance = 2 - 2 * torch.einsum("vnd,und->nvu", q, k)  # (N, V, V)
    same_view = torch.eye(len(q), dtype=torch.bool, device=q.device)
    weights = (t_pos * distance).masked_fill(same_view, float("-inf")).softmax(dim=2).detach()
    _note_attraction(weights)
    attraction = (weights * distance).sum(dim=2).mean()
    itself = torch.arange(q.shape[1], device=q.device)

    def repulsion(others: torch.Tensor) -> torch.Tensor:
        def block(rows: torch.Tensor, itself: torch.Tensor) -> torch.Tensor:
            distance = 2 - 2 * rows @ torch.cat([others, queue]).T  # (b, N + K)
            logits = (-t_neg * distance).scatter(1, itself[:, None], float("-inf"))
            weights = logits.softmax(dim=1)
            weights = weights.detach() if detach_weights else weights
            note("repulsion", weights, ("images", "queue"), PUSH, cosine=1 - distance / 2)
            return -(weights * distance).sum(dim=1)

        return in_row_blocks(block, others, itself, columns=len(others) + len(queue)).mean()

    repelled = []
    for v, view in enumerate(q):
        with between((v,), (v,)):
            repelled.append(repulsion(view))
    return alpha * attraction + beta * torch.stack(repelled).mean()


@full_precision
def cacr_momentum(q: torch.Tensor, k: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """CACR with momentum keys of the batch (form C of the published method; the released ImageNet models).

    For one target view, l_iv = 2T * cross-entropy of q_i^v over all keys, and the farther positive weighs more:

        p_iv = softmax_v(|q_i^v - k_i|^2 / T), no gradient;      L = sum_v mean_i p_iv l_iv

    With one query view p = 1: averaged over the two targets of a two-view batch this is 0.5 x MoCo v3's loss exactly.

    Args:
        q: (V, N, D) queries of all views but the target's own.
        k: (M, D) the target view's keys, gathered over processes; pass them without gradient.
        target: (N,) row of each image's own key.
    """
    q, k = unit(q), unit(k)
    distance = 2 - 2 * (q * k[target]).sum(dim=2)  # (V, N)
    weights = (distance / temperature).softmax(dim=0).detach()

    def block(rows: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = rows @ k.T / temperature  # (b, M)
        note_cross_entropy(logits, target, ("images",), scale=weight, temperature=temperature)
        return F.cross_entropy(logits, target, reduction="none")

    terms = []
    for v, (view, weight) in enumerate(zip(q, weights, strict=True)):
        with query_view(v):
            terms.append(in_row_blocks(block, view, target, weight, columns=len(k)))
    return (weights * 2 * temperature * torch.stack(terms)).sum(dim=0).mean()


def _attraction(z: torch.Tensor, t_pos: float, detach_weights: bool) -> torch.Tensor:
    """Mean over views and images of sum_u w+ D+, the softmax over the other views u of the same image."""
    distance = 2 - 2 * torch.einsum("vnd,und->nvu", z, z)  # (N, V, V)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    weights = (t_pos * distance).masked_fill(itself, float("-inf")).softmax(dim=2)
    weights = weights.detach() if detach_weights else weights
    _note_attraction(weights)
    return (weights * distance).sum(dim=2).mean()


def _note_attraction(weights: torch.Tensor) -> None:
    """Of pi+ (N, V, V): of each image the weights of the views u for the query view v."""
    every = range(weights.shape[1])
    for v in every:
        with between((v,), every):
            note("attraction", weights[:, v], ("own",), PULL)


def _repulsion(
    queries: torch.Tensor, others: torch.Tensor, t_neg: float, cost: str, t: float, detach_weights: bool
) -> torch.Tensor:
    """For one pair of views: row i of `queries` against the rows j != i of `others`, both (N, D)."""

    def block(rows: torch.Tensor, itself: torch.Tensor) -> torch.Tensor:
        distance = 2 - 2 * rows @ others.T  # (b, N)
        weights = (-t_neg * distance).scatter(1, itself[:, None], float("-inf")).softmax(dim=1)
        weights = weights.detach() if detach_weights else weights
        note("repulsion", weights, ("images",), PUSH, cosine=1 - distance / 2)
        return (weights * (torch.exp(-t * distance) if cost == "rbf" else -distance)).sum(dim=1)

    itself = torch.arange(len(queries), device=queries.device)
    value = in_row_blocks(block, queries, itself, columns=len(others)).mean()
    return value.log() if cost == "rbf" else value  # the logarithm is taken outside the mean over the batch
