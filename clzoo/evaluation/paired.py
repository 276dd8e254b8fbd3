"""Two encoders on the same test images: paired differences, and the images that only one of them gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clzoo.data.classes import with_classes_of
from clzoo.data.collection import Collection
from clzoo.evaluation.features import Features
from clzoo.evaluation.mistakes import predictions_name, predictions_of
from clzoo.evaluation.report_parts import Dots, class_dots, thumbnail
from clzoo.evaluation.run import Evaluation
from clzoo.neighbors import nearest

DRAWS = 10_000
"""Of the bootstrap."""

CASES = 12
"""Images that only one encoder gets right, half of them for each where there are as many."""

_NEIGHBORS = 5  # training images shown beside each


@dataclass(frozen=True)
class Difference:
    """Accuracy of the first encoder minus that of the second, in points.

    Attributes:
        low, high: 95 % interval of the paired bootstrap over test images.
        only_first, only_second: test images that only one of them gets right.
    """

    protocol: str
    first: float
    second: float
    value: float
    low: float
    high: float
    only_first: int
    only_second: int


@dataclass(frozen=True)
class Side:
    """What one encoder makes of a test image; neighbors are (data URI, label)."""

    model: str
    right: bool
    answer: str
    neighbors: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Case:
    """A test image that only one encoder gets right; the picture is a data URI."""

    picture: str
    truth: str
    sides: Sequence[Side]


def differences(first: Evaluation, second: Evaluation) -> list[Difference]:
    """Of every protocol that kept what it predicted, on the test images that both read."""
    found = []
    for protocol in dict.fromkeys(row["protocol"] for row in first.results):
        predicted = [predictions_of(evaluation.arrays, protocol) for evaluation in (first, second)]
        labels, both = first.arrays["test_labels"], same_images(first, second)
        if both and predicted[0] is not None and predicted[1] is not None:
            found.append(paired_difference(protocol, labels == predicted[0], labels == predicted[1]))
    return found


def same_images(first: Evaluation, second: Evaluation) -> bool:
    """Whether row i of both is the same test image: not where only one of them could not read some."""
    return np.array_equal(first.arrays["test_rows"], second.arrays["test_rows"])


def paired_difference(protocol: str, first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """From which test images (N,) each encoder gets right.

    Drawing N images with replacement draws how many of them only the first, only the second, or both or none get
    right: one multinomial draw, which is what is drawn here.
    """
    only = np.array([(first & ~second).sum(), (second & ~first).sum()])
    shares = np.array([*only, len(first) - only.sum()]) / len(first)
    drawn = np.random.default_rng(seed).multinomial(len(first), shares, size=DRAWS)
    low, high = 100 * np.percentile((drawn[:, 0] - drawn[:, 1]) / len(first), [2.5, 97.5])
    a, b = 100 * float(first.mean()), 100 * float(second.mean())
    return Difference(protocol, a, b, a - b, float(low), float(high), int(only[0]), int(only[1]))


def class_differences(labels: np.ndarray, first: np.ndarray, second: np.ndarray, names: Sequence[str]) -> Dots:
    """Accuracy of each class by the first encoder minus that by the second, in points, sorted.

    Args:
        labels: (N,) of the test images.
        first, second: (N,) which of them each gets right.
        names: of the C classes.
    """
    counts = np.bincount(labels, minlength=len(names))
    gained = np.bincount(labels, weights=first.astype(float) - second, minlength=len(names))
    values = [float(100 * g / c) if c else None for g, c in zip(gained, counts, strict=True)]
    dots = class_dots(values, names)
    reach = max([1.0, *(abs(value) for _, value in dots.lines)])
    return Dots(dots.lines, dots.dropped, -reach, reach)


def disputed(first: np.ndarray, second: np.ndarray, most: int = CASES) -> np.ndarray:
    """Test images that only one gets right, evenly spaced over all such: half only the first, half only the second.

    Where one half has fewer, the other fills up.
    """
    halves = [np.flatnonzero(first & ~second), np.flatnonzero(second & ~first)]
    counts = [
        min(len(half), max(most // 2, most - len(other))) for half, other in zip(halves, halves[::-1], strict=True)
    ]
    return np.concatenate([_spread(half, count) for half, count in zip(halves, counts, strict=True)])


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)] if count else rows[:0]


def cases_of(
    protocol: str,
    models: Sequence[str],
    evaluations: Sequence[Evaluation],
    features: Sequence[tuple[Features, Features]],
    train_images: Collection,
    names: Sequence[str],
) -> list[Case]:
    """Images that only one encoder gets right by a protocol, with the nearest training images by each encoder.

    Args:
        models: the two names.
        features: train and test of each encoder.
        names: what to call each class.
    """
    labels = evaluations[0].arrays["test_labels"]
    predicted = [evaluation.arrays[predictions_name(protocol)] for evaluation in evaluations]
    chosen = disputed(labels == predicted[0], labels == predicted[1])
    if len(chosen) == 0:
        return []
    near = [nearest(train.x, test.x[chosen], min(_NEIGHBORS, len(train)))[1] for train, test in features]
    banks = [with_classes_of(features[0][0], train) for train, _ in features]
    images, rows = evaluations[0].test_images, evaluations[0].arrays["test_rows"]
    assert images is not None  # `evaluate` has just opened them
    cases = []
    for place, position in enumerate(chosen):
        sides = []
        for number, model in enumerate(models):
            bank = banks[number]
            assert bank.rows is not None  # of an extracted split
            shown = [
                (thumbnail(train_images.images, int(bank.rows[row])), names[int(bank.labels[row])])
                for row in near[number][place].tolist()
            ]
            answer = int(predicted[number][position])
            sides.append(Side(model, answer == labels[position], names[answer], shown))
        cases.append(Case(thumbnail(images, int(rows[position])), names[int(labels[position])], sides))
    return cases
