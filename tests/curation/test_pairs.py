"""All pairs, exactly, whatever the blocks."""

import numpy as np
import pytest

from clzoo import ClzooError
from clzoo.curation import pairs as module
from clzoo.curation.pairs import pairs_above


def unit(count: int, seed: int = 0, dim: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "TILE", 16)
    monkeypatch.setattr(module, "BLOCK", 24)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [0, 1, 2, 16, 17, 100])
def test_pairs_of_one_collection_are_those_of_the_whole_matrix(count):
    vectors = unit(count)
    found = pairs_above(vectors, 0.5)
    expected = np.argwhere(np.triu(vectors @ vectors.T >= 0.5, k=1))
    assert sorted(zip(found.first, found.second, strict=True)) == [tuple(pair) for pair in expected]
    assert np.allclose(found.similarity, (vectors[found.first] * vectors[found.second]).sum(axis=1), atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_pairs_of_two_collections_are_those_of_the_whole_matrix():
    vectors, others = unit(50), unit(70, seed=1)
    found = pairs_above(vectors, 0.5, others)
    expected = np.argwhere(vectors @ others.T >= 0.5)
    assert sorted(zip(found.first, found.second, strict=True)) == [tuple(pair) for pair in expected]


def test_too_many_pairs_are_an_error_before_they_take_the_memory(monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 1000)
    with pytest.raises(ClzooError, match="more than 1,000 pairs"):
        pairs_above(np.ones((200, 4), np.float32) / 2, 0.9)
