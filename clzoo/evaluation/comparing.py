"""clzoo.compare: several encoders on the same images, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation import figures
from clzoo.evaluation.agreement import linear_cka, neighbor_overlap
from clzoo.evaluation.collapse import spectrum
from clzoo.evaluation.features import Features, extract
from clzoo.evaluation.mistakes import predictions_name
from clzoo.evaluation.opening import DataSource, splits_to_judge
from clzoo.evaluation.paired import CASES, DRAWS, Case, Difference, cases_of, class_differences, differences
from clzoo.evaluation.report import write_folder
from clzoo.evaluation.report_parts import Section, Table
from clzoo.evaluation.report_sections import class_names
from clzoo.evaluation.run import Evaluation, evaluate
from clzoo.evaluation.subject import find_subject
from clzoo.metrics import THIS_MODEL, headlines

NEIGHBORS = 10
"""Nearest neighbors of a test image that two encoders may share."""

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
        differences: of two models, by protocol; empty for more.
        cases: of two models, images that only one gets right by the first of those protocols.
    """

    names: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    cka: np.ndarray
    overlap: np.ndarray
    spectra: dict[str, np.ndarray]
    differences: Sequence[Difference] = ()
    cases: Sequence[Case] = field(default=(), repr=False)

    def accuracy_table(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows: one row a number, one column a model; None where only others were measured by it."""
        values = [
            {(r["protocol"], r["metric"]): r["value"] for r in headlines(evaluation.results) if r["of"] == THIS_MODEL}
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
            "differences": [dataclasses.asdict(difference) for difference in self.differences],
        }
        test = first["data"]["test"]
        facts = [f"{len(self.names)} encoders", f"{test['images']:,} test images", first["hardware"]]
        title = f"{' and '.join(self.names) if len(self.names) == 2 else 'Encoders'} on {first['data']['title']}"
        return write_folder(Path(folder), title, facts, self._sections(), metrics, {}, page="compare.html")

    def _sections(self) -> list[Section]:
        columns, rows = self.accuracy_table()
        agreement = {
            "cka": figures.matrix_figure(self.cka, self.names, "linear CKA"),
            "overlap": figures.matrix_figure(self.overlap, self.names, f"shared {NEIGHBORS} nearest neighbors"),
        }
        same = "Both are 1 for the same features up to rotation; on the test split."
        spectra = {"spectra": figures.spectrum_figure({name: values.tolist() for name, values in self.spectra.items()})}
        of_spectra = "Singular values of the L2-normalised, centred test features."
        return [
            *self._paired_sections(),
            Section("Accuracy", tables=[Table(columns, rows)]),
            Section("Agreement", notes=[same], plots=agreement),
            Section("Spectra", notes=[of_spectra], plots=spectra),
            *self._long_tail_sections(),
        ]

    def _paired_sections(self) -> list[Section]:
        if not self.differences:
            return []
        first, second = self.names
        rows = [
            [d.protocol.partition("(")[0], f"{d.value:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}", d.first, d.second,
             d.only_first, d.only_second]
            for d in self.differences
        ]  # fmt: skip
        columns = ("protocol", "difference", "95 % interval", first, second, "only the first", "only the second")
        note = (
            f"Top-1 in percent, {first} minus {second} in points. Intervals: paired bootstrap over test images, "
            f"{DRAWS:,} draws, seed 0. The last columns count the images that only one of them gets right."
        )
        if len(self.evaluations[0].metrics["seeds"]) > 1:
            note += " All of it is of the evaluation's seed 0; below, under Accuracy, stand the means over its seeds."
        protocol = self.differences[0].protocol
        labels, right = self._right(protocol)
        dots = class_differences(labels, right[0], right[1], class_names(self.evaluations[0].metrics))
        by = protocol.partition("(")[0]
        title = f"Classes by {by}: {first} minus {second}, in points"
        sections = [Section("Difference", notes=[note], tables=[Table(columns, rows)]), Section(title, dots=dots)]
        if self.cases:
            note = (
                f"By {by}, evenly spaced over all such images, at most {CASES}. Beside each what either encoder "
                "answers, and the training images that it finds nearest."
            )
            sections.append(Section("Images that only one of them gets right", notes=[note], cases=self.cases))
        return sections

    def _right(self, protocol: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Labels (N,) of the test images, and which of them each model gets right (N,)."""
        labels = self.evaluations[0].arrays["test_labels"]
        return labels, [labels == evaluation.arrays[predictions_name(protocol)] for evaluation in self.evaluations]

    def _long_tail_sections(self) -> list[Section]:
        details = {
            name: {subset["name"]: subset for subset in evaluation.metrics["details"]["imbalanced"]["subsets"]}
            for name, evaluation in zip(self.names, self.evaluations, strict=True)
            if "imbalanced" in evaluation.metrics["details"]
        }
        first: dict[str, Any] = next(iter(details.values()), {})
        sizes = [size for part in first.values() for size in part["kept"]]
        sections = []
        for subset, part in first.items():
            plots = {}
            for probe in _LONG_TAIL_PROBES:
                curves = {name: parts[subset]["probes"][probe]["per_class"] for name, parts in details.items()}
                figure = figures.long_tail_figure(part["kept"], curves, probe, limits=(min(sizes), max(sizes)))
                plots[f"{subset}_{probe.replace(', ', '_')}"] = figure
            sections.append(Section(f"Probed on the subset {subset}", plots=plots))
        return sections


def compare(
    models: Sequence[Encoder | str | Path],
    data: DataSource,
    protocols: str | Sequence[str] = ("knn", "linear"),
    *,
    seeds: int = 1,
    title: str | None = None,
    settings: Sequence[str] = (),
    device: str = "auto",
    cache_dir: str | Path | None = None,
) -> Comparison:
    """Judge several encoders on the same images; arguments as in `clzoo.evaluate`.

    Raises:
        ClzooError: fewer than two models, or what `clzoo.evaluate` raises.
    """
    if len(models) < 2:
        raise ClzooError(f"a comparison needs at least two models, found {len(models)}. To judge one: clzoo evaluate")
    subjects = [find_subject(model, device) for model in models]  # all, before hours go into the first
    train_images, test_images = splits_to_judge(data, cache_dir=cache_dir)
    if (count := len(test_images)) <= NEIGHBORS:
        raise ClzooError(
            f"a comparison needs at least {NEIGHBORS + 1} test images, whose {NEIGHBORS} nearest are compared; "
            f"{test_images.origin} has {count}. Name more of them: --data train=DIR,test=DIR"
        )
    evaluations, features = [], []
    whole: list[tuple[Features, Features]] = []
    for subject in subjects:
        evaluations.append(
            evaluate(subject, data, protocols, seeds=seeds, title=title, settings=settings, cache_dir=cache_dir)
        )
        test = extract(subject.encoder, test_images, cache_dir=cache_dir)
        if len(models) == 2:
            whole.append((extract(subject.encoder, train_images, cache_dir=cache_dir), test))
        rows = np.unique(np.linspace(0, len(test) - 1, min(len(test), MOST_IMAGES)).round().astype(np.int64))
        features.append(test.x[torch.from_numpy(rows)])
    names = _distinct([evaluation.metrics["model"]["name"] for evaluation in evaluations])
    found = differences(*evaluations) if len(models) == 2 else []
    titles = class_names(evaluations[0].metrics)
    cases = cases_of(found[0].protocol, names, evaluations, whole, train_images, titles) if found else []
    return Comparison(
        tuple(names),
        tuple(evaluations),
        _pairwise(features, linear_cka),
        _pairwise(features, lambda x, y: neighbor_overlap(x, y, k=NEIGHBORS)),
        {name: np.asarray(spectrum(x).singular_values) for name, x in zip(names, features, strict=True)},
        found,
        cases,
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
