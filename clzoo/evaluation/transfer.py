"""How well features serve other data sets: linear:v1 on each of a list of labelled sets, and the means over them.

Protocol transfer:v1. The normalised mean is that of what is above chance, 100 (accuracy - 100 / C) / (100 - 100 / C) of
each set, C its number of classes, so that easy guesses do not count (our choice).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

import torch

from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.linear import evaluate_linear
from clzoo.evaluation.results import Outcome, Result, split_name


def evaluate_transfer(
    sets: Iterable[tuple[str, Features, Features, bool]], *, seeds: tuple[int, ...], device: torch.device
) -> Outcome:
    """Top-1 accuracy on each set, its mean, and the normalised mean.

    Args:
        sets: title, train and test features of each, and whether it was seen in pretraining (without labels).

    Raises:
        ClzooError: no set, two of one title, or what linear:v1 refuses of one.
    """
    results: list[Result] = []
    titles: list[str] = []
    top1: list[float] = []
    above_chance: list[float] = []
    details = []
    splits: list[str] = []
    for title, train, test, seen in sets:
        if title in titles:
            raise ClzooError(f"two sets of transfer are called {title!r}; name folders that differ in their last part.")
        outcome = evaluate_linear(train, test, seeds=seeds, device=device)
        accuracy = outcome.results[0]
        chance = 100 / len(train.labels.unique())  # a class that is a name alone is none to be guessed
        titles.append(title)
        splits.append(split_name(test.fingerprint, seen))
        top1.append(accuracy.value)
        above_chance.append(100 * (accuracy.value - chance) / (100 - chance))
        one = f"transfer:v1(linear:v1,{title})"
        results.append(Result(one, "top-1", accuracy.value, accuracy.std, seeds, splits[-1], title, len(test.labels)))
        fingerprints = {"train": train.fingerprint, "test": test.fingerprint}
        details.append({"title": title, "classes": len(train.classes), **fingerprints, **outcome.details})
    if not titles:
        raise ClzooError("transfer needs at least one data set.")
    over = f"transfer:v1(linear:v1,{len(titles)} sets)"
    of_all: dict[str, Any] = {"seeds": seeds, "dataset": ", ".join(titles), "images": 0}
    of_all["split"] = "; ".join(dict.fromkeys(splits))
    results.append(Result(over, "mean top-1", statistics.mean(top1), **of_all))
    results.append(Result(over, "normalised mean", statistics.mean(above_chance), **of_all))
    return Outcome(results, {"sets": details})
