"""Imbalanced subsets of a balanced training set, the same images every time and on every machine.

Pretraining takes them, and the protocol "imbalanced" fits probes to them; all else of evaluation trains on the whole
train split, and no test split is ever thinned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from clzoo.errors import ClzooError

SEED = 2021
"""Of the published subsets (known); each class starts again from it."""

_LONG_TAILED = re.compile(r"longtail-(\d+(?:\.\d+)?)")


def class_sizes(counts: Sequence[int], subset: str) -> list[int]:
    """How many images of each class a subset keeps.

    - "linear" keeps (g + 1) / 10 of class i, g = 10 i // C: 500, 1000, ..., 5000 of CIFAR-10 (known).
    - "exponential" keeps e^(g + 1) / e^10 of it: 0, 1, 4, 12, 33, ..., 5000, classes left empty included (known).
    - "longtail-R" keeps n_max R^(-i / (C - 1)) images, R = 10, 50 or 100 as a rule (CIFAR-LT; our choice).

    Numbers are truncated. For 10 classes g is i, for 100 classes i // 10 (known); the rule between is our choice.

    Args:
        counts: images of each of the C classes, in the order of the class index.
        subset: one of the names above.

    Raises:
        ClzooError: no such subset, or fewer than two classes.
    """
    rule = _rule_of(subset)
    if len(counts) < 2:
        raise ClzooError(f"data.subset {subset!r} thins classes, but the data have {len(counts)}; expected at least 2.")
    return [rule(label, counts) for label in range(len(counts))]


def imbalanced_rows(labels: np.ndarray, classes: int, subset: str, seed: int = SEED) -> np.ndarray:
    """The images that a subset keeps: sorted positions in `labels`, int64.

    Of each class its positions are shuffled by `numpy.random.RandomState(seed)`, started anew for each class, and the
    first ones are kept (known, with 2021).

    Args:
        labels: int64 (N,) in the data set's own order.
        classes: C; labels are below it.
        subset: see `class_sizes`.
        seed: another one keeps as many, but other, images.
    """
    sizes = class_sizes(np.bincount(labels, minlength=classes).tolist(), subset)
    kept = [_shuffled(np.flatnonzero(labels == label), seed)[:size] for label, size in enumerate(sizes)]
    return np.sort(np.concatenate(kept)).astype(np.int64)


def check_subset(subset: str) -> str:
    """Return the name of a subset as it is, for recipes.

    Raises:
        ClzooError: no such subset.
    """
    _rule_of(subset)
    return subset


def _shuffled(positions: np.ndarray, seed: int) -> np.ndarray:
    np.random.RandomState(seed).shuffle(positions)
    return positions


_Rule = Callable[[int, Sequence[int]], int]


def _rule_of(subset: str) -> _Rule:
    if subset == "linear":
        return lambda label, counts: (_group(label, counts) + 1) * counts[label] // 10
    if subset == "exponential":
        return lambda label, counts: int(math.exp(_group(label, counts) + 1) / math.exp(10) * counts[label])
    match = _LONG_TAILED.fullmatch(subset)
    if match is None or (ratio := float(match[1])) < 1:
        raise ClzooError(
            f"data.subset is {subset!r}; expected linear, exponential, or longtail-R with R at least 1, "
            "for example longtail-100."
        )
    return lambda label, counts: min(counts[label], int(max(counts) / ratio ** (label / (len(counts) - 1))))


def _group(label: int, counts: Sequence[int]) -> int:
    return 10 * label // len(counts)
