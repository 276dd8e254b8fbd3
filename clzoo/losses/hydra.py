"""Hydra's loss on arbitrary pairs seen through a gate (Wu et al., arXiv 2410.18200; later named SimLAP)."""

import torch
import torch.nn.functional as F

from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import full_precision
from clzoo.losses.seen import note


@full_precision
def hydra_pair(
    q: torch.Tensor,
    k: torch.Tensor,
    gates: torch.Tensor,
    labels: torch.Tensor,
    partners: torch.Tensor,
    key_labels: torch.Tensor,
    temperature: float,
    own_key: torch.Tensor | None = None,
) -> torch.Tensor:
    """Keys of the partner's class attract, keys of any third class repel, both in the anchor's gated subspace.

        s_ij = <g_i q_i, g_i k_j> / (|g_i q_i| |g_i k_j|),   l = s / T
        P_i = {j : y_j = partner_i},   N_i = {j : y_j is neither partner_i nor y_i}
        L = 1 / sum_i |P_i|  sum_i sum_{j in P_i} softplus( logsumexp_{n in N_i} l_in - l_ij )

    An open gate (all ones) gives plain cosine; scaling one gate row changes nothing. An anchor without negatives adds
    zero, and so does a batch without positives.

    Args:
        q: (N, D) anchors, before normalisation.
        k: (M, D) keys, before normalisation.
        gates: (N, D), one gate per anchor, in (0, 1).
        labels, partners: (N,) the anchor's class, and the class it is paired with.
        key_labels: (M,) classes of the keys.
        own_key: (N,) row of a key that is the anchor itself and is neither positive nor negative (our choice for
            single-view batches, where anchors and keys are the same embeddings); None: no such key.
    """
    q, k, gates = (x if x.dtype == torch.float64 else x.float() for x in (q, k, gates))
    excluded = torch.full_like(labels, -1) if own_key is None else own_key
    columns = torch.arange(len(k), device=k.device)

    def masks(
        labels: torch.Tensor, partners: torch.Tensor, excluded: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        partner_class = key_labels == partners[:, None]  # (b, M)
        usable = columns != excluded[:, None]
        return partner_class & usable, ~partner_class & (key_labels != labels[:, None]) & usable

    def block(q, g, labels, partners, excluded):  # type: ignore[no-untyped-def]
        positive, negative = masks(labels, partners, excluded)
        # Two products in place of a (b, M, D) tensor of gated keys.
        squared = g * g
        dot = (q * squared) @ k.T
        norm_q = (q * q * squared).sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()  # (b, 1)
        norm_k = (squared @ (k * k).T).clamp_min(1e-24).sqrt()  # (b, M)
        logits = dot / (norm_q * norm_k) / temperature
        # Where N_i is empty softplus(-inf) is 0, but its gradient is not a number: a far finite value does the same.
        repulsion = logits.masked_fill(~negative, -1e4 if logits.dtype == torch.float32 else -1e8).logsumexp(dim=1)
        apart = repulsion[:, None] - logits  # (b, M)

        def pull() -> torch.Tensor:
            return apart.sigmoid() * positive

        note("gate", g, (), "open where near 1")
        note(
            "attraction",
            pull,
            ("images",),
            "sigmoid of how much the negatives outweigh this one of the partner's class",
        )
        note(
            "repulsion",
            lambda: negative * (logits - repulsion[:, None]).exp() * pull().sum(dim=1, keepdim=True),
            ("images",),
            "its part of the softmax over third classes, times all attraction of the query",
            cosine=logits * temperature,
        )
        return (F.softplus(apart) * positive).sum(dim=1)

    total = in_row_blocks(block, q, gates, labels, partners, excluded, columns=len(k)).sum()
    ordered = key_labels.sort().values  # not bincount, whose length a device would have to tell
    counts = (torch.searchsorted(ordered, partners, right=True) - torch.searchsorted(ordered, partners)).sum()
    if own_key is not None:
        counts = counts - (key_labels[own_key] == partners).sum()
    return total / counts.clamp_min(1)
