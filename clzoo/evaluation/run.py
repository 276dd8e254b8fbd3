"""clzoo.evaluate: one encoder, one labelled data set, any of the protocols; features are extracted once."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.data.collection import Collection, Images
from clzoo.data.drawn import RECORD
from clzoo.data.training import TrainingSet, training_set_of
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.class_titles import class_titles
from clzoo.evaluation.classifier import evaluate_finetune, evaluate_linear_sgd
from clzoo.evaluation.classifier_settings import Finetune, LinearSGD
from clzoo.evaluation.collapse import evaluate_collapse
from clzoo.evaluation.controls import CONTROLLED, measure_controls
from clzoo.evaluation.features import Features, extract
from clzoo.evaluation.imbalanced import evaluate_imbalanced
from clzoo.evaluation.knn import evaluate_knn
from clzoo.evaluation.leaks import WITHOUT, certificate_for, chosen_images, details_of, kept_rows
from clzoo.evaluation.linear import evaluate_linear
from clzoo.evaluation.lowshot import evaluate_lowshot
from clzoo.evaluation.opening import DataSource, checked_title, splits_to_judge
from clzoo.evaluation.presets import linear_sgd_changes
from clzoo.evaluation.relations import evaluate_relations
from clzoo.evaluation.results import Outcome, Result, split_name
from clzoo.evaluation.seen import pretrained_subset, saw_in_pretraining
from clzoo.evaluation.settings import further_sets, one_setting, subsets_of, tables_of
from clzoo.evaluation.subject import Subject, find_subject
from clzoo.evaluation.transfer import evaluate_transfer
from clzoo.evaluation.view_pairs import view_pairs
from clzoo.hardware import describe_hardware, describe_versions
from clzoo.knn import KNN_INSTDISC, KNN_V1
from clzoo.metrics import THIS_MODEL

log = logging.getLogger("clzoo")

PROTOCOLS = {
    "knn": "weighted k nearest neighbors, k=20, T=0.07 (knn:v1)",
    "knn:instdisc": "the same with k=200, T=0.1",
    "linear": "logistic regression by L-BFGS, penalty chosen on a part of train (linear:v1)",
    "linear:sgd": "linear layer by SGD on augmented images, the papers' protocol; runs the network every epoch",
    "lowshot": "linear:v1 from 1, 2, 4, ... images a class, five draws (lowshot:v1)",
    "transfer": "linear:v1 on a list of data sets, and the means over them (transfer:v1)",
    "imbalanced": "k-NN and linear probes on long-tailed subsets of train",
    "collapse": "singular values, effective rank, alignment, uniformity",
    "relations": "which classes are near each other, against a taxonomy",
    "finetune": "the whole network, short schedule; trains the network",
}
"""What `protocols` may name."""

_LONG = ("linear:sgd", "finetune")  # they run the network every epoch

_ALIASES = {"knn:v1": "knn", "linear:v1": "linear"}


@dataclass
class Evaluation:
    """What was measured.

    Attributes:
        metrics: content of metrics.json: model, data, results (rows of clzoo.zoo.cards.render_card), details by
            protocol, hardware, versions, minutes.
        arrays: larger ones for the report, by name: what was predicted (clzoo.evaluation.mistakes), "test_labels" (N,)
            and "test_rows" (N,), the images that were tested on.
        test_images: the test split, for the report's thumbnails.
    """

    metrics: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    test_images: Images | None = field(default=None, repr=False, compare=False)

    @property
    def results(self) -> list[dict[str, Any]]:
        """One row a number."""
        rows: list[dict[str, Any]] = self.metrics["results"]
        return rows

    def value(self, protocol: str, metric: str = "top-1") -> float:
        """The value of a metric of the first protocol whose id starts with `protocol`.

        Raises:
            ClzooError: there is none.
        """
        for row in self.results:
            if row["protocol"].startswith(protocol) and row["metric"] == metric:
                return float(row["value"])
        known = ", ".join(sorted({f"{row['protocol']} {row['metric']}" for row in self.results}))
        raise ClzooError(f"nothing was measured by {protocol} as {metric}; there is {known}.")

    def write(self, folder: str | Path) -> Path:
        """Write metrics.json, arrays.npz, plots/*.png and report.html into a folder; returns it."""
        from clzoo.evaluation.report import write_evaluation

        return write_evaluation(self, Path(folder))


def evaluate(
    model: Encoder | Subject | str | Path,
    data: DataSource,
    protocols: str | Sequence[str] = ("knn", "linear"),
    *,
    seeds: int = 1,
    title: str | None = None,
    taxonomy: str | Path | None = None,
    settings: Sequence[str] = (),
    controls: bool = False,
    leaks: str | Path | None = None,
    device: str = "auto",
    cache_dir: str | Path | None = None,
) -> Evaluation:
    """Judge an encoder on a labelled data set.

    Args:
        model: an Encoder, what `clzoo.load` takes, or a run folder (its newest checkpoint).
        data: a source with train and test splits (see docs/data.md), or both by name; of one without splits, such as a
            folder of classes, a fifth is drawn to be tested on (clzoo.data.drawn).
        protocols: names of PROTOCOLS, as a sequence or separated by commas.
        seeds: how many seeds, 0 to N - 1; what is drawn (validation splits, subsets, training) is drawn with each, and
            results are mean and standard deviation. What draws nothing is measured once.
        title: what to call the data; default the name of its folder.
        taxonomy: file of `class,parent` for "relations", or a shipped one's name; default the shipped one that covers
            the classes.
        settings: overrides such as "linear_sgd.lr=10" or "finetune.epochs=5".
        controls: also judge the same network untrained (by each seed) and the raw pixels by k-NN, and the first by
            "linear", where these are asked for: results whose "of" is not the model.
        leaks: certificate of `clzoo curate leaks` of both splits: everything is also measured without the leaked test
            images, as results whose "split" says so; of "transfer" what it says of `data` alone.
        device: where to load a model that is given by name; probes run where the encoder is.
        cache_dir: of the features, instead of clzoo's cache.

    Raises:
        ClzooError: an unknown protocol, a taxonomy or controls that none of them takes, a split without labels, classes
            that differ between train and test, a test split drawn from images whose labels the model was pretrained
            with, or what a protocol refuses (see there).
    """
    names = parse_protocols(protocols)
    if seeds < 1:
        raise ClzooError(f"seeds must be at least 1, found {seeds}.")
    changes = tables_of(settings, names)
    _require_use(names, taxonomy, controls)
    started = time.monotonic()
    subject = find_subject(model, device)
    size = subject.encoder.config.preprocessing.size
    train, test = splits_to_judge(data, cache_dir=cache_dir)
    seen = test.drawn is not None and saw_in_pretraining(subject, train, test)
    called = checked_title(title, data, train, test)
    job = _Job(
        subject,
        train,
        test,
        tuple(range(seeds)),
        taxonomy,
        LinearSGD.for_size(size, linear_sgd_changes(subject, changes.get("linear_sgd"))),
        Finetune.for_size(size, changes.get("finetune")),
        subsets_of(changes.get("imbalanced", {})),
        one_setting(changes, "lowshot", "images", int),
        [(called, data), *further_sets(changes)],
        seen,
        cache_dir,
    )
    certificate = None if leaks is None else certificate_for(leaks, subject.encoder.weights_sha256)
    fewer = None if certificate is None else job.without(certificate)
    outcomes: dict[str, Outcome] = {}
    without: dict[str, Outcome] = {}
    wanted = list(dict.fromkeys(name.partition(":")[0] if name.startswith("knn") else name for name in names))
    # Last what takes hours: what another protocol refuses is then refused before them.
    for name in sorted(wanted, key=_LONG.__contains__):
        log.info("%s on %s", name, job.train_images.origin)
        outcomes[name] = _measure(name, names, job)
        if fewer is None:
            continue
        if name == "relations" and len(fewer.test.labels.unique()) < len(job.test.labels.unique()):
            log.warning("relations are measured with the leaked images alone: without them a class has none left")
            continue
        without[name] = _measure(name, names, fewer)
    outcomes, without = ({name: each[name] for name in wanted if name in each} for each in (outcomes, without))
    found = []
    if controls:
        log.info("the untrained network and the raw pixels on %s", train.origin)
        found = measure_controls(subject.encoder, train, test, names, seeds=job.seeds, cache_dir=cache_dir)
    evaluation = _evaluation(job, outcomes, found, called, (time.monotonic() - started) / 60)
    if certificate is not None and fewer is not None:
        images = len(fewer.test)
        for result in (result for outcome in without.values() for result in outcome.results):
            if result.dataset not in (None, called):  # of "transfer": nobody looked for leaks in another set
                continue
            row = dataclasses.replace(result, split=WITHOUT).to_json(called, THIS_MODEL, images)
            evaluation.metrics["results"].append(row)
        removed = len(job.test) - images
        evaluation.metrics["details"]["leaks"] = details_of(certificate, removed, without.items())
    return evaluation


def parse_protocols(protocols: str | Sequence[str]) -> list[str]:
    """Names of PROTOCOLS, each once, in the order given.

    Raises:
        ClzooError: an unknown one; lists the known.
    """
    wanted = protocols.split(",") if isinstance(protocols, str) else list(protocols)
    names = [_ALIASES.get(name.strip(), name.strip()) for name in wanted]
    for name in names:
        if name not in PROTOCOLS:
            raise ClzooError(f"there is no protocol {name!r}; expected some of {', '.join(PROTOCOLS)}.")
    return list(dict.fromkeys(names))


@dataclass
class _Job:
    """Everything that the protocols of one evaluation share."""

    subject: Subject
    train_images: Collection
    test_images: Collection
    seeds: tuple[int, ...]
    taxonomy: str | Path | None
    linear_sgd: LinearSGD
    finetune: Finetune
    subsets: dict[str, Any]
    shots: list[int] | None
    sets: list[tuple[str, DataSource]]  # of "transfer": title and source; the first is the evaluation's own
    seen: bool  # whether the test split was drawn from images of the pretraining
    cache_dir: str | Path | None

    @cached_property
    def train(self) -> Features:
        return extract(self.subject.encoder, self.train_images, cache_dir=self.cache_dir)

    @cached_property
    def test(self) -> Features:
        return extract(self.subject.encoder, self.test_images, cache_dir=self.cache_dir)

    def features_of_sets(self) -> Iterator[tuple[str, Features, Features, bool]]:
        """Title, train and test features of each set of "transfer", and whether it was seen in pretraining.

        Raises:
            ClzooError: a test split drawn from images whose labels the model was pretrained with.
        """
        yield self.sets[0][0], self.train, self.test, self.seen
        further = [(title, splits_to_judge(data, cache_dir=self.cache_dir)) for title, data in self.sets[1:]]
        seen = [parts[1].drawn is not None and saw_in_pretraining(self.subject, *parts) for _, parts in further]
        for (title, parts), was_seen in zip(further, seen, strict=True):
            train, test = (extract(self.subject.encoder, part, cache_dir=self.cache_dir) for part in parts)
            yield title, train, test, was_seen

    def without(self, certificate: dict[str, Any]) -> _Job:
        """The same without the test images that a certificate calls leaked."""
        kept = kept_rows(certificate, (self.train_images, self.train), (self.test_images, self.test), self.cache_dir)
        images, features = chosen_images(self.test_images, self.test, kept)
        fewer = dataclasses.replace(self, test_images=images)
        fewer.__dict__.update(train=self.train, test=features)  # what the properties would extract again
        return fewer

    def held(self, images: Collection) -> TrainingSet:
        """The images themselves, for what runs the network every epoch."""
        size = self.subject.encoder.config.preprocessing.resize
        return training_set_of(images, np.arange(len(images.images)), size)


def _measure(name: str, names: list[str], job: _Job) -> Outcome:
    encoder, seeds = job.subject.encoder, job.seeds
    device = encoder.device
    if name == "knn":
        wanted = [knn for protocol, knn in (("knn", KNN_V1), ("knn:instdisc", KNN_INSTDISC)) if protocol in names]
        return evaluate_knn(job.train, job.test, protocols=wanted, device=device)
    if name == "linear":
        return evaluate_linear(job.train, job.test, seeds=seeds, device=device)
    if name == "lowshot":
        return evaluate_lowshot(job.train, job.test, device=device, shots=job.shots)
    if name == "transfer":
        return evaluate_transfer(job.features_of_sets(), seeds=seeds, device=device)
    if name == "imbalanced":
        return evaluate_imbalanced(
            job.train,
            job.test,
            seeds=seeds,
            device=device,
            pretrained_on=pretrained_subset(job.subject, job.train),
            **job.subsets,
        )
    if name == "collapse":
        pairs = view_pairs(encoder, job.test_images)
        return evaluate_collapse(job.test, projector=job.subject.projector, pairs=pairs, device=device)
    if name == "relations":
        gates, classes = job.subject.gates(), job.subject.classes
        return evaluate_relations(job.test, filter=gates, filter_classes=classes, taxonomy=job.taxonomy, seeds=seeds)
    train, test = job.held(job.train_images), job.held(job.test_images)
    if name == "linear:sgd":
        return evaluate_linear_sgd(encoder, train, test, seeds=seeds, settings=job.linear_sgd)
    return evaluate_finetune(encoder, train, test, seeds=seeds, settings=job.finetune)


def _require_use(names: list[str], taxonomy: str | Path | None, controls: bool) -> None:
    """Refuse what was asked for and no protocol would look at."""
    asked = ",".join(names)
    if taxonomy is not None and "relations" not in names:
        raise ClzooError(f"--taxonomy {taxonomy} is of relations, which is not asked for: --protocol {asked},relations")
    if controls and not set(names) & set(CONTROLLED):
        raise ClzooError(
            f"--controls are measured by {', '.join(CONTROLLED)}, none of which is asked for. Add one, such as "
            f"--protocol {asked},knn, or leave out --controls."
        )


def _evaluation(
    job: _Job, outcomes: dict[str, Outcome], controls: list[tuple[str, Result]], title: str, minutes: float
) -> Evaluation:
    encoder = job.subject.encoder
    count = len(job.test.labels)
    results = [(THIS_MODEL, result) for outcome in outcomes.values() for result in outcome.results]
    split = split_name(job.test.fingerprint, job.seen)
    rows = [
        result.to_json(title, of, count) | ({"split": split} if result.dataset is None else {})
        for of, result in [*results, *controls]
    ]
    metrics = {
        "model": {
            "name": job.subject.title,
            "backbone": encoder.config.backbone,
            "dim": encoder.dim,
            "weights_sha256": encoder.weights_sha256,
            "preprocessing": encoder.config.preprocessing.to_json(),
        },
        "data": {
            "title": title,
            "classes": list(job.train_images.classes),
            "class_titles": class_titles(job.train_images.classes, job.train_images.origin),
            "train": {**_source_of(job.train_images), **job.train.fingerprint},
            "test": {**_source_of(job.test_images), **job.test.fingerprint},
            **({} if job.test_images.drawn is None else {"split": {**RECORD, "seen_in_pretraining": job.seen}}),
        },
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "seeds": list(job.seeds),
        "results": rows,
        "details": {name: outcome.details for name, outcome in outcomes.items()},
        "minutes": round(minutes, 2),
        "hardware": describe_hardware(str(encoder.device)),
        "versions": describe_versions(),
    }
    arrays = {name: array for outcome in outcomes.values() for name, array in outcome.arrays.items()}
    arrays["test_labels"] = job.test.labels.numpy().astype(np.int32)
    if job.test.rows is not None:
        arrays["test_rows"] = job.test.rows
    return Evaluation(metrics, arrays, job.test_images.images)


def _source_of(images: Collection) -> dict[str, Any]:
    """Where a split lies, and what else is there, by kind."""
    return {"origin": images.origin, "passed_over": dict(images.passed_over)}
