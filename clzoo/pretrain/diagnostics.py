"""What attracts and repels in a run, and whether it goes the way of a collapse: looked at early, and with the monitors.

Embeddings are those of the step itself, in train mode with the batch's own BatchNorm statistics, without gradient. What
repels, and how much, is what the loss itself notes (`clzoo.losses.seen`). A copy of the method is looked at, so nothing
of it remains: no running statistics, no key in a queue. Labels are used for reporting only.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch

from clzoo.distributed import gather_constant, own_rows, world_size
from clzoo.losses.embeddings import unit
from clzoo.losses.seen import watching
from clzoo.methods.batch import Batch
from clzoo.methods.momentum import Queue
from clzoo.methods.momentum_host import MomentumHost
from clzoo.methods.potential_samples import PotentialSamplesOptions
from clzoo.methods.reco import ReCoOptions

EARLY = (25, 50, 75, 100)
"""Steps after which a monitored run is looked at beside its regular ones."""

# Our choice, from the first 100 steps of short runs on CIFAR-10 (docs/pretraining.md): healthy ones have at most .86
# from step 50 on, ReCo with the published target .99. That queries leave the cone of the queue is no sign by itself:
# MoCo v2's do so too for a while, by as much, and come back.
FROM = 50  # steps: before, all embeddings still lie where the initial weights put them
SAME = 0.95  # mean cosine between different images' queries, above which they coincide


@torch.no_grad()
def diagnose(method: Any, batch: Batch, queue_labels: torch.Tensor | None = None) -> dict[str, float]:
    """Measures of one step's embeddings, on this process's part of the batch.

    Args:
        queue_labels: (K,) classes of the queue's entries, -1 where not known; see clzoo.pretrain.feed.labels_of_queue.

    Returns:
        cone_q_q, cone_k_k: mean cosine between different images' queries, and keys. cone_q_queue, cone_k_queue: mean
        cosine to the queue, without this batch's own keys. repelled_similarity: mean cosine of what repels the first
        view's queries, each negative weighted by its share in the repulsion. With labels: false_negatives, the share of
        the repulsion that falls on the image's own class, and attracted_purity, the share of mined positives (Potential
        Samples) or of the teacher's mass (ReCo) that is of the image's own class. What a method does not have is left
        out.
    """
    seen = copy.deepcopy(method).train()  # which is not compiled, whatever the method is
    q, k = _embeddings(seen, batch)  # (B, D), unit
    found = {"cone_q_q": _others(q), "cone_k_k": _others(k)}
    queue: Queue | None = getattr(seen, "queue", None)
    old: torch.Tensor | None = None
    if queue is not None:
        old = _older_rows(queue, len(q) * world_size())
        negatives = queue.entries[old]  # (K - B, D)
        if len(negatives) == 0:
            return found
        found |= {"cone_q_queue": (q @ negatives.T).mean().item(), "cone_k_queue": (k @ negatives.T).mean().item()}
        if len(negatives) <= getattr(method.options, "k", 0):  # too few to mine from
            return found
        queue_labels = None if queue_labels is None else queue_labels.to(q.device)[old]
    search = _searching(seen, batch, k)
    if old is not None:
        _keep_older(seen, old)
    attraction = None if old is None else _attraction(seen, search, queue_labels)  # before the queue gets new keys
    repelled = _repelled(seen, batch, queue_labels)
    if repelled.similarity is not None:
        found["repelled_similarity"] = repelled.similarity
    if repelled.false is not None and not method.needs.labels:
        found["false_negatives"] = repelled.false
    if attraction is not None and batch.labels is not None and queue_labels is not None and (queue_labels >= 0).any():
        same = batch.labels[:, None] == queue_labels
        of_known = (attraction * (queue_labels >= 0)).sum()
        found["attracted_purity"] = ((attraction * same).sum() / of_known.clamp_min(1e-12)).item()
    return found


def warning_of(found: dict[str, float], step: int) -> str | None:
    """What to tell the user where the cone says that the run goes the way of a collapse; None where it does not."""
    if step < FROM or found["cone_q_q"] <= SAME:
        return None
    queue = ""
    if "cone_q_queue" in found:
        queue = f"; to the queue {found['cone_q_queue']:.2f}, of keys {found['cone_k_queue']:.2f}"
    return (
        f"step {step}: embeddings of different images nearly coincide (mean cosine {found['cone_q_q']:.3f}{queue}): "
        "this run goes the way of a collapse. Try a lower rate (--set optimizer.base_lr=...) or, of ReCo, "
        "--set method.local_negatives=batch. What is measured: docs/pretraining.md"
    )


def _embeddings(method: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries of the first view and keys of the second, unit vectors; of methods without keys two projections."""
    first, second = batch.views[0], batch.views[min(1, len(batch.views) - 1)]

    def project(view: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = method.projector(method.backbone(view))
        return projected

    if not isinstance(method, MomentumHost):
        return unit(project(first)), unit(project(second))
    return unit(method.predictor(project(first))), unit(_key(method, second, batch))


def _key(method: MomentumHost, view: torch.Tensor, batch: Batch) -> torch.Tensor:
    shuffled = method.needs.batchnorm == "shuffled"  # type: ignore[union-attr]
    return method.shuffled_key(view, method.key_order(batch)) if shuffled else method.key(view)


def _others(z: torch.Tensor) -> float:
    """Mean cosine between the rows of z (B, D), unit vectors, each with all others."""
    count = len(z)
    return float((z.sum(dim=0).square().sum() - count) / (count * (count - 1)))


def _older_rows(queue: Queue, batch: int) -> torch.Tensor:
    """(K - B,) rows of the queue that are not of the last batch."""
    size = len(queue.entries)
    return (queue.pointer + torch.arange(max(0, size - batch), device=queue.entries.device)) % size


def _searching(method: Any, batch: Batch, k: torch.Tensor) -> torch.Tensor:
    """(B, D) what searches for positives: the weak view's key where the method has one, else the key."""
    o = method.options
    has_weak = (isinstance(o, ReCoOptions) and o.host == "mocov2") or getattr(o, "mining", "key") == "weak"
    return unit(_key(method, batch.views[2], batch)) if has_weak else k


def _keep_older(seen: Any, old: torch.Tensor) -> None:
    """Take the batch's own keys out of the queues of a copy: the loss that follows is to see it as a new batch."""
    for queue in (getattr(seen, "queue", None), getattr(seen, "weak_queue", None)):
        if queue is not None:
            queue.entries = queue.entries[old]
            queue.pointer.zero_()


class _Repelled(NamedTuple):
    similarity: float | None
    false: float | None


def _repelled(seen: Any, batch: Batch, queue_labels: torch.Tensor | None) -> _Repelled:
    """By the weights that the losses of one more step note of the first view's queries."""
    device = batch.views[0].device
    drawn_on = [device] if device.type == "cuda" and torch.cuda.is_initialized() else []  # else nothing was drawn there
    with torch.random.fork_rng(drawn_on), watching() as watched:
        seen(batch)
    mine = own_rows(len(batch), device)
    labels = None if batch.labels is None else gather_constant(batch.labels)
    weights, cosines, classes = [], [], []
    for term in watched.terms():
        if term.role != "repulsion" or 0 not in [view for view in term.queries if isinstance(view, int)]:
            continue
        place = [view if isinstance(view, int) else None for view in term.queries].index(0)
        rows = place * (len(term.weights) // len(term.queries)) + mine
        weights.append(term.weights[rows].float())
        cosines.append(None if term.cosine is None else term.cosine[rows].float())
        columns = {"images": labels, "queue": queue_labels}
        counts = [len(term.keys) if kind == "images" else 1 for kind in term.columns]
        known = [columns.get(kind) for kind in term.columns]
        classes.append(
            None
            if any(each is None for each in known)
            else torch.cat([each.repeat(n) for each, n in zip(known, counts, strict=True) if each is not None])
        )
    if not weights:
        return _Repelled(None, None)
    share = torch.cat(weights, dim=1)
    share = share / share.sum(dim=1, keepdim=True).clamp_min(1e-12)  # (B, C); rows sum to 1
    similarity = false = None
    if all(each is not None for each in cosines):
        cosine = torch.cat([each for each in cosines if each is not None], dim=1)
        similarity = torch.where(share > 0, share * cosine, 0.0).sum(dim=1).mean().item()
    if batch.labels is not None and all(each is not None for each in classes):
        of = torch.cat([each for each in classes if each is not None])  # (C,)
        if (of >= 0).any():
            same = batch.labels[:, None] == of
            false = ((share * same).sum() / (share * (of >= 0)).sum().clamp_min(1e-12)).item()
    return _Repelled(similarity, false)


def _attraction(seen: Any, search: torch.Tensor, queue_labels: torch.Tensor | None) -> torch.Tensor | None:
    """(B, M) share of each queue entry in what attracts beside the image's own view; None where nothing does."""
    o = seen.options
    if queue_labels is None:
        return None
    if isinstance(o, PotentialSamplesOptions) and o.positives != "aug_only":
        similarity = search @ seen.queue.entries.T
        nearest = similarity.topk(min(o.k, similarity.shape[1]), dim=1).indices
        return torch.zeros_like(similarity).scatter(1, nearest, 1 / nearest.shape[1])
    if isinstance(o, ReCoOptions) and o.lambda1 > 0:
        return (search @ seen.weak_queue.entries.T / o.teacher_temperature).softmax(dim=1)
    return None
