"""Linear classification from few labelled images of each class.

Protocol lowshot:v1(n=N,...). Of each class of the train split N images are drawn, linear:v1 is fitted to them, and the
whole test split is scored; five draws, each of which holds the smaller sets of the same draw. With one image a class
nothing is left to choose the penalty by: it is then the strongest (our choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.linear import PENALTIES, check_splits, fit_softmax, linear_scores
from clzoo.evaluation.results import Outcome, Result
from clzoo.evaluation.scores import accuracy_of

SHOTS = (1, 2, 4, 8, 16, 32, 64)
DRAWS = (0, 1, 2, 3, 4)


def evaluate_lowshot(
    train: Features, test: Features, *, device: torch.device, shots: Sequence[int] | None = None
) -> Outcome:
    """Top-1 accuracy from so many images a class, mean and standard deviation over five draws.

    Args:
        shots: images a class; default those of SHOTS that every class has.

    Raises:
        ClzooError: a class with fewer images, and what `check_splits` refuses.
    """
    test = check_splits(train, test)
    counts = torch.bincount(train.labels, minlength=len(train.classes))
    is_absent = (counts == 0) & (torch.bincount(test.labels, minlength=len(counts)) == 0)  # a class of neither split
    counts[is_absent] = counts.max()
    fewest = int(counts.min())
    name = train.classes[int(counts.argmin())]
    shots = [n for n in SHOTS if n <= fewest] if shots is None else shots
    if shots and min(shots) < 1:
        raise ClzooError(f"lowshot takes at least 1 image of each class, found {min(shots)} in lowshot.images={shots}.")
    if not shots or max(shots) > fewest:
        usable = ",".join(str(n) for n in SHOTS if n <= fewest)
        remedy = f"Type: --set lowshot.images=[{usable}]; or add images." if usable else "Add images of it."
        raise ClzooError(
            f"class {name!r} has {fewest} image{'s' * (fewest != 1)} in {train.origin}; lowshot takes "
            f"{max(shots, default=1)} of each. {remedy}"
        )
    results, details = [], []
    for n in shots:
        top1 = [_accuracy(draw(train, n, seed), test, n, seed, device) for seed in DRAWS]
        results.append(Result.over_seeds(protocol_id(n), "top-1", top1, DRAWS))
        details.append({"images": n, "top1": [round(value, 4) for value in top1]})
    return Outcome(results, {"shots": details})


def protocol_id(n: int) -> str:
    """The id for n images a class."""
    penalty = f"l2={PENALTIES[0]:g}" if n == 1 else "linear:v1"
    return f"lowshot:v1(n={n},{penalty},draws={len(DRAWS)})"


def draw(train: Features, n: int, seed: int) -> Features:
    """n images of each class; those of a smaller n are among them."""
    labels = train.labels.numpy()
    generator = np.random.RandomState(seed)
    chosen = [generator.permutation(np.flatnonzero(labels == label))[:n] for label in range(len(train.classes))]
    rows = torch.from_numpy(np.sort(np.concatenate(chosen)))
    fingerprint: dict[str, Any] = {**train.fingerprint, "lowshot": n, "lowshot_seed": seed}
    return Features(train.x[rows], train.labels[rows], train.classes, train.origin, fingerprint)


def _accuracy(few: Features, test: Features, n: int, seed: int, device: torch.device) -> float:
    if n > 1:
        return accuracy_of(linear_scores(few, test, seed=seed, loss="plain", device=device).scores, test.labels).top1
    fitted = fit_softmax(few.x.to(device), few.labels, len(few.classes), penalty=PENALTIES[0], device=device)
    return accuracy_of(fitted.scores(test.x).cpu(), test.labels).top1
