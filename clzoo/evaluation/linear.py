"""Linear classification of frozen features: softmax regression by L-BFGS, its penalty chosen on a part of train.

Protocol linear:v1. Features are standardised per dimension by the mean and standard deviation of the train split; a
dimension that does not vary is left at zero. Minimised is

    mean cross-entropy + penalty / 2 |W|^2        (the bias is not penalised)

for five penalties, each started from the solution of the stronger one. A tenth of each class, drawn by the seed, is
left out and chooses the penalty by its accuracy (ties: the stronger); then the whole train split is fitted with it.
Reported is the last iterate; test labels are used for nothing but the report.

clzoo.evaluation.softmax says how it is minimised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from clzoo.data.classes import with_classes_of
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.mistakes import predicted_classes, predictions_name
from clzoo.evaluation.results import Outcome, Result
from clzoo.evaluation.scores import accuracy_of
from clzoo.evaluation.softmax import Softmax, Standardization, fit_softmax, second_moments

__all__ = [
    "LINEAR_V1",
    "PENALTIES",
    "LinearFit",
    "Loss",
    "Softmax",
    "Standardization",
    "check_splits",
    "evaluate_linear",
    "fit_softmax",
    "linear_scores",
    "loss_terms",
    "validation_rows",
]

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Strong to weak, our choice: on our CIFAR-10 features 500 images prefer the first and 50,000 the fourth."""

LINEAR_V1 = "linear:v1(lbfgs,standardized,l2=1e-5..1e-1 x5,val=10%)"

_BLOCK_ROWS = 4096  # of features that are looked at or copied at a time

Loss = Literal["plain", "class-balanced", "logit-adjusted"]


@dataclass(frozen=True)
class LinearFit:
    """The probe of one seed.

    Attributes:
        scores: (Q, C) of the test set, on the CPU.
        penalty: the chosen one.
        sweep: (penalty, validation accuracy in percent), from the strongest.
    """

    scores: torch.Tensor
    penalty: float
    sweep: list[tuple[float, float]]


def evaluate_linear(train: Features, test: Features, *, seeds: tuple[int, ...], device: torch.device) -> Outcome:
    """Top-1, top-5 and per-class accuracy of linear:v1; a seed draws the validation split.

    Raises:
        ClzooError: classes that differ, fewer than two, a class with one image or with test images alone, features
            that are not finite.
    """
    test = check_splits(train, test)
    for name, images, tested in zip(train.classes, _counts(train), _counts(test), strict=True):
        if images == 1 or (images == 0 and tested > 0):
            raise ClzooError(
                f"class {name!r} has {images} image{'s' * (images == 0)} in {train.origin}; linear:v1 needs 2 or more, "
                "to fit and to choose the penalty. Add images, remove the class from both splits, or use "
                "--protocol knn."
            )
    fits = [linear_scores(train, test, seed=seed, loss="plain", device=device) for seed in seeds]
    accuracies = [accuracy_of(fit.scores, test.labels) for fit in fits]
    results = [Result.over_seeds(LINEAR_V1, "top-1", [accuracy.top1 for accuracy in accuracies], seeds)]
    top5 = [accuracy.top5 for accuracy in accuracies if accuracy.top5 is not None]
    if top5:
        results.append(Result.over_seeds(LINEAR_V1, "top-5", top5, seeds))
    sweep = [{"penalty": penalty, "validation": round(accuracy, 4)} for penalty, accuracy in fits[0].sweep]
    details: dict[str, Any] = {"protocol": LINEAR_V1, "penalty": fits[0].penalty, "sweep": sweep}
    arrays = {predictions_name(LINEAR_V1): predicted_classes(fits[0].scores)}
    return Outcome(results, {**details, **accuracies[0].to_json()}, arrays)


def check_splits(train: Features, test: Features) -> Features:
    """`test` with its labels counted in the classes of `train`; refuses what no classifier can be fitted and tested on.

    Raises:
        ClzooError: classes that differ, fewer than two with images, features that are not finite.
    """
    test = with_classes_of(train, test)
    if (found := sum(count > 0 for count in _counts(train))) < 2:
        raise ClzooError(
            f"{train.origin} has images of {found} class{'es' * (found == 0)}; a classifier needs at least 2. "
            "Name a folder with a sub-folder per class."
        )
    for split in (train, test):
        if not all(torch.isfinite(block).all() for block in split.x.split(_BLOCK_ROWS)):
            raise ClzooError(
                f"features of {split.origin} are not finite (NaN or infinity): the encoder is broken. "
                "Type: clzoo verify NAME"
            )
    return test


