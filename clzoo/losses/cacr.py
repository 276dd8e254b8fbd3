"""CACR: contrastive attraction and contrastive repulsion (Zheng et al., TMLR 2023, arXiv 2105.03746).

Positives are compared among themselves and negatives among themselves: the farther a positive is, the more it is
attracted; the closer a negative is, the more it is repelled. With D(u, v) = |u - v|^2 on the unit sphere:

    pi+(x+|x) ~ exp(+t_pos D(x, x+))        pi-(x-|x) ~ exp(-t_neg D(x, x-))
    L = alpha E_pi+[D(x, x+)]  -  beta E_pi-[D(x, x-)]
"""

from itertools import combinations, permutations
from typing import Literal

import torch

from clzoo.losses.embeddings import check_views, unit


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
    repulsion = [_repulsion(z[v], z[u], t_neg, cost, t, detach_weights) for v, u in view_pairs]
    return attraction + beta * torch.stack(repulsion).mean()


def _attraction(z: torch.Tensor, t_pos: float, detach_weights: bool) -> torch.Tensor:
    """Mean over views and images of sum_u w+ D+, the softmax over the other views u of the same image."""
    distance = 2 - 2 * torch.einsum("vnd,und->nvu", z, z)  # (N, V, V)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    weights = (t_pos * distance).masked_fill(itself, float("-inf")).softmax(dim=2)
    weights = weights.detach() if detach_weights else weights
    return (weights * distance).sum(dim=2).mean()


def _repulsion(
    queries: torch.Tensor, others: torch.Tensor, t_neg: float, cost: str, t: float, detach_weights: bool
) -> torch.Tensor:
    """For one pair of views: row i of `queries` against the rows j != i of `others`, both (N, D)."""
    distance = 2 - 2 * queries @ others.T  # (N, N)
    same_image = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    weights = (-t_neg * distance).masked_fill(same_image, float("-inf")).softmax(dim=1)
    weights = weights.detach() if detach_weights else weights
    if cost == "rbf":  # the logarithm is taken outside the mean over the batch
        return (weights * torch.exp(-t * distance)).sum(dim=1).mean().log()
    return -(weights * distance).sum(dim=1).mean()
