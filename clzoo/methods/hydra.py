"""Hydra (Wu et al., arXiv 2410.18200; later named SimLAP): any two images may be a positive pair, if they are compared
in a subspace that suits their two classes. Uses class labels in pretraining.

Implemented from the mathematics of the released code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import nn

from clzoo.device import to_device
from clzoo.distributed import gather, gather_constant
from clzoo.errors import ClzooError
from clzoo.losses import hydra_pair
from clzoo.losses.seen import between
from clzoo.methods.batch import Batch, Needs
from clzoo.methods.heads import Widths, mlp
from clzoo.methods.record import Method
from clzoo.schema import Table

Pairs = Literal["arbitrary", "identical", "distinct"]


class Direction(NamedTuple):
    """Anchors (N, D) and keys (N, D), the views they are of, and `own`: the anchors' own rows among the keys, where
    these are the same embeddings.
    """

    anchors: torch.Tensor
    keys: torch.Tensor
    anchor_views: Sequence[int]
    key_views: Sequence[int]
    own: torch.Tensor | None = None


class FeatureFilter(nn.Module):
    """The gate of a pair of classes: g(a, b) = sigmoid(f_g((f_l(a) + f_l(b)) / 2)), symmetric, in (0, 1)^d."""

    def __init__(self, classes: int, dim: int, label_dim: int = 512, hidden_dim: int = 1024) -> None:
        super().__init__()
        self.label_embedding = nn.Embedding(classes, label_dim)  # N(0, 1), torch's default
        self.gate = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(label_dim),
            nn.Linear(label_dim, hidden_dim),
            nn.ReLU(),
            nn.BatchNorm1d(hidden_dim),
            nn.Linear(hidden_dim, dim),
        )

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Classes (N,) and (N,) -> gates (N, d)."""
        gates: torch.Tensor = self.gate((self.label_embedding(a) + self.label_embedding(b)) / 2).sigmoid()
        return gates


class HydraOptions(Table):
    """`method:` of a Hydra recipe.

    pairs: "arbitrary" permutes the batch; "identical" pairs an image with its own class; "distinct" with another class.
    gate: False leaves the gate open (all ones): the control that is known to ruin arbitrary pairs.
    single_view: all views are one batch in which each embedding is anchor and key (the authors' CIFAR-10 preset).
    """

    name: Literal["hydra"]
    temperature: float = Field(0.1, gt=0)
    pairs: Pairs = "arbitrary"
    gate: bool = True
    gamma: float = Field(0.0, ge=0)  # weight of the gates' entropy
    single_view: bool = False
    projector: Widths
    group: int | None = Field(None, gt=1)


def draw_partners(batch: Batch, pairs: Pairs, classes: int, group: int | None, copies: int = 1) -> torch.Tensor:
    """(copies, B) partner classes of this process's images, a function of (seed, step) and the labels.

    Args:
        copies: rows that an image has in the batch. One permutation goes over all rows of a group, so that an image's
            copies have partners of their own.
    """
    assert batch.labels is not None
    labels = batch.labels.expand(copies, -1)
    if pairs == "identical":
        return labels
    partners = torch.empty(labels.shape, dtype=labels.dtype, device=labels.device)
    for images, generator in batch.groups(group):
        rows = labels[:, images].flatten()
        if pairs == "arbitrary":
            drawn = rows[to_device(torch.randperm(len(rows), generator=generator), rows.device)]
        else:  # uniform over the other classes
            shift = torch.randint(1, max(2, classes), (len(rows),), generator=generator)
            drawn = (rows + to_device(shift, rows.device)) % classes
        partners[:, images] = drawn.view(copies, -1)
    return partners


class PairOptions(Protocol):
    """What the pair loss takes from a method's options."""

    temperature: float
    gate: bool
    gamma: float


class PairLoss(nn.Module):
    """The gates and the pair loss of both Hydras."""

    def __init__(self, classes: int, dim: int, options: PairOptions) -> None:
        super().__init__()
        self.classes = classes
        self.filter = FeatureFilter(classes, dim) if options.gate else None
        self.options = options

    def forward(
        self,
        directions: list[Direction],
        labels: torch.Tensor,
        partners: torch.Tensor,
    ) -> torch.Tensor:
        """Mean over directions of the pair loss.

        Args:
            labels, partners: (N,) of the whole batch, the same for all directions.
        """
        anchors = directions[0].anchors
        gates = torch.ones_like(anchors) if self.filter is None else self.filter(labels, partners)
        losses = []
        for d in directions:
            with between(d.anchor_views, d.key_views):
                t = self.options.temperature
                losses.append(hydra_pair(d.anchors, d.keys, gates, labels, partners, labels, t, own_key=d.own))
        loss = torch.stack(losses).mean()
        if self.options.gamma and self.filter is not None:
            every = torch.arange(self.classes, device=labels.device)
            loss = loss + self.options.gamma * bernoulli_entropy(self.filter(every, every))
        return loss


def bernoulli_entropy(gates: torch.Tensor) -> torch.Tensor:
    """Mean of -g log g - (1 - g) log(1 - g) over gates of any shape: a scalar, in nats."""
    # Written out: CUDA's autocast refuses F.binary_cross_entropy. A gate at 0 or 1 has neither entropy nor gradient.
    tiny = torch.finfo(torch.float32).eps
    g = gates.float().clamp(tiny, 1 - tiny)
    return -(g * g.log() + (1 - g) * (1 - g).log()).mean()


