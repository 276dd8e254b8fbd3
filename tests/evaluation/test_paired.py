"""Paired differences between two encoders."""

import numpy as np
import pytest

from clzoo.evaluation.paired import class_differences, disputed, paired_difference


def test_the_interval_is_that_of_drawing_images_with_replacement():
    seed = 5
    rng = np.random.default_rng(seed)
    first, second = rng.random(400) < 0.7, rng.random(400) < 0.6
    found = paired_difference("knn:v1", first, second)
    rows = rng.integers(0, 400, (20_000, 400))
    drawn = 100 * (first[rows].mean(1) - second[rows].mean(1))
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.4), seed
    assert found.value == pytest.approx(100 * (first.mean() - second.mean()))
    assert (found.only_first, found.only_second) == ((first & ~second).sum(), (second & ~first).sum())
    assert paired_difference("knn:v1", first, second) == found  # seeded


def test_an_encoder_differs_from_itself_by_nothing():
    right = np.array([True, False, True])
    found = paired_difference("knn:v1", right, right)
    assert (found.value, found.low, found.high, found.only_first, found.only_second) == (0, 0, 0, 0, 0)
    assert len(disputed(right, right)) == 0


def test_pairing_counts_images_and_not_accuracies():
    """Two encoders right on the same images but for ten are told apart; on independent halves they are not."""
    first = np.arange(1000) < 510
    nested, apart = np.arange(1000) < 500, np.arange(1000) >= 500
    assert paired_difference("p", first, nested).low > 0
    assert paired_difference("p", first, apart).low < 0


def test_disputed_images_are_half_of_each_kind_and_spread_evenly():
    first = np.array([True] * 100 + [False] * 100)
    chosen = disputed(first, ~first, most=12)
    assert chosen[:6].tolist() == [0, 20, 40, 59, 79, 99]
    assert (chosen[6:] >= 100).all()
    assert len(chosen) == 12
    only_one = np.zeros(200, bool)
    only_one[150] = True
    assert disputed(first, only_one, most=12).tolist()[-1] == 150
    assert len(disputed(first, only_one, most=12)) == 12  # one half fills up what the other lacks
    few = disputed(np.array([True, False, True]), np.array([False, True, True]))
    assert few.tolist() == [0, 1]


def test_class_differences_are_sorted_points_and_classes_without_images_are_left_out():
    labels = np.array([0, 0, 1, 1])
    first, second = np.array([True, True, False, True]), np.array([True, False, True, True])
    dots = class_differences(labels, first, second, ["cat", "dog", "elk"])
    assert list(dots.lines) == [("dog", -50.0), ("cat", 50.0)]
    assert (dots.low, dots.high) == (-50, 50)
    assert dots.place(0) == 50
