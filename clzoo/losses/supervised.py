"""SupCon: contrast with labels (Khosla et al. 2020, arXiv 2004.11362, equation 2, the "out" form)."""

import torch

from clzoo.errors import ClzooError
from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import check_views, full_precision, unit
from clzoo.losses.seen import between, note


@full_precision
def sup_con(z: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """All embeddings of an anchor's class are positives, each in a log-softmax of its own over everything but itself.

        mean over 2N anchors i of  -1/|P_i| sum_{p in P_i} log softmax_{a != i}(z_i z_a / T)_p

    Args:
        z: (2, N, D) embeddings of two views.
        labels: (N,) classes.

    Raises:
        ClzooError: z is not (2, N >= 2, D), or labels are not (N,).
    """
    check_views(z, views=2)
    if labels.shape != z.shape[1:2]:
        raise ClzooError(f"sup_con expects one label per image, ({z.shape[1]},), found {tuple(labels.shape)}.")
    both = unit(z).flatten(0, 1)  # (2N, D)
    classes = labels.repeat(2)  # (2N,)
    itself = torch.arange(len(both), device=z.device)

    def block(rows: torch.Tensor, classes_of_rows: torch.Tensor, itself: torch.Tensor) -> torch.Tensor:
        logits = rows @ both.T / temperature  # (b, 2N)
        denominator = logits.scatter(1, itself[:, None], float("-inf")).logsumexp(dim=1)
        positive = (classes_of_rows[:, None] == classes).scatter(1, itself[:, None], False)
        count = positive.sum(dim=1)

        def likely() -> torch.Tensor:
            return (logits - denominator[:, None]).exp().scatter(1, itself[:, None], 0.0)

        note(
            "attraction",
            lambda: positive * (1 / count[:, None] - likely()),
            ("images",),
            "1 / |P| - p: one of the class, less its part of the softmax; below zero it is pushed off",
        )
        note(
            "repulsion",
            lambda: ~positive * likely(),
            ("images",),
            "p, its part of the softmax",
            cosine=logits * temperature,
        )
        return denominator - (logits * positive).sum(dim=1) / count

    with between((0, 1), (0, 1)):
        return in_row_blocks(block, both, classes, itself, columns=len(both)).mean()
