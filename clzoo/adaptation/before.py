"""What is measured before anything is trained: the start encoder, the controls, and the set that nothing should lose.

It is kept beside the plan, with the arguments that it was measured for: a run that goes on with the same ones need not
measure it again, and how long it took tells how much of `--minutes` the verdict has to be left.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.adaptation import clock
from clzoo.adaptation.measures import (
    Outcomes,
    knn_outcomes,
    outcomes_with_labels,
    outcomes_without_labels,
)
from clzoo.data.collection import Collection
from clzoo.data.content import digests
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.evaluation.controls import recalibrated, untrained_encoder
from clzoo.evaluation.opening import splits_to_judge, title_of
from clzoo.files import atomic_path, read_json, write_json

log = logging.getLogger("clzoo")

START, BATCHNORM, ADAPTED, RANDOM = "start encoder", "its BatchNorm statistics alone", "adapted", "random network"

_FILE = "before"
_TIMED = 64  # images

Values = dict[str, float]


@dataclass(frozen=True)
class Before:
    """Outcomes and values by encoder (START, BATCHNORM where it has any, RANDOM); `seconds` one of them takes."""

    outcomes: dict[str, Outcomes]
    values: dict[str, Values]
    seconds: float


@dataclass(frozen=True)
class Elsewhere:
    """A general set, and what the start encoder gets right of it."""

    title: str
    train: Collection
    test: Collection
    outcomes: np.ndarray
    seconds: float

    def trained_on(self, images: Collection) -> int:
        """How many of the images that are judged are among those of another collection."""
        others = {digest.tobytes() for digest in digests(images.images, np.arange(len(images)))}
        return sum(digest.tobytes() in others for digest in digests(self.test.images, np.arange(len(self.test))))

    def after(self, encoder: Encoder) -> np.ndarray:
        """(N,) outcomes of another encoder."""
        return knn_outcomes(encoder, self.train, self.test)


def measure(encoder: Encoder, train: Collection, held: Collection, *, labels: bool) -> tuple[Outcomes, Values]:
    """Outcomes of the held-out images and values of every measure, in percent with labels."""
    if not labels:
        return outcomes_without_labels(encoder, train, held)
    found = outcomes_with_labels(encoder, train, held)
    return found, {name: 100 * float(np.mean(each)) for name, each in found.items()}


def is_measured_for(arguments: dict[str, Any], folder: Path) -> bool:
    """Whether the adaptation that measured, or was measuring, what lies in the folder had these arguments.

    Raises:
        ClzooError: what lies there is damaged.
    """
    path = folder / f"{_FILE}.json"
    return path.is_file() and not differing(read_json(path).get("arguments") or {}, arguments)


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Which arguments of an adaptation are others now; of one start, known by its weights, the path is none."""
    found = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    return found if "weights_sha256" in found else [key for key in found if key != "from"]


def forget(folder: Path) -> None:
    """Remove what was measured before, if anything was."""
    for ending in (".npz", ".json"):  # in this order, since the first makes the second count
        (folder / f"{_FILE}{ending}").unlink(missing_ok=True)


def measure_before(
    encoder: Encoder, train: Collection, held: Collection, folder: Path, arguments: dict[str, Any], *, labels: bool
) -> Before:
    """What lies in the folder of the same arguments, else measured and put there.

    Args:
        arguments: all that the adaptation was asked for, as JSON gives it back.

    Raises:
        ClzooError: what lies there is damaged; what the measures raise.
    """
    path = folder / f"{_FILE}.npz"
    if path.is_file() and is_measured_for(arguments, folder):
        return _read(path)
    forget(folder)
    log.info("measuring before: the start encoder, then the controls, on %d held-out images", len(held))
    began = clock.now()
    measured = {START: measure(encoder, train, held, labels=labels)}
    # Features of the start may have been cached, those of an adapted encoder are not.
    seconds = max(clock.now() - began, seconds_per_image(encoder, train) * (len(train) + len(held)))
    for of, control in _controls(encoder, train):
        measured[of] = measure(control, train, held, labels=labels)
    outcomes = {of: found for of, (found, _) in measured.items()}
    before = Before(outcomes, {of: values for of, (_, values) in measured.items()}, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    names = {of: list(found) for of, found in outcomes.items()}
    told = {"arguments": arguments, "values": before.values, "outcomes": names, "seconds": round(seconds, 2)}
    write_json(folder / f"{_FILE}.json", told)
    arrays = {f"{of}/{name}": each for of, found in outcomes.items() for name, each in found.items()}
    with atomic_path(path) as temporary:  # last: it makes the rest count
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
    return before


def measure_elsewhere(encoder: Encoder, data: str | Path) -> Elsewhere:
    """Open a general set and judge the start encoder on it, so that a set that is none is found at once."""
    began = clock.now()
    try:
        train, test = splits_to_judge(data)
        outcomes = knn_outcomes(encoder, train, test)
    except ClzooError as error:
        raise ClzooError(f"--also-keep: {error} Or leave out --also-keep.") from error
    seconds = max(clock.now() - began, seconds_per_image(encoder, train) * (len(train) + len(test)))
    return Elsewhere(title_of(data), train, test, outcomes, seconds)


def seconds_per_image(encoder: Encoder, images: Collection) -> float:
    """To decode one and run it through, timed on some that can be read."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), _TIMED)).round().astype(np.int64))
    began = clock.now()
    readable = []
    for row in rows:
        try:
            readable.append(images.images.read(int(row)))
        except UnreadableImageError:
            continue
    if readable:
        encoder.embed(readable)
    return (clock.now() - began) / len(rows)


def _controls(encoder: Encoder, train: Collection) -> Iterator[tuple[str, Encoder]]:
    """Named by what they are: the log tells which one is run."""
    if (control := recalibrated(encoder, train)) is not None:
        control.config = dataclasses.replace(control.config, name="the start encoder with other BatchNorm statistics")
        yield BATCHNORM, control
    control = untrained_encoder(encoder.config, 0, train, encoder.device)
    control.config = dataclasses.replace(control.config, name="the random network")
    yield RANDOM, control


def _read(path: Path) -> Before:
    told = read_json(path.with_suffix(".json"))
    with np.load(path, allow_pickle=False) as arrays:
        outcomes = {of: {name: arrays[f"{of}/{name}"] for name in names} for of, names in told["outcomes"].items()}
    return Before(outcomes, told["values"], told["seconds"])
