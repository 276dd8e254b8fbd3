"""What is measured without labels: how the features spread, and whether altered copies find their images."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.data.collection import ChosenImages, Collection
from clzoo.data.training import TrainingSet
from clzoo.evaluation.collapse import evaluate_collapse
from clzoo.evaluation.controls import UNTRAINED, untrained_encoder
from clzoo.evaluation.copies import evaluate_copies
from clzoo.evaluation.features import extract
from clzoo.evaluation.subject import Subject
from clzoo.evaluation.view_pairs import view_pairs
from clzoo.hardware import describe_hardware, describe_versions
from clzoo.metrics import THIS_MODEL

log = logging.getLogger("clzoo")

IMAGES = 5000
"""Images, evenly spaced over the set, that are looked at (our choice)."""


def evaluate_without_labels(
    subject: Subject, trained_on: TrainingSet, title: str, *, cache_dir: str | Path | None = None
) -> dict[str, Any]:
    """Collapse and planted copies of an encoder on images that it was trained on; labels are not looked at.

    The copies are looked for by the same network untrained too, of seed 0. Rows call the data by `title` and counts.

    Returns:
        As `Evaluation.metrics`: model, data, results, details, hardware, versions; "labels" is False.

    Raises:
        ClzooError: fewer than two images that can be read.
    """
    encoder = subject.encoder
    images = _some(trained_on)
    looked_at, all_of_them = len(images.images), len(trained_on)
    called = f"{title} ({f'{looked_at:,} of ' if looked_at < all_of_them else ''}{all_of_them:,} images)"
    log.info("collapse and planted copies on %s", called)
    bank = extract(encoder, images, needs_labels=False, cache_dir=cache_dir)
    pairs = view_pairs(encoder, images)
    outcomes = {
        "collapse": evaluate_collapse(bank, projector=subject.projector, pairs=pairs, device=encoder.device),
        "copies": evaluate_copies(encoder, bank, images.images),
    }
    untrained = untrained_encoder(encoder.config, 0, images, encoder.device)
    control = evaluate_copies(
        untrained, extract(untrained, images, needs_labels=False, cache_dir=cache_dir), images.images
    )
    rows = [result.to_json(called, THIS_MODEL) for outcome in outcomes.values() for result in outcome.results]
    rows += [{**control.results[0].to_json(called, UNTRAINED), "seeds": [0]}]
    return {
        "labels": False,
        "model": {"backbone": encoder.config.backbone, "dim": encoder.dim, "weights_sha256": encoder.weights_sha256},
        "data": {"title": called, "train": {"origin": images.origin, **bank.fingerprint, "of": all_of_them}},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "results": [{**row, "split": "train"} for row in rows],
        "details": {name: outcome.details for name, outcome in outcomes.items()},
        "hardware": describe_hardware(str(encoder.device)),
        "versions": describe_versions(),
    }


def _some(trained_on: TrainingSet) -> Collection:
    count = len(trained_on)
    chosen = np.unique(np.linspace(0, count - 1, min(count, IMAGES)).round().astype(np.int64))
    return Collection(trained_on.origin, ChosenImages(trained_on.images, trained_on.rows[chosen]))
