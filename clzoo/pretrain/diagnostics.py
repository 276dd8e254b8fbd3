"""What attracts and repels in a run, and whether it goes the way of a collapse: looked at early, and with the monitors.

Embeddings are those of the step itself, in train mode with the batch's own BatchNorm statistics, without gradient and
without a trace: running statistics are put back, nothing is pushed into a queue. Labels are used for reporting only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clzoo.losses.embeddings import unit
from clzoo.losses.potential_samples import _log_negative_weights
from clzoo.methods.align_uniform import AlignUniformOptions
from clzoo.methods.batch import Batch
from clzoo.methods.cacr import CACROptions
from clzoo.methods.hcl import HCLOptions
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
        cosine to the queue, without this batch's own keys. repelled_similarity: mean cosine of what is repelled, each
        negative weighted by its share in the repulsion. With labels: false_negatives, the share of the repulsion that
        falls on the image's own class, and attracted_purity, the share of mined positives (Potential Samples) or of the
        teacher's mass (ReCo) that is of the image's own class. What a method does not have is left out.
    """
    with _without_a_trace(method):
        q, k = _embeddings(method, batch)  # (B, D), unit
        found = {"cone_q_q": _others(q), "cone_k_k": _others(k)}
        queue: Queue | None = getattr(method, "queue", None)
        if queue is None:
            negatives, classes = k, batch.labels
            itself = torch.eye(len(k), dtype=torch.bool, device=k.device)
        else:
            old = _older_rows(queue, len(q))
            negatives = queue.entries[old]  # (K - B, D)
            classes = None if queue_labels is None else queue_labels.to(q.device)[old]
            itself = None
            if len(negatives) == 0:
                return found
            found |= {"cone_q_queue": (q @ negatives.T).mean().item(), "cone_k_queue": (k @ negatives.T).mean().item()}
        same = None if batch.labels is None or classes is None else batch.labels[:, None] == classes
        known = None if classes is None else classes >= 0
        excluded = same if method.needs.labels else itself  # methods with labels do not repel their own class
        search = _searching(method, batch, k)
        share = _repulsion(method.options, q, k, search, negatives, excluded)
        found["repelled_similarity"] = (share * (q @ negatives.T)).sum(dim=1).mean().item()
        if same is None or known is None or not known.any() or method.needs.labels:
            return found
        found["false_negatives"] = ((share * same).sum() / (share * known).sum().clamp_min(1e-12)).item()
        attraction = _attraction(method, search, negatives, old if queue is not None else None)
        if attraction is not None:
            of_known = (attraction * known).sum()
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


@contextmanager
def _without_a_trace(method: nn.Module) -> Iterator[None]:
    """Train mode, with the running statistics of all BatchNorms put back afterwards."""
    norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    was_training = method.training
    method.train()
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
        method.train(was_training)


def _embeddings(method: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries of the first view and keys of the second, unit vectors; of methods without keys two projections."""
    first, second = batch.views[0], batch.views[min(1, len(batch.views) - 1)]

    def project(view: torch.Tensor) -> torch.Tensor:
        # Not the networks' compiled form, which would be compiled once more, without gradient.
        projected: torch.Tensor = method.projector.forward(method.backbone.forward(view))
        return projected

    if not isinstance(method, MomentumHost):
        return unit(project(first)), unit(project(second))
    return unit(method.predictor.forward(project(first))), unit(_key(method, second, batch))


def _key(method: MomentumHost, view: torch.Tensor, batch: Batch) -> torch.Tensor:
    shuffled = method.needs.batchnorm == "shuffled"  # type: ignore[union-attr]
    return method.shuffled_key(view, batch) if shuffled else method.key(view)


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


def _repulsion(
    options: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    search: torch.Tensor,
    negatives: torch.Tensor,
    excluded: torch.Tensor | None,
) -> torch.Tensor:
    """(B, M) share of each negative in the repulsion of a query; rows sum to 1."""
    similarity = q @ negatives.T
    logits = _sharpness(options) * similarity
    if isinstance(options, PotentialSamplesOptions):
        o = options
        mined = 0 if o.positives == "aug_only" else min(o.k, len(negatives) - 1)
        neighbors = (search @ negatives.T).topk(mined, dim=1).indices
        band = (o.band_hard, o.band_easy)
        s_key = (q * k).sum(dim=1, keepdim=True)
        logits = logits + _log_negative_weights(
            similarity, s_key, neighbors, o.negatives, a=o.a, b=o.b, beta=o.beta / o.temperature, band=band
        )
    if excluded is not None:
        logits = logits.masked_fill(excluded, -1e4)  # finite: a row without negatives stays a number
    return logits.softmax(dim=1)


def _sharpness(options: Any) -> float:
    """t in exp(t s), the weight of a negative with cosine s in the method's repulsion."""
    match options:
        case CACROptions(form="batch" | "queue"):
            return 2 * options.t_neg
        case AlignUniformOptions():
            return 2 * options.t
        case HCLOptions():
            return (1 + options.beta) / options.temperature
        case _:
            return 1 / float(options.temperature)


def _attraction(
    method: Any, search: torch.Tensor, negatives: torch.Tensor, old: torch.Tensor | None
) -> torch.Tensor | None:
    """(B, M) share of each queue entry in what attracts beside the image's own view; None where nothing does."""
    o = method.options
    if isinstance(o, PotentialSamplesOptions) and o.positives != "aug_only":
        similarity = search @ negatives.T
        nearest = similarity.topk(min(o.k, len(negatives)), dim=1).indices
        return torch.zeros_like(similarity).scatter(1, nearest, 1 / nearest.shape[1])
    if isinstance(o, ReCoOptions) and o.lambda1 > 0 and old is not None:
        return (search @ method.weak_queue.entries[old].T / o.teacher_temperature).softmax(dim=1)
    return None
