"""What a loss does to each pair, in its own numbers, for whoever watches; where nobody does, a note costs nothing.

    with watching() as seen:
        method(batch)
    for term in seen.terms(): ...

A loss notes a weight where it has it: the very tensor that it computes with, or what its formula does to a similarity.
So a weight is the share of a pair in the gradient: d loss_i / d similarity_ij up to the loss's constants, with the
weights that a method itself takes for constants kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import torch

Role = Literal["attraction", "repulsion", "relation", "gate"]

View = int | torch.Tensor
"""Which view of the batch an embedding is of; or the pictures (N, 3, H, W) themselves, where they are none."""

Columns = tuple[Literal["own", "images", "queue"], ...]
"""What a row is compared with, from left to right: "own" is the query's image in each of the key views, "images" are
all N images in each of the key views, one view after the other, "queue" its K entries."""


@dataclass(frozen=True)
class Term:
    """Weights that one call of a loss gave in one role.

    Attributes:
        loss: name of the function.
        call: number of its call, from 0.
        meaning: what the weights are, in words.
        weights: float (R, C); R = len(queries) * N rows, one view after the other. Of role "gate" (N, D).
        queries, keys: views of the rows and of the columns.
        beside: a second number of each pair with its name: what a method gives before its softmax, say.
        cosine: (R, C) similarity of each pair, of a repulsion whose loss says it; of no meaning where the weight is 0.
    """

    loss: str
    call: int
    role: Role
    meaning: str
    weights: torch.Tensor
    columns: Columns
    queries: tuple[View, ...]
    keys: tuple[View, ...]
    beside: tuple[str, torch.Tensor] | None
    cosine: torch.Tensor | None = None


@dataclass
class Seen:
    """What was noted so far, block by block."""

    call: int = -1
    loss: str = ""
    blocks: dict[tuple[object, ...], list[Term]] = field(default_factory=dict)

    def terms(self) -> list[Term]:
        """The blocks of rows of each term joined, in the order in which they came."""
        return [_joined(blocks) for blocks in self.blocks.values()]


_SEEN: ContextVar[Seen | None] = ContextVar("seen", default=None)
_BETWEEN: ContextVar[tuple[tuple[View, ...], tuple[View, ...]]] = ContextVar("between", default=((0,), (1,)))


@contextmanager
def watching() -> Iterator[Seen]:
    """Collect what the losses note within."""
    token = _SEEN.set(seen := Seen())
    try:
        yield seen
    finally:
        _SEEN.reset(token)


@contextmanager
def between(queries: Sequence[View], keys: Sequence[View]) -> Iterator[None]:
    """Say of which views the queries and the keys of the losses within are; without it view 0 and view 1."""
    if torch.compiler.is_compiling():  # a graph has no context to change, and in one nobody watches
        yield
        return
    token = _BETWEEN.set((tuple(queries), tuple(keys)))
    try:
        yield
    finally:
        _BETWEEN.reset(token)


@contextmanager
def query_view(place: int) -> Iterator[None]:
    """Of the query views that `between` named, only the one at this place; keys as they are."""
    queries, keys = _BETWEEN.get()
    with between(queries[place : place + 1], keys):
        yield


@contextmanager
def called(loss: str) -> Iterator[None]:
    """One call of a loss; `full_precision` does it for all of them."""
    seen = None if torch.compiler.is_compiling() else _SEEN.get()
    if seen is not None:
        seen.call, seen.loss = seen.call + 1, loss
    yield


def is_watched() -> bool:
    """Whether a note will be kept: what is computed for it alone can be left out."""
    return not torch.compiler.is_compiling() and _SEEN.get() is not None


def note(
    role: Role,
    weights: torch.Tensor | Callable[[], torch.Tensor],
    columns: Columns,
    meaning: str,
    *,
    beside: tuple[str, torch.Tensor] | None = None,
    cosine: torch.Tensor | None = None,
) -> None:
    """Keep the weights (b, C) of a block of rows, if somebody watches; a function is called only then.

    Args:
        beside, cosine: as of `Term`, (b, C).
    """
    seen = _SEEN.get() if is_watched() else None
    if seen is None:
        return
    with torch.no_grad():
        values = weights if isinstance(weights, torch.Tensor) else weights()
    queries, keys = _BETWEEN.get()
    named = None if beside is None else (beside[0], beside[1].detach())
    near = None if cosine is None else cosine.detach()
    term = Term(seen.loss, seen.call, role, meaning, values.detach(), columns, queries, keys, named, near)
    place = (seen.call, role, columns, *(view if isinstance(view, int) else id(view) for view in (*queries, *keys)))
    seen.blocks.setdefault(place, []).append(term)


def note_cross_entropy(
    logits: torch.Tensor,
    own: torch.Tensor | None,
    columns: Columns,
    *,
    scale: torch.Tensor | None = None,
    temperature: float | None = None,
) -> None:
    """What `-log softmax` does to logits (b, C), if somebody watches: the positive attracts by 1 - p, the others repel
    by p.

    Args:
        own: (b,) column of each row's positive; None: the first, and it is the one of "own".
        scale: (b,) what each row's loss is multiplied with.
        temperature: of logits that are cosines over it.
    """
    if not is_watched():
        return
    likely = logits.detach().softmax(dim=1) * (1 if scale is None else scale[:, None])
    one = torch.ones_like(likely[:, :1]) if scale is None else scale[:, None]
    softmax = "p, its part of the softmax" + ("" if scale is None else ", times the weight of the query")
    cosine = None if temperature is None else logits * temperature
    if own is None:
        note("attraction", one - likely[:, :1], ("own",), f"1 - p; {softmax}")
        note("repulsion", likely[:, 1:], columns[1:], softmax, cosine=None if cosine is None else cosine[:, 1:])
        return
    is_own = torch.zeros_like(likely).scatter(1, own[:, None], 1.0)
    note("attraction", is_own * (one - likely), columns, f"1 - p; {softmax}")
    note("repulsion", (1 - is_own) * likely, columns, softmax, cosine=cosine)


def _joined(blocks: list[Term]) -> Term:
    first = blocks[0]
    beside = first.beside
    if beside is not None:
        beside = beside[0], torch.cat([block.beside[1] for block in blocks if block.beside is not None])
    near = [block.cosine for block in blocks if block.cosine is not None]
    return Term(
        first.loss,
        first.call,
        first.role,
        first.meaning,
        torch.cat([block.weights for block in blocks]),
        first.columns,
        first.queries,
        first.keys,
        beside,
        torch.cat(near) if near else None,
    )
