"""Probes fitted to long-tailed subsets of the labelled train split, and tested on the whole test split.

Protocol imbalanced:v1(SUBSET, PROBE). Subsets are those of clzoo.data.imbalance; seed 0 draws the published ones
(shuffling seed 2021), seed s those of 2021 + s. A train split that is not balanced is one more subset, "as given". Five
probes are fitted to each:

- "knn" is knn:v1; "knn, prior-corrected" divides each class's votes by the class's share of the bank.
- "linear" is linear:v1; "linear, class-balanced" and "linear, logit-adjusted" are the same with the losses of
  `clzoo.evaluation.linear.loss_terms`. The penalty is chosen by the mean of the class accuracies over the classes that
  have validation images, so that rare classes count (our choice); a class with one image stays in training.

That asks how good features are when the *labels* are imbalanced. How much imbalanced *pretraining* hurt is told by
probes of the whole train split, with classes grouped by how many images pretraining had of them: `pretrained_on`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from clzoo.data.imbalance import SEED, class_sizes, imbalanced_rows
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.linear import Loss, check_splits, linear_scores
from clzoo.evaluation.results import Outcome, Result
from clzoo.evaluation.scores import Accuracy, accuracy_of
from clzoo.knn import KNN_V1, vote
from clzoo.neighbors import nearest

SUBSETS = ("linear", "exponential", "longtail-10", "longtail-50", "longtail-100")
AS_GIVEN = "as given"

_BALANCED = 0.9  # of the images of the largest class: a split whose smallest class has them is balanced (our choice)

# Of each probe by its name in metrics.json: the name in the protocol id.
_PROBES = {
    "knn": "knn:v1",
    "knn, prior-corrected": "knn:v1 prior-corrected",
    "linear": "linear:v1",
    "linear, class-balanced": "linear:v1 class-balanced",
    "linear, logit-adjusted": "linear:v1 logit-adjusted",
}
_LOSSES: dict[str, Loss] = {
    "linear": "plain",
    "linear, class-balanced": "class-balanced",
    "linear, logit-adjusted": "logit-adjusted",
}
_UNCORRECTED = ("knn", "linear")

Shots = dict[str, dict[str, float | None]]


def evaluate_imbalanced(
    train: Features,
    test: Features,
    *,
    seeds: tuple[int, ...],
    device: torch.device,
    subsets: Sequence[str] = SUBSETS,
    pretrained_on: tuple[str, Sequence[int] | np.ndarray] | None = None,
) -> Outcome:
    """Balanced accuracy and many-, medium- and few-shot accuracy of probes fitted to imbalanced labels.

    Results are of each subset and probe: "balanced accuracy", and "many-shot", "medium-shot", "few-shot" by thirds.
    Details are means over the seeds, with both conventions.

    Args:
        seeds: draw the images of the subsets and the validation splits.
        subsets: names of `clzoo.data.imbalance.class_sizes`.
        pretrained_on: the subset that the encoder was pretrained on, and how many images of each class it kept: "knn"
            and "linear" are then fitted to the whole train split too, uncorrected, as its labels are balanced.

    Raises:
        ClzooError: a subset that leaves fewer than two classes or fewer images than k-NN's k, classes that differ,
            features that are not finite.
    """
    test = check_splits(train, test)
    counts = kept_counts(train)
    _check_sizes({name: class_sizes(counts, name) for name in subsets}, train.origin)
    tested = kept_counts(test)
    least = min(count for count, images in zip(counts, tested, strict=True) if count or images)
    names = [*subsets, AS_GIVEN] if least < _BALANCED * max(counts) else subsets
    measured = [_measure(name, partial(subset_of, train, name), test, seeds, device) for name in names]
    results = [result for part, _ in measured for result in part]
    details: dict[str, Any] = {"subsets": [part for _, part in measured], "pretrained_on": None}
    if pretrained_on is not None:
        name, kept = pretrained_on[0], [int(count) for count in pretrained_on[1]]
        whole = partial(subset_of, train, AS_GIVEN)
        title = f"whole train, classes by {name} pretraining"
        part, section = _measure(title, whole, test, seeds, device, kept=kept, probes=_UNCORRECTED)
        results += part
        details["pretrained_on"] = {**section, "name": name}
    return Outcome(results, details)


def subset_of(train: Features, name: str, seed: int) -> Features:
    """The images that a subset keeps, copied; seed 0 draws the published ones, and "as given" keeps all.

    Raises:
        ClzooError: no such subset.
    """
    if name == AS_GIVEN:
        return train
    kept = imbalanced_rows(train.labels.numpy(), len(train.classes), name, SEED + seed)
    rows = torch.from_numpy(kept)
    fingerprint = {**train.fingerprint, "subset": name, "subset_seed": SEED + seed}
    return Features(train.x[rows], train.labels[rows], train.classes, f"{name} of {train.origin}", fingerprint)


def kept_counts(features: Features) -> list[int]:
    """How many images there are of each of the C classes."""
    counts: list[int] = torch.bincount(features.labels, minlength=len(features.classes)).tolist()
    return counts


def shots(per_class: np.ndarray, kept: Sequence[int] | np.ndarray) -> Shots:
    """Mean accuracy of the classes with many, a medium number of, and few training images.

    - "counts": many is more than 100 images, medium 20 to 100, few fewer than 20, none included: Liu et al. 2019 (arXiv
      1904.05160, ImageNet-LT).
    - "thirds": of the C classes with test images, C // 3 with the fewest training images are few, the next C // 3
      medium, the rest many: Jiang et al. 2021 (arXiv 2106.02990, CIFAR-LT), 4, 3 and 3 of ten. Of classes with as many
      images the first count as more frequent (our choice).

    Args:
        per_class: (C,) accuracies, NaN for classes without test images, which do not count.
        kept: (C,) training images.

    Returns:
        For each convention the three means, None for a group without classes.
    """
    images = np.asarray(kept)
    order = np.argsort(-images, kind="stable")  # from the most frequent class
    order = order[~np.isnan(per_class[order])]
    third = len(order) // 3
    many, medium = len(order) - 2 * third, len(order) - third
    groups = {
        "counts": {
            "many": np.flatnonzero(images > 100),
            "medium": np.flatnonzero((images >= 20) & (images <= 100)),
            "few": np.flatnonzero(images < 20),
        },
        "thirds": {"many": order[:many], "medium": order[many:medium], "few": order[medium:]},
    }
    return {
        convention: {name: _mean_of(per_class[classes]) for name, classes in parts.items()}
        for convention, parts in groups.items()
    }


def _measure(
    name: str,
    draw: Callable[[int], Features],
    test: Features,
    seeds: tuple[int, ...],
    device: torch.device,
    *,
    kept: list[int] | None = None,
    probes: Sequence[str] = tuple(_PROBES),
) -> tuple[list[Result], dict[str, Any]]:
    """Results and details of the probes fitted to what each seed draws; its counts group the classes, or `kept`."""
    accuracies: dict[str, list[Accuracy]] = {probe: [] for probe in probes}
    last = None
    for seed in seeds:
        bank = draw(seed)
        kept = kept_counts(bank) if kept is None else kept
        # k-NN draws nothing itself: of the same images it is measured once.
        wanted = [probe for probe in probes if probe in _LOSSES or bank is not last]
        for probe, scores in _scores(bank, test, wanted, seed, device):
            accuracies[probe].append(accuracy_of(scores, test.labels))
        last = bank
    assert kept is not None
    results, sections = [], {}
    for probe, each in accuracies.items():
        results += _results(f"imbalanced:v1({name}, {_PROBES[probe]})", each, kept, seeds[: len(each)])
        mean = _mean_accuracy(each)
        sections[probe] = {**mean.to_json(), "shots": _rounded(shots(mean.per_class, kept))}
    return results, {"name": name, "kept": kept, "probes": sections}


def _check_sizes(sizes: dict[str, list[int]], origin: str) -> None:
    """Refuse subsets, by name the images that they keep of each class, that are too small for their probes."""
    small = {name: kept for name, kept in sizes.items() if sum(kept) < KNN_V1.k or sum(n > 0 for n in kept) < 2}
    if not small:
        return
    name, kept = next(iter(small.items()))
    classes = sum(n > 0 for n in kept)
    others = ",".join(name for name in sizes if name not in small)
    advice = f"Choose the others: --set imbalanced.subsets=[{others}]; or give" if others else "Give"
    raise ClzooError(
        f"the subset {name} of {origin} keeps {sum(kept)} images of {classes} class{'es' * (classes != 1)}; its "
        f"probes need at least {KNN_V1.k} ({KNN_V1.id}) of 2. {advice} a train split with more images of each class."
    )


def _scores(
    bank: Features, test: Features, probes: Sequence[str], seed: int, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """(probe, scores (Q, C)) of the test features."""
    classes = len(bank.classes)
    by_votes = [probe for probe in probes if probe not in _LOSSES]
    if by_votes:
        similarity, rows = nearest(bank.x, test.x, KNN_V1.k, device=device)
        share = torch.tensor(kept_counts(bank)) / len(bank)
        for probe in by_votes:
            yield probe, vote(
                similarity, bank.labels[rows], classes, k=KNN_V1.k, temperature=KNN_V1.temperature,
                prior=None if probe == "knn" else share,
            )  # fmt: skip
    for probe in probes:
        if probe in _LOSSES:
            fit = linear_scores(bank, test, seed=seed, loss=_LOSSES[probe], device=device, balanced_choice=True)
            yield probe, fit.scores


def _results(protocol: str, accuracies: list[Accuracy], kept: list[int], seeds: tuple[int, ...]) -> list[Result]:
    """Balanced accuracy, and the thirds that have classes."""
    results = [Result.over_seeds(protocol, "balanced accuracy", [one.balanced for one in accuracies], seeds)]
    thirds = [shots(one.per_class, kept)["thirds"] for one in accuracies]
    for group in thirds[0]:
        values = [value for one in thirds if (value := one[group]) is not None]
        if values:
            results.append(Result.over_seeds(protocol, f"{group}-shot", values, seeds))
    return results


def _mean_accuracy(accuracies: list[Accuracy]) -> Accuracy:
    """Over seeds."""
    top5 = [one.top5 for one in accuracies if one.top5 is not None]
    return Accuracy(
        top1=statistics.mean(one.top1 for one in accuracies),
        top5=statistics.mean(top5) if top5 else None,
        balanced=statistics.mean(one.balanced for one in accuracies),
        per_class=np.mean([one.per_class for one in accuracies], axis=0),
    )


def _mean_of(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _rounded(groups: Shots) -> Shots:
    return {
        convention: {name: None if value is None else round(value, 4) for name, value in parts.items()}
        for convention, parts in groups.items()
    }
