"""Which test images a protocol got wrong: predictions kept in arrays.npz, intervals, and the most confused classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes and the test images that were taken for the other one.

    Attributes:
        first, second: positions of the classes; `first` was mistaken for `second` at least as often as the reverse.
        there, back: test images (positions in the split's labels) of `first` taken for `second`, and the reverse.
    """

    first: int
    second: int
    there: np.ndarray
    back: np.ndarray


def predicted_classes(scores: torch.Tensor) -> np.ndarray:
    """The class of the highest of scores (N, C), int32 (N,); of equal ones the lower, as `accuracy_of` counts."""
    classes = torch.arange(scores.shape[1], device=scores.device)
    best = torch.where(scores == scores.max(dim=1, keepdim=True).values, classes, scores.shape[1]).min(dim=1).values
    return best.int().cpu().numpy()


def predictions_name(protocol: str) -> str:
    """Under which name arrays.npz holds what a protocol predicted: "predicted_knn_v1" of "knn:v1(k=20,...)"."""
    return "predicted_" + protocol.partition("(")[0].replace(":", "_")


def predictions_of(arrays: Mapping[str, np.ndarray], protocol: str) -> np.ndarray | None:
    """Predicted classes (N,) of the test images by a protocol, where it kept them."""
    return arrays.get(predictions_name(protocol))


def wilson_interval(percent: float, images: int) -> tuple[float, float]:
    """95 % interval of an accuracy (percent) measured on so many images: Wilson 1927, J. Am. Stat. Assoc. 22."""
    share, spread = percent / 100, _Z**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    # At 0 and 100 % the interval ends there, which rounding may miss.
    return max(0.0, min(100 * (middle - half), percent)), min(100.0, max(100 * (middle + half), percent))


def chance(labels: np.ndarray) -> float:
    """Accuracy (percent) of always naming the most frequent class of the test labels (N,)."""
    return 100 * float(np.bincount(labels).max() / len(labels))


def confused_pairs(labels: np.ndarray, predicted: np.ndarray, most: int = 10) -> list[ConfusedPair]:
    """The pairs of classes with the most mistakes between them, both directions together; ties by class number.

    Args:
        labels, predicted: (N,) classes of the test images.
        most: how many pairs at most; pairs without a mistake are left out.
    """
    wrong = np.flatnonzero(labels != predicted)
    low, high = np.minimum(labels, predicted)[wrong], np.maximum(labels, predicted)[wrong]
    pairs, counts = np.unique(np.stack([low, high]), axis=1, return_counts=True)
    found = []
    for place in np.argsort(-counts, kind="stable")[:most]:
        first, second = (int(number) for number in pairs[:, place])
        there = wrong[(labels[wrong] == first) & (predicted[wrong] == second)]
        back = wrong[(labels[wrong] == second) & (predicted[wrong] == first)]
        swapped = len(back) > len(there)
        found.append(ConfusedPair(second, first, back, there) if swapped else ConfusedPair(first, second, there, back))
    return found
