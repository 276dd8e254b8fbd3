"""Class probabilities of each image from images of other folds: k-NN and linear:v1 on a store's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.linear import linear_scores
from clzoo.knn import KNN_V1, vote
from clzoo.neighbors import nearest
from clzoo.progress import with_progress

FOLDS = 5
METHODS = ("knn", "linear")


@dataclass(frozen=True)
class Labelled:
    """The labelled rows of a store.

    Attributes:
        rows: int64 (M,), in the store.
        labels: int64 (M,), positions in `classes`.
        classes: names, sorted; each has an image.
    """

    rows: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str | None], what: str, remedy: str) -> Labelled:
        """The rows (N,) that have a name; `what` is named in errors, which end with `remedy`.

        Raises:
            ClzooError: fewer than two classes.
        """
        rows = np.array([row for row, name in enumerate(names) if name is not None], np.int64)
        classes = sorted({name for name in names if name is not None})
        if len(classes) < 2:
            raise ClzooError(
                f"{what} has {'no labels' if not classes else f'one class, {classes[0]!r}'}; at least two classes are "
                f"needed. {remedy}"
            )
        place = {name: number for number, name in enumerate(classes)}
        return cls(rows, np.array([place[str(names[row])] for row in rows], np.int64), tuple(classes))


def folds_of(labels: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """The fold (M,) of each image, drawn with seed 0, each class spread evenly over all of them."""
    random = np.random.default_rng(0)
    fold = np.empty(len(labels), np.int64)
    for number in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == number))
        fold[rows] = (np.arange(len(rows)) + random.integers(folds)) % folds
    return fold


def out_of_fold(vectors: np.ndarray, known: Labelled, method: str) -> np.ndarray:
    """Probabilities float32 (M, C) of each labelled image, from the labelled images of the other folds.

    A class with images in one fold alone has probability 0 there. Their sums are 1.

    Args:
        vectors: unit vectors (M, D) of the labelled rows.
        method: "knn" or "linear".
    """
    fold = folds_of(known.labels)
    found = np.empty((len(vectors), len(known.classes)), np.float32)
    numbers = [number for number in range(FOLDS) if (fold == number).any()]
    for number in with_progress(numbers, len(numbers), f"{method} out of fold"):
        mine = fold == number
        if mine.all():
            raise ClzooError("there are too few labelled images to leave some out. Label more.")
        rest = Labelled(known.rows[~mine], known.labels[~mine], known.classes)
        found[mine] = probabilities(vectors[~mine], rest, vectors[mine], method)
    return found


def probabilities(bank: np.ndarray, known: Labelled, queries: np.ndarray, method: str) -> np.ndarray:
    """Probabilities float32 (Q, C) of unit vectors (Q, D) from the labelled ones (M, D).

    k-NN: the votes of knn:v1, k=20 and T=0.07, divided by their sum. Linear: the softmax of linear:v1, whose penalty
    is chosen on a tenth of each class; a fit of features at unit length.
    """
    labels, classes = torch.from_numpy(known.labels), len(known.classes)
    if method == "knn":
        k = min(KNN_V1.k, len(bank))
        similarity, rows = nearest(torch.from_numpy(bank), torch.from_numpy(queries), k)
        votes = vote(similarity, labels[rows], classes, k=k, temperature=KNN_V1.temperature).clamp(min=0)
        return (votes / votes.sum(dim=1, keepdim=True)).float().numpy()
    train = Features(torch.from_numpy(bank), labels, known.classes, "the labelled images", {})
    test = Features(torch.from_numpy(queries), torch.zeros(len(queries), dtype=torch.int64), known.classes, "", {})
    scores = linear_scores(train, test, seed=0, loss="plain", device=torch.device("cpu")).scores
    return scores.softmax(dim=1).float().numpy()
