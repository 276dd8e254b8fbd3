"""What a protocol returns: numbers with the protocol's id, and what the report draws from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Result:
    """One number of a model.

    Attributes:
        protocol: id with every setting that matters, such as "knn:v1(k=20,T=0.07,cos)".
        metric: "top-1", "balanced accuracy", "effective rank", ...; accuracies are in percent.
        std: sample standard deviation over `seeds`; None where nothing was drawn, or with one seed.
        split: what was measured on.
        dataset: title of the data, where it is not the evaluation's own.
        images: how many of `split` were measured on, where it is not the evaluation's own number; 0 for none to say.
    """

    protocol: str
    metric: str
    value: float
    std: float | None = None
    seeds: tuple[int, ...] = ()
    split: str = "test"
    dataset: str | None = None
    images: int | None = None

    @classmethod
    def over_seeds(cls, protocol: str, metric: str, values: Sequence[float], seeds: tuple[int, ...]) -> Result:
        """Mean and standard deviation of one value per seed."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(protocol, metric, statistics.mean(values), std, seeds)

    def to_json(self, dataset: str, of: str, images: int | None = None) -> dict[str, Any]:
        """A row of metrics.json, four significant digits; see `clzoo.zoo.cards.render_card`."""
        row: dict[str, Any] = {
            "protocol": self.protocol,
            "dataset": self.dataset or dataset,
            "split": self.split,
            "metric": self.metric,
            "of": of,
            "value": float(f"{self.value:.4g}"),
        }
        if count := images if self.images is None else self.images:
            row["images"] = count
        if self.seeds:
            row["seeds"] = list(self.seeds)
        if self.std is not None:
            row["std"] = float(f"{self.std:.2g}")
        return row


def split_name(test: Mapping[str, Any], seen: bool) -> str:
    """What rows call the split with this fingerprint (`clzoo.evaluation.features`), seen in pretraining or not."""
    name = f"test, drawn by {test['drawn']}" if "drawn" in test else "test"
    return f"{name}, seen in pretraining without labels" if seen else name


@dataclass
class Outcome:
    """Of one protocol.

    Attributes:
        results: the numbers, for tables and cards.
        details: JSON for metrics.json and the report: per-class accuracies, sweeps, neighbors.
        arrays: what is too large for JSON, by name; kept in arrays.npz.
    """

    results: list[Result]
    details: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
