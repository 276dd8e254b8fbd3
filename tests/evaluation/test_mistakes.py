"""Predictions, intervals, and the classes that are taken for each other."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from clzoo.evaluation.mistakes import chance, confused_pairs, predicted_classes, predictions_name, wilson_interval
from clzoo.evaluation.scores import accuracy_of


@pytest.mark.parametrize(("percent", "images"), [(65.0, 100), (0.0, 20), (100.0, 20), (53.1, 1000)])
def test_intervals_are_wilson_s(percent, images):
    expected = binomtest(round(percent / 100 * images), images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(percent, images) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


def test_predictions_are_what_the_accuracy_counts_ties_included():
    seed = 3
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(3, (200, 5), generator=generator).double()  # ties in most rows
    labels = torch.randint(5, (200,), generator=generator)
    predicted = predicted_classes(scores)
    assert 100 * (predicted == labels.numpy()).mean() == pytest.approx(accuracy_of(scores, labels).top1), seed


def test_chance_is_the_most_frequent_class():
    assert chance(np.array([0, 0, 0, 1])) == 75


def test_pairs_are_counted_in_both_directions_and_sorted():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    predicted = np.array([0, 1, 1, 0, 1, 0, 0, 0, 0])
    first, second = confused_pairs(labels, predicted)
    assert (first.first, first.second) == (2, 0)  # named by the more frequent direction
    assert (first.there.tolist(), first.back.tolist()) == ([5, 6, 7, 8], [])
    assert (second.first, second.second) == (0, 1)
    assert (second.there.tolist(), second.back.tolist()) == ([1, 2], [3])
    assert len(confused_pairs(labels, predicted, most=1)) == 1
    assert confused_pairs(labels, labels) == []


def test_arrays_are_named_by_protocol():
    assert predictions_name("knn:v1(k=20,T=0.07,cos)") == "predicted_knn_v1"
