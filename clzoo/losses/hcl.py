"""Contrast with hard negatives (Robinson et al. 2021, arXiv 2010.04592), debiased (Chuang et al. 2020, 2007.00224)."""

import torch

from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import check_views, full_precision, unit
from clzoo.losses.seen import between, note


@full_precision
def hcl(z: torch.Tensor, *, temperature: float, tau_plus: float, beta: float) -> torch.Tensor:
    """InfoNCE whose negatives are re-weighted towards the hard ones and corrected for hidden positives.

    With n = 2N - 2 negatives, s over T, and weights that carry gradient:

        R = n sum_j softmax(beta s)_j e^{s_j}
        N_g = max((R - tau_plus n e^{s+}) / (1 - tau_plus), n e^{-1/T}),      L = -log e^{s+} / (e^{s+} + N_g)

    beta = 0 is the debiased loss; beta = 0 and tau_plus = 0 is SimCLR's.

    Args:
        z: (2, N, D) embeddings of two views.
        tau_plus: class prior, the share of negatives that are hidden positives.
        beta: concentration on hard negatives.

    Raises:
        ClzooError: z is not (2, N >= 2, D).
    """
    check_views(z, views=2)
    n = z.shape[1]
    both = unit(z).flatten(0, 1)  # (2N, D)
    itself = torch.arange(2 * n, device=z.device)
    negatives = 2 * n - 2

    def block(rows: torch.Tensor, itself: torch.Tensor, other_view: torch.Tensor) -> torch.Tensor:
        logits = rows @ both.T / temperature  # (b, 2N)
        positive = logits.gather(1, other_view[:, None]).squeeze(1)  # (b,)
        not_negative = torch.stack([itself, other_view], dim=1)  # (b, 2)
        # N_g holds a difference, so logarithms alone do not do: all exponents are taken relative to the row's maximum.
        top = logits.amax(dim=1).detach()
        weights = (beta * logits).scatter(1, not_negative, float("-inf")).softmax(dim=1)
        pulled = weights * (logits - top[:, None]).exp()
        own = (positive - top).exp()
        mass = (negatives * pulled.sum(dim=1) - tau_plus * negatives * own) / (1 - tau_plus)
        floor = negatives * torch.exp(-1 / temperature - top)
        total = own + torch.maximum(mass, floor)
        note(
            "attraction",
            lambda: torch.zeros_like(logits).scatter(1, other_view[:, None], (1 - own / total)[:, None]),
            ("images",),
            "1 - p; p is the positive's part of positive and negatives",
        )
        note(
            "repulsion",
            lambda: pulled * ((mass > floor) * negatives / (1 - tau_plus) / total)[:, None],
            ("images",),
            "the hard negatives' part, weighted up by softmax(beta s) and corrected for hidden positives",
            beside=("softmax(beta s)", weights),
            cosine=logits * temperature,
        )
        return torch.log(total) + top - positive

    with between((0, 1), (0, 1)):
        return in_row_blocks(block, both, itself, itself.roll(n), columns=2 * n).mean()