class Hydra(nn.Module):
    """Two views through one encoder, no predictor; the projector ends in LayerNorm, which lets gates close.

    Each of two views is a forward pass of its own, with its own BatchNorm statistics; the views of a single-view recipe
    are one batch.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, options: HydraOptions, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp([feature_dim, *options.projector], last_norm="layer")
        self.pair_loss = PairLoss(classes, options.projector[-1], options)
        self.options = options
        self.one_pass = options.single_view  # each network is called once in a step

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.loss(batch, *self.prepare(batch))

    def prepare(self, batch: Batch) -> tuple[torch.Tensor]:
        """(copies, B) partner classes."""
        o = self.options
        copies = len(batch.views) if o.single_view else 1
        return (draw_partners(batch, o.pairs, self.pair_loss.classes, o.group, copies),)

    def loss(self, batch: Batch, drawn: torch.Tensor) -> torch.Tensor:
        assert batch.labels is not None
        o, copies = self.options, len(drawn)
        partners = torch.cat([gather_constant(copy) for copy in drawn])  # (copies * N,)
        labels = gather_constant(batch.labels).repeat(copies)
        if o.single_view:
            z = self._project(torch.cat(batch.views)).chunk(copies)
            everything = torch.cat([gather(copy) for copy in z])  # (copies * N, D)
            views, own = range(copies), torch.arange(len(everything), device=everything.device)
            directions = [Direction(everything, everything, views, views, own)]
        else:
            first, second = (gather(self._project(view)) for view in batch.views)  # each (N, D)
            directions = [Direction(first, second, [0], [1]), Direction(second, first, [1], [0])]
        loss: torch.Tensor = self.pair_loss(directions, labels, partners)
        return loss

    def _project(self, images: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.projector(self.backbone(images))
        return projected


# Gates of what was trained --------------------------------------------------------------------------------------------


@torch.no_grad()
def gate_vectors(filter: FeatureFilter) -> torch.Tensor:
    """The gates g(c, c) of single classes, (C, d) in (0, 1), in eval mode; the filter is left in the mode it was in."""
    was_training = filter.training
    filter.eval()
    every = torch.arange(filter.label_embedding.num_embeddings, device=filter.label_embedding.weight.device)
    gates: torch.Tensor = filter(every, every)
    filter.train(was_training)
    return gates.cpu()


_BELOW_FILTER = re.compile(r"(?:.+\.)?filter\.(.+)")
_OF_GATE = re.compile(r"(?:.+\.)?\w+\.([1245]\.(?:weight|bias|running_mean|running_var|num_batches_tracked))")


def read_filter(tensors: dict[str, torch.Tensor]) -> FeatureFilter | None:
    """Hydra's gates from the tensors of a pretrain.safetensors, in eval mode; None if it has nothing under "filter.".

    Ours lie under "pair_loss.filter.", those of a converted checkpoint under "filter." or "filter.gate.": a table of
    classes, and an MLP whose layers 1 and 4 are BatchNorms and 2 and 5 linear, whatever its name. The sizes are those
    of the tensors.

    Raises:
        ClzooError: other tensors than these under "filter."; names them.
    """
    found = {match[1]: tensor for name, tensor in tensors.items() if (match := _BELOW_FILTER.fullmatch(name))}
    if not found:
        return None
    gate = {f"gate.{match[1]}": tensor for name, tensor in found.items() if (match := _OF_GATE.fullmatch(name))}
    tables = [tensor for name, tensor in found.items() if not _OF_GATE.fullmatch(name)]
    try:
        (table,) = tables
        if len(gate) + len(tables) < len(found):
            raise ValueError("two MLPs")
        classes, label_dim = table.shape
        dim, hidden_dim = gate["gate.5.weight"].shape
        with torch.device("meta"):  # no weights are drawn
            filter = FeatureFilter(classes, dim, label_dim, hidden_dim)
        state = {"label_embedding.weight": table, **gate}
        state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
        filter.load_state_dict(state, assign=True)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ClzooError(
            f"the gates in pretrain.safetensors are of an unknown layout: {', '.join(sorted(found)[:14])}, {len(found)}"
            " in all under 'filter.'. Expected a table (classes x width) and one MLP with the layers 1 (BatchNorm), 2 "
            "(linear), 4 (BatchNorm) and 5 (linear) that fit each other. To do without gates, delete that file."
        ) from error
    return filter.eval()


def gates_of(method: Any) -> FeatureFilter | None:
    """The gates of a trained method that has Hydra's pair loss with gates; None of another."""
    pair_loss = getattr(method, "pair_loss", None)
    return None if pair_loss is None else pair_loss.filter


def classes_in(tensors: dict[str, torch.Tensor]) -> int | None:
    """How many classes the gates in a pretrain.safetensors of ours are of; None where it has no gates."""
    table = next((t for name, t in tensors.items() if name.endswith("filter.label_embedding.weight")), None)
    return None if table is None else len(table)


METHOD = Method(
    title="Hydra (later renamed SimLAP)",
    arxiv="2410.18200",
    options=HydraOptions,
    build=Hydra,
    needs=lambda options: Needs(1, joined="all") if options.single_view else Needs(2, 2),
    labels=True,
    classes=True,
)
