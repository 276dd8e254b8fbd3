"""What `clzoo.pretrain.explaining` found in a batch: in sentences, as JSON, as a page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clzoo.data.training import TrainingSet
from clzoo.losses.seen import View
from clzoo.methods import Batch
from clzoo.pretrain.recipe import Recipe

TOP = 10
"""Of each query so many are shown in each role, and looked at for false negatives."""


@dataclass(frozen=True)
class Met:
    """What a query was compared with.

    Attributes:
        sample: its number in the data set; None of an entry of a queue that no step of the run put there.
        where: "view 2", or of a queue's entry "3 steps ago" or "random start".
        place: in the batch; None of a queue's entry.
        view: of an image of the batch, as `clzoo.losses.seen` has it; None of a queue's entry.
        share: the weight in all weights that the query gives in this role, 0 to 1.
        beside: a second number, see `Panel.beside`.
        is_same_class: None without labels, or where the sample is not known.
    """

    sample: int | None
    place: int | None
    name: str
    label: str | None
    where: str
    view: View | None
    weight: float
    share: float
    beside: float | None
    is_same_class: bool | None

    def mark(self, role: str) -> str:
        """What the labels say of it in a role: "right", "wrong", or "" where they say nothing.

        That an image of another class is repelled, or related to, says nothing.
        """
        if self.is_same_class is None or (role != "attraction" and not self.is_same_class):
            return ""
        return "right" if self.is_same_class == (role != "repulsion") else "wrong"


@dataclass(frozen=True)
class Panel:
    """Of one query in one role of one loss: the heaviest first.

    `view` is what queries: of a loss that mixes images the pictures of the mixtures. `total` is the sum of all weights.
    """

    loss: str
    role: str
    view: View
    meaning: str
    beside: str | None
    total: float
    met: list[Met]


@dataclass(frozen=True)
class Query:
    """An image of the batch; `gate` is Hydra's, (D,) in (0, 1)."""

    sample: int
    place: int
    name: str
    label: str | None
    view: View
    panels: list[Panel]
    gate: torch.Tensor | None


@dataclass(frozen=True)
class Judgement:
    """What labels say of one role of a loss, over all queries of the batch and all views, in shares of 0 to 1.

    Of "repulsion" same class is wrong, of "attraction" it is right (the query's own image is not counted).

    Attributes:
        among_top: of the TOP heaviest of each query.
        among_all: of all that have a weight; what chance would give.
        of_weight: of the weight.
    """

    loss: str
    role: str
    among_top: float
    among_all: float
    of_weight: float

    def __str__(self) -> str:
        done, whose = ("repelled", "negatives") if self.role == "repulsion" else ("attracted", "other positives")
        return (
            f"{self.loss}: of the {TOP} most {done} of each query {self.among_top:.1%} are of its own class, of all "
            f"{whose} {self.among_all:.1%}; they take {self.of_weight:.1%} of the {self.role}."
        )


@dataclass(frozen=True)
class Explanation:
    """What `explain_batch` found; `images` and `batch` are what pictures are drawn from."""

    run: Path
    recipe: Recipe
    step: int
    steps: int
    loss: float
    queries: list[Query]
    judgements: list[Judgement]
    images: TrainingSet
    batch: Batch

    def summary(self) -> list[str]:
        """What was found, a sentence each."""
        return [
            f"{self.recipe.method.name}, the batch of {len(self.batch)} images that follows step {self.step:,} of "
            f"{self.steps:,}: loss {self.loss:.4f}.",
            *map(str, self.judgements),
            *([] if self.images.labels is not None else ["Without labels nobody knows which negatives are false."]),
        ]

    def as_json(self) -> dict[str, Any]:
        """What `clzoo explain-batch --json` prints."""
        return {
            "run": str(self.run),
            "method": self.recipe.method.name,
            "step": self.step,
            "steps": self.steps,
            "images": len(self.batch),
            "loss": self.loss,
            "judgements": [dataclasses.asdict(judgement) for judgement in self.judgements],
            "queries": [_query_as_json(query) for query in self.queries],
        }

    def write_page(self, path: str | Path) -> Path:
        """Write contact sheets of the queries as one page; returns its path."""
        from clzoo.pretrain.explanation_page import write_explanation

        return write_explanation(self, Path(path))


def _query_as_json(query: Query) -> dict[str, Any]:
    return {
        "sample": query.sample,
        "image": query.name,
        "label": query.label,
        **({} if query.gate is None else {"open_gates": int((query.gate > 0.5).sum()), "gates": len(query.gate)}),
        "roles": [
            {
                "loss": panel.loss,
                "role": panel.role,
                "meaning": panel.meaning,
                "total": panel.total,
                "images": [
                    {
                        "sample": met.sample,
                        "image": met.name,
                        "label": met.label,
                        "where": met.where,
                        "weight": met.weight,
                        "share": met.share,
                        **({} if panel.beside is None else {panel.beside: met.beside}),
                        "same_class": met.is_same_class,
                    }
                    for met in panel.met
                ],
            }
            for panel in query.panels
        ],
    }
