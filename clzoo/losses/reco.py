"""ReCo's global distribution relation (Zhang et al., IEEE TMM 2024, arXiv 2211.01796)."""

import torch

from clzoo.losses.blocks import in_row_blocks
from clzoo.losses.embeddings import full_precision, unit
from clzoo.losses.seen import Columns, note, note_cross_entropy


@full_precision
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
        student = (q @ queue.T / student_temperature).log_softmax(dim=1)
        _note_relation(teacher, student, ("queue",))
        return -(teacher * student).sum(dim=1)

    return in_row_blocks(block, q, w, columns=len(queue)).mean()


@full_precision
def reco_global_batch(
    q: torch.Tensor, w: torch.Tensor, student_temperature: float, teacher_temperature: float
) -> torch.Tensor:
    """`reco_global` where the bins are the weak views of the other images of the batch (our choice, SimCLR host).

    Args:
        q: (N, D) strong views.
        w: (N, D) weak views, of the same images in the same order.
    """
    q, w = unit(q), unit(w).detach()
    itself = torch.arange(len(q), device=q.device)

    def block(q: torch.Tensor, teacher: torch.Tensor, itself: torch.Tensor) -> torch.Tensor:
        def relation(rows: torch.Tensor, temperature: float) -> torch.Tensor:
            return (rows @ w.T / temperature).scatter(1, itself[:, None], -1e4)  # far, but finite: 0 * log 0 is 0

        target = relation(teacher, teacher_temperature).softmax(dim=1).detach()  # (b, N)
        student = relation(q, student_temperature).log_softmax(dim=1)
        _note_relation(target, student, ("images",))
        return -(target * student).sum(dim=1)

    return in_row_blocks(block, q, w, itself, columns=len(w)).mean()


@full_precision
def info_nce_without(
    q: torch.Tensor,
    positive: torch.Tensor,
    k: torch.Tensor,
    without: torch.Tensor,
    temperature: float,
    queue: torch.Tensor | None = None,
) -> torch.Tensor:
    """InfoNCE of each query against its positive and the keys of the batch, some rows left out (our choice).

    Args:
        q, positive: (N, D).
        k: (M, D) keys that are negatives.
        without: (N, n) rows of `k` that are no negatives of each query.
        queue: (K, D) further negatives of every query.
    """
    q, positive, k = unit(q), unit(positive), unit(k)
    further = k[:0] if queue is None else unit(queue)  # (K, D)
    columns: Columns = ("own", "images") if queue is None else ("own", "images", "queue")

    def block(q: torch.Tensor, positive: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
        own = (q * positive).sum(dim=1, keepdim=True) / temperature  # (b, 1)
        negatives = (q @ k.T / temperature).scatter(1, without, float("-inf"))  # (b, M)
        logits = torch.cat([own, negatives, q @ further.T / temperature], dim=1)  # (b, 1 + M + K)
        note_cross_entropy(logits, None, columns, temperature=temperature)
        return logits.logsumexp(dim=1) - own.squeeze(1)

    return in_row_blocks(block, q, positive, without, columns=len(k) + len(further)).mean()


def _note_relation(teacher: torch.Tensor, log_student: torch.Tensor, columns: Columns) -> None:
    note(
        "relation",
        teacher,
        columns,
        "how the weak view relates (the teacher); the strong view is to relate alike",
        beside=("student", log_student.exp()),
    )
