"""Neighbors of a map: exact, without the image itself, among the rows that are shown."""

from __future__ import annotations

import numpy as np
import pytest
from looking import random_vectors, short_lists
from written_stores import write_store

from clzoo import ClzooError, build_index
from clzoo.explorer import graph as graphs
from clzoo.explorer.graph import neighbor_graph
from clzoo.explorer.pair import agreement
from clzoo.index import building


def brute(vectors: np.ndarray, k: int) -> np.ndarray:
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -2)
    return np.sort(similarity, axis=1)[:, ::-1][:, :k]


def test_neighbors_are_those_of_a_comparison_of_all_pairs(tmp_path):
    vectors = random_vectors(300)
    store = write_store(tmp_path, vectors, dtype="float32")
    found = neighbor_graph(store, np.arange(300))
    np.testing.assert_allclose(found.similarity, brute(vectors, 15), atol=1e-6)
    assert (found.rows != np.arange(300)[:, None]).all()
    assert found.how == "exact"


def test_of_a_sample_neighbors_are_positions_in_the_sample(tmp_path):
    vectors = random_vectors(60)
    rows = np.arange(5, 60, 2)
    found = neighbor_graph(write_store(tmp_path, vectors, dtype="float32"), rows, 4)
    np.testing.assert_allclose(found.similarity, brute(vectors[rows], 4), atol=1e-6)
    assert found.rows.max() < len(rows)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_images_have_all_others_as_neighbors(tmp_path, count):
    store = write_store(tmp_path, random_vectors(max(count, 1)))
    found = neighbor_graph(store, np.arange(count))
    assert found.rows.shape == (count, max(0, count - 1))
    for row, others in enumerate(found.rows):
        assert sorted([row, *others]) == list(range(count))


def test_where_all_images_are_one_each_has_others_as_neighbors(tmp_path):
    store = write_store(tmp_path, np.ones((40, 8), np.float32))
    found = neighbor_graph(store, np.arange(40))
    assert (found.rows != np.arange(40)[:, None]).all()
    assert all(len(set(row)) == 15 for row in found.rows.tolist())
    assert found.similarity.max() <= 1


def test_more_rows_than_are_compared_go_through_the_index_and_say_its_recall(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(graphs, "MOST_EXACT", 100)
    monkeypatch.setattr(building, "MOST_WITHOUT_INDEX", 100)
    vectors = random_vectors(200)
    store = write_store(tmp_path, vectors, dtype="float32")
    with pytest.raises(ClzooError, match=r"holds no FAISS index.*Type: clzoo store index"):
        neighbor_graph(store, np.arange(200))
    build_index(store)
    found = neighbor_graph(store, np.arange(200))
    np.testing.assert_allclose(found.similarity, brute(vectors, 15), atol=1e-6)
    assert found.how == "Flat index, recall@10 1.000"
    with pytest.raises(ClzooError, match="--sample 100"):
        neighbor_graph(store, np.arange(150))


def test_where_the_lists_of_an_index_hold_fewer_the_neighbors_are_those_of_all_images(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(graphs, "MOST_EXACT", 100)
    monkeypatch.setattr(graphs, "_AT_ONCE", 5)
    vectors, store = short_lists(tmp_path)
    found = neighbor_graph(store, np.arange(720))
    np.testing.assert_allclose(found.similarity, np.einsum("nd,nkd->nk", vectors, vectors[found.rows]), atol=1e-6)
    assert all(len({row, *others}) == 16 for row, others in enumerate(found.rows.tolist()))
    assert np.isclose(found.similarity[:, 9], brute(vectors, 10)[:, -1], atol=1e-6).mean() > 0.98


def test_vectors_that_are_not_finite_are_an_error_that_names_the_store(tmp_path):
    vectors = random_vectors(10)
    vectors[3, 2] = np.nan
    store = write_store(tmp_path / "broken", vectors, normalized=False)
    with pytest.raises(ClzooError, match=r"broken holds 1 vectors"):
        neighbor_graph(store, np.array([3]))  # alone: it has no neighbors to compare it with
    with pytest.raises(
        ClzooError, match=r"broken holds 1 vectors that are not finite \(row 3, 000003\.jpg\)\..* --out .*broken-again"
    ):
        neighbor_graph(store, np.arange(10))


def test_agreement_is_the_share_of_common_neighbors(tmp_path):
    one = neighbor_graph(write_store(tmp_path / "a", random_vectors(50)), np.arange(50))
    two = neighbor_graph(write_store(tmp_path / "b", random_vectors(50, seed=1)), np.arange(50))
    expected = [len(set(a[:10]) & set(b[:10])) / 10 for a, b in zip(one.rows.tolist(), two.rows.tolist(), strict=True)]
    assert agreement(one, two).tolist() == pytest.approx(expected)
    assert 0 < np.mean(expected) < 1
    assert agreement(one, one).min() == 1
