"""clzoo.compare: several encoders on the same images, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation import figures
from clzoo.evaluation.agreement import linear_cka, neighbor_overlap
from clzoo.evaluation.collapse import spectrum
from clzoo.evaluation.features import extract
from clzoo.evaluation.report import Section, table, write_folder
from clzoo.evaluation.run import DataSource, Evaluation, evaluate, open_splits
from clzoo.evaluation.subject import find_subject
from clzoo.zoo.cards import headlines

NEIGHBORS = 10
"""Nearest neighbours of a test image that two encoders may share."""

MOST_IMAGES = 10_000
"""Test images, evenly spaced, on which agreement is measured (our choice: its cost grows with the square)."""

_LONG_TAIL_PROBES = ("knn", "linear", "linear, logit-adjusted")


@dataclass(frozen=True)
class Comparison:
    """Encoders judged by the same protocols on the same images.

    Attributes:
        names: one a model, distinct.
        evaluations: one a model.
        cka: (M, M) linear CKA of the test features.
        overlap: (M, M) mean share of the 10 nearest test images in common.
        spectra: singular values of each model's test features.
    """

    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    cka: np.ndarray
    overlap: np.ndarray
    spectra: dict[str, np.ndarray]

    def accuracy_table(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows: one row a number, one column a model; None where only others were measured by it."""
        values = [
            {(r["protocol"], r["metric"]): r["value"] for r in headlines(evaluation.results)}
            for evaluation in self.evaluations
        ]
        keys = dict.fromkeys(key for measured in values for key in measured)
        rows = [[*key, *(_rounded(measured.get(key)) for measured in values)] for key in keys]
        return ["protocol", "metric", *self.names], rows

    def write(self, folder: str | Path) -> Path:
        """Write metrics.json, plots/*.png and compare.html into a folder; returns it."""
        first = self.evaluations[0].metrics
        metrics = {
            "models": {name: evaluation.metrics for name, evaluation in zip(self.names, self.evaluations, strict=True)},
            "linear_cka": self.cka.round(4).tolist(),
            f"neighbor_overlap_at_{NEIGHBORS}": self.overlap.round(4).tolist(),
            "names": list(self.names),
        }
        test = first["data"]["test"]
        facts = [f"{len(self.names)} encoders", f"{test['images']:,} test images", first["hardware"]]
        title = f"{' and '.join(self.names) if len(self.names) == 2 else 'Encoders'} on {first['data']['title']}"
        return write_folder(Path(folder), title, facts, self._sections(), metrics, {}, page="compare.html")

    def _sections(self) -> list[Section]:
        columns, rows = self.accuracy_table()
        agreement = {
            "cka": figures.matrix_figure(self.cka, self.names, "linear CKA"),
            "overlap": figures.matrix_figure(self.overlap, self.names, f"shared {NEIGHBORS} nearest neighbours"),
        }
        text = "<p>Both are 1 for the same features up to rotation; on the test split.</p>\n"
        spectra = {"spectra": figures.spectrum_figure({name: values.tolist() for name, values in self.spectra.items()})}
        return [
            Section("Accuracy", table(columns, rows), {}),
            Section("Agreement", text, agreement),
            Section("Spectra", "<p>Singular values of the L2-normalised, centred test features.</p>\n", spectra),
            *self._long_tail_sections(),
        ]

    def _long_tail_sections(self) -> list[Section]:
        details = {
            name: {subset["name"]: subset for subset in evaluation.metrics["details"]["imbalanced"]["subsets"]}
            for name, evaluation in zip(self.names, self.evaluations, strict=True)
            if "imbalanced" in evaluation.metrics["details"]
        }
        sections = []
        for subset in next(iter(details.values()), {}):
            plots = {}
            for probe in _LONG_TAIL_PROBES:
                curves = {name: parts[subset]["probes"][probe]["per_class"] for name, parts in details.items()}
                kept = next(iter(details.values()))[subset]["kept"]
                plots[f"{subset}_{probe.replace(', ', '_')}"] = figures.long_tail_figure(kept, curves, probe)
            sections.append(Section(f"Probed on the subset {escape(subset)}", "", plots))
        return sections


def compare(
    models: Sequence[Encoder | str | Path],
    data: DataSource,
    protocols: str | Sequence[str] = ("knn", "linear"),
    *,
    seeds: int = 1,
    title: str | None = None,
    device: str = "auto",
    cache_dir: str | Path | None = None,
) -> Comparison:
    """Judge several encoders on the same images; arguments as in `clzoo.evaluate`.

    Raises:
        ClzooError: fewer than two models, or what `clzoo.evaluate` raises.
    """
    if len(models) < 2:
        raise ClzooError(f"a comparison needs at least two models, found {len(models)}. To judge one: clzoo evaluate")
    _, test_images = open_splits(data)
    evaluations, features = [], []
    for model in models:
        subject = find_subject(model, device)
        evaluations.append(evaluate(subject, data, protocols, seeds=seeds, title=title, cache_dir=cache_dir))
        test = extract(subject.encoder, test_images, cache_dir=cache_dir)
        rows = np.unique(np.linspace(0, len(test) - 1, min(len(test), MOST_IMAGES)).round().astype(np.int64))
        features.append(test.x[torch.from_numpy(rows)])
    names = _distinct([evaluation.metrics["model"]["name"] for evaluation in evaluations])
    return Comparison(
        tuple(names),
        tuple(evaluations),
        _pairwise(features, linear_cka),
        _pairwise(features, lambda x, y: neighbor_overlap(x, y, k=NEIGHBORS)),
        {name: np.asarray(spectrum(x).singular_values) for name, x in zip(names, features, strict=True)},
    )


def _pairwise(features: list[torch.Tensor], measure: Callable[[torch.Tensor, torch.Tensor], float]) -> np.ndarray:
    """(M, M) of a symmetric measure that is 1 of anything with itself."""
    matrix = np.eye(len(features))
    for i in range(len(features)):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = measure(features[i], features[j])
    return matrix


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number behind those that occur again."""
    return [
        name if names[:i].count(name) == 0 else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)
    ]


def _rounded(value: Any) -> object:
    return None if value is None else round(float(value), 2)
