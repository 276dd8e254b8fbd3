"""All pairs, exactly, whatever the blocks."""

import numpy as np
import pytest

from clzoo import ClzooError
from clzoo.curation import indexed_pairs
from clzoo.curation import pairs as module
from clzoo.curation.indexed_pairs import all_pairs
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


def near_copies(count: int = 3000) -> np.ndarray:
    """Vectors of 16 dimensions, the last third near copies of the first."""
    vectors = unit(count, dim=16)
    vectors[-count // 3 :] = vectors[: count // 3] + 0.1 * unit(count // 3, seed=9, dim=16)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("two", [False, True])
def test_above_so_many_pairs_the_index_finds_them_and_says_how_many_it_missed(monkeypatch, two):
    pytest.importorskip("faiss")
    vectors = near_copies()
    others = vectors[::-1].copy() if two else None
    exact, recall = all_pairs(vectors, 0.95, others)
    assert recall is None
    monkeypatch.setattr(indexed_pairs, "EXACT", 1000)
    found, recall = all_pairs(vectors, 0.95, others)
    pairs, expected = (set(zip(p.first.tolist(), p.second.tolist(), strict=True)) for p in (found, exact))
    assert len(pairs) == len(found)  # each once
    assert pairs <= expected  # never one that is not as similar
    assert recall >= 0.99
    assert len(pairs) >= 0.98 * len(expected)
    monkeypatch.setattr(indexed_pairs, "_SAMPLED", len(vectors))
    found, recall = all_pairs(vectors, 0.95, others)
    assert recall == len(found) / len(expected)
    bank = vectors if others is None else others
    cosines = (vectors[found.first] * bank[found.second]).sum(axis=1)
    assert np.allclose(found.similarity, cosines.clip(max=1), atol=1e-5)


def test_without_an_index_every_pair_is_computed_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(indexed_pairs, "EXACT", 1000)
    monkeypatch.setattr(indexed_pairs, "has_faiss", lambda: False)
    vectors = near_copies(300)
    found, recall = all_pairs(vectors, 0.95)
    assert recall is None
    assert len(found) == len(pairs_above(vectors, 0.95))
    assert "pip install faiss-cpu" in caplog.text


def test_too_many_pairs_are_an_error_through_the_index_too(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(indexed_pairs, "EXACT", 1000)
    monkeypatch.setattr(module, "MOST_PAIRS", 1000)
    with pytest.raises(ClzooError, match="more than 1,000 pairs"):
        all_pairs(np.ones((200, 4), np.float32) / 2, 0.9)
