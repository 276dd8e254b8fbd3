"""What an encoder makes of held-out images: an outcome for each image by each measure, with labels and without.

The same functions before and after, and for every control; which of two is better is the verdict's to say.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from clzoo.data.collection import ChosenImages, Collection
from clzoo.encoder import Encoder
from clzoo.evaluation.collapse import alignment_uniformity, spectrum
from clzoo.evaluation.copies import evaluate_copies
from clzoo.evaluation.features import Features, extract
from clzoo.evaluation.imbalanced import kept_counts
from clzoo.evaluation.linear import PENALTIES, check_splits, fit_softmax, linear_scores
from clzoo.evaluation.lowshot import draw
from clzoo.evaluation.mistakes import predicted_classes
from clzoo.evaluation.view_pairs import view_pairs
from clzoo.knn import KNN_V1, vote
from clzoo.losses.embeddings import unit
from clzoo.neighbors import nearest

KNN, LINEAR = "k-NN", "linear"
COPIES, ALIGNMENT, STABILITY = "copies found", "alignment", "neighbor stability"
UNIFORMITY, RANK = "uniformity", "effective rank"

LABEL_FREE = (COPIES, ALIGNMENT, STABILITY, UNIFORMITY, RANK)
"""Measures without labels; the first three have an outcome for each image."""

PREDICTIVE: tuple[str, ...] = ()
"""Label-free measures that were shown to predict accuracy (studies/adapt.py, docs/adapt.md), the best first."""

NOT_SHOWN = "without labels nothing here was shown to predict accuracy"

_FEW = 8  # labels a class of the probe with few labels
_DRAWS = (0, 1, 2)
_BALANCED = 0.5  # of the images of the largest class, below which the smallest makes a set imbalanced (our choice)
_NEIGHBORS = 10
_BANK = 10_000  # images among which neighbors are looked for

Outcomes = dict[str, np.ndarray]


def part(whole: Collection, rows: np.ndarray) -> Collection:
    """Some images of a collection, with their labels."""
    labels = None if whole.labels is None else whole.labels[rows]
    images = ChosenImages(whole.images, rows)
    return dataclasses.replace(whole, images=images, labels=labels, failures=(), listing=None, passed_over={})


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(np.int64))]


def knn_outcomes(
    encoder: Encoder, train: Collection, held: Collection, *, cache_dir: str | Path | None = None
) -> np.ndarray:
    """(N,) which held-out images knn:v1 gets right, with `train` as the bank."""
    bank, queries = (extract(encoder, images, cache_dir=cache_dir) for images in (train, held))
    return right_by_knn(bank, check_splits(bank, queries), encoder.device)


def outcomes_with_labels(
    encoder: Encoder, train: Collection, held: Collection, *, cache_dir: str | Path | None = None
) -> Outcomes:
    """Of each measure the outcome of each held-out image, (N,): 1 where it is got right, a share over several draws.

    Of imbalanced images also outcomes weighted so that every class counts the same; their mean is balanced accuracy.

    Raises:
        ClzooError: fewer than two classes, or fewer images than k-NN's k.
    """
    bank, queries = (extract(encoder, images, cache_dir=cache_dir) for images in (train, held))
    queries, device = check_splits(bank, queries), encoder.device
    found = {KNN: right_by_knn(bank, queries, device)}
    found[LINEAR] = _right(linear_scores(bank, queries, seed=0, loss="plain", device=device).scores, queries)
    counts = [count for count in kept_counts(bank) if count]
    few = min(_FEW, max(counts))
    found[f"{LINEAR}, {few} labels a class"] = np.mean([_few_shot(bank, queries, few, s, device) for s in _DRAWS], 0)
    if min(counts) < _BALANCED * max(counts):
        alike = _class_weights(queries)
        adjusted = linear_scores(bank, queries, seed=0, loss="logit-adjusted", device=device, balanced_choice=True)
        found[f"{KNN}, classes alike"] = alike * found[KNN]
        found[f"{LINEAR} (logit-adjusted), classes alike"] = alike * _right(adjusted.scores, queries)
    return found


def outcomes_without_labels(
    encoder: Encoder, train: Collection, held: Collection, *, cache_dir: str | Path | None = None
) -> tuple[Outcomes, dict[str, float]]:
    """Outcomes of images by the measures that have them, the higher the better, and the value of every measure.

    - copies found: the share of an image's five altered copies that find it among all images (copies:v1).
    - alignment: minus the squared distance of the unit features of two views.
    - neighbor stability: the share of the 10 nearest training images that two views have in common.
    - uniformity, effective rank: of the held-out features as a whole (collapse:v1).
    """
    bank, own = (extract(encoder, images, needs_labels=False, cache_dir=cache_dir) for images in (train, held))
    both = _joined(own, bank, len(held))
    found = evaluate_copies(encoder, both, _images_of_both(held, train), among_first=len(own)).arrays["copies_found"]
    first, second = view_pairs(encoder, held)  # (M, D)
    some = bank.x[torch.from_numpy(spread(np.arange(len(bank)), _BANK))]
    k = min(_NEIGHBORS, len(some))
    near = [nearest(some, view, k, device=encoder.device)[1].cpu() for view in (first, second)]  # (M, k)
    common = (near[0][:, :, None] == near[1][:, None, :]).any(dim=2).double().mean(dim=1)
    apart = (unit(first) - unit(second)).square().sum(dim=1).double()
    outcomes = {COPIES: found, ALIGNMENT: -apart.numpy(), STABILITY: common.numpy()}
    values = {name: float(values.mean()) for name, values in outcomes.items()}
    values[UNIFORMITY] = alignment_uniformity(own.x, own.x)[1]
    values[RANK] = spectrum(own.x).effective_rank
    return outcomes, values


def _images_of_both(first: Collection, second: Collection) -> ChosenImages:
    """The images of two parts of one collection, the second after the first."""
    assert isinstance(first.images, ChosenImages)
    assert isinstance(second.images, ChosenImages)
    return ChosenImages(first.images.images, np.concatenate([first.images.rows, second.images.rows]))


def _joined(first: Features, second: Features, images_of_first: int) -> Features:
    assert first.rows is not None
    assert second.rows is not None
    x, labels = torch.cat([first.x, second.x]), torch.cat([first.labels, second.labels])
    rows = np.concatenate([first.rows, second.rows + images_of_first])
    return Features(x, labels, first.classes, first.origin, {}, rows)


def _right(scores: torch.Tensor, queries: Features) -> np.ndarray:
    right: np.ndarray = predicted_classes(scores) == queries.labels.numpy()
    return right


def right_by_knn(bank: Features, queries: Features, device: torch.device) -> np.ndarray:
    """(N,) which queries k-NN gets right: knn:v1, with the whole of a bank that is smaller than its k."""
    k = min(KNN_V1.k, len(bank))
    similarity, rows = nearest(bank.x, queries.x, k, device=device)
    scores = vote(similarity, bank.labels[rows], len(bank.classes), k=k, temperature=KNN_V1.temperature)
    return _right(scores, queries)


def _few_shot(bank: Features, queries: Features, count: int, seed: int, device: torch.device) -> np.ndarray:
    few = draw(bank, count, seed)
    if count > 1:
        return _right(linear_scores(few, queries, seed=seed, loss="plain", device=device).scores, queries)
    fitted = fit_softmax(few.x.to(device), few.labels, len(few.classes), penalty=PENALTIES[0], device=device)
    return _right(fitted.scores(queries.x).cpu(), queries)


def _class_weights(queries: Features) -> np.ndarray:
    """(N,) so that the mean of weighted outcomes is the mean over classes."""
    counts = torch.bincount(queries.labels, minlength=len(queries.classes)).double()
    weights = len(queries) / ((counts > 0).sum() * counts[queries.labels])
    return weights.numpy()