def linear_scores(
    train: Features, test: Features, *, seed: int, loss: Loss, device: torch.device, balanced_choice: bool = False
) -> LinearFit:
    """Choose the penalty on a tenth of `train`, fit the whole of it, score the features of `test`.

    Args:
        seed: draws the validation split.
        loss: see `loss_terms`.
        balanced_choice: choose by the mean of the class accuracies, over the classes that have validation images,
            instead of by the accuracy over images.

    Raises:
        ClzooError: no class has the two images that a validation split takes.
    """
    held_out = torch.from_numpy(validation_rows(train.labels.numpy(), seed))
    if len(held_out) == 0:
        raise ClzooError(f"no class of {train.origin} has 2 images, one to fit and one to choose the penalty.")
    x = _held(train.x, device)
    standardization = Standardization.of(x, device=device)
    whole = torch.ones(len(train), dtype=torch.bool)
    moments = second_moments(
        x, loss_terms(train.labels, len(train.classes), whole, loss)[0], standardization, device=device
    )

    def fit(fitted: torch.Tensor, penalty: float, start: Softmax | None) -> Softmax:
        weights, offset = loss_terms(train.labels, len(train.classes), fitted, loss)
        return fit_softmax(
            x, train.labels, len(train.classes), penalty=penalty, weights=weights, offset=offset, start=start,
            standardization=standardization, moments=moments, device=device,
        )  # fmt: skip

    rest = whole.index_fill(0, held_out, False)
    path: list[Softmax] = []
    sweep: list[tuple[float, float]] = []
    for penalty in PENALTIES:
        path.append(fit(rest, penalty, path[-1] if path else None))
        scores = torch.cat([path[-1].scores(x[rows]) for rows in held_out.to(x.device).split(_BLOCK_ROWS)])
        accuracy = accuracy_of(scores.cpu(), train.labels[held_out])
        sweep.append((penalty, accuracy.balanced if balanced_choice else accuracy.top1))
    best = max(range(len(sweep)), key=lambda i: sweep[i][1])  # of equals the first, which is the strongest
    final = fit(whole, PENALTIES[best], path[best])
    return LinearFit(final.scores(test.x).cpu(), PENALTIES[best], sweep)


def validation_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    """Rows that are left out to choose the penalty, sorted: a tenth of each class, at least one image.

    A class with one image stays in training.
    """
    generator = np.random.RandomState(seed)
    parts = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            parts.append(rows[: max(1, (len(rows) + 5) // 10)])  # rounded
    return np.sort(np.concatenate(parts))


def loss_terms(
    labels: torch.Tensor, classes: int, fitted: torch.Tensor, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a kind of loss adds to cross-entropy: weights of the images (N,), and what training adds to scores (C,).

    - "plain": each image of `fitted` (N,) weighs the same.
    - "class-balanced": each class weighs the same, and so does each image within it: inverse class frequency, the
      limit beta -> 1 of Cui et al. 2019 (arXiv 1901.05555, section 3.3).
    - "logit-adjusted": the log of the class shares is added in training and not in prediction: Menon et al. 2021
      (arXiv 2007.07314, eq. 10) with tau = 1. As the bias is free, it is the plain classifier with them subtracted.
    """
    counts = torch.bincount(labels[fitted], minlength=classes)
    weights = fitted.double()
    if loss == "class-balanced":
        return weights / counts.clamp(min=1)[labels], None
    if loss == "logit-adjusted":
        return weights, (counts / counts.sum()).log()
    return weights, None


def _held(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The features on the GPU, where they take at most half of its free memory; else blocks are moved at each step."""
    if device.type == "cuda" and x.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return x.to(device)
    return x


def _counts(features: Features) -> list[int]:
    counts: list[int] = torch.bincount(features.labels, minlength=len(features.classes)).tolist()
    return counts
