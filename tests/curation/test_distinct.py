"""How many pairs of distinct images a collection has is told from its own distances."""

import numpy as np
from test_pairs import unit

from clzoo.curation.calibration import draw_samples
from clzoo.curation.distinct import fit_distinct
from clzoo.curation.pairs import pairs_above


def test_distinct_pairs_are_foretold_far_beyond_those_that_can_be_counted():
    vectors = unit(3000, seed=3, dim=10)
    distinct = fit_distinct(vectors, draw_samples(len(vectors))[1])
    fresh = pairs_above(unit(12_000, seed=4, dim=10), distinct.similarity_of(20))
    assert 10 < len(fresh) / 16 < 60  # sixteen times as many pairs of images


def test_vectors_that_are_the_same_as_far_as_halves_tell_are_not_fitted():
    vectors = np.zeros((2000, 64), np.float32)
    vectors[:, 0] = 1
    vectors[:, 1:3] = np.random.default_rng(0).normal(scale=0.01, size=(2000, 2))
    assert fit_distinct(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.arange(1500)) is None


def test_too_few_or_all_the_same_tell_nothing():
    assert fit_distinct(unit(10), np.arange(10)) is None
    assert fit_distinct(np.tile(unit(1), (100, 1)), np.arange(100)) is None
