"""ReCo's global distribution relation (Zhang et al., IEEE TMM 2024, arXiv 2211.01796)."""

import torch

from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import unit


def reco_global(
    q: torch.Tensor, w: torch.Tensor, queue: torch.Tensor, student_temperature: float, teacher_temperature: float
) -> torch.Tensor:
    """The strong view relates to the queue as the weak view does.

        cross-entropy( softmax(w Q_w / teacher_temperature), softmax(q Q_w / student_temperature) ), mean over images

    No gradient reaches the teacher; the bins are the queue's entries alone.

    Args:
        q: (N, D) strong views through the encoder.
        w: (N, D) weak views through the momentum encoder.
        queue: (K, D) past weak keys.
    """
    q, w, queue = unit(q), unit(w).detach(), unit(queue)

    def block(q: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        teacher = (w @ queue.T / teacher_temperature).softmax(dim=1).detach()  # (b, K)
        return -(teacher * (q @ queue.T / student_temperature).log_softmax(dim=1)).sum(dim=1)

    return in_row_blocks(block, q, w, columns=len(queue)).mean()
