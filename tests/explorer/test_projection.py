"""Places on the map: within -1 to 1, the same again, and no projection that was not asked for."""

from __future__ import annotations

import numpy as np
import pytest
from looking import random_vectors
from written_stores import write_store

from clzoo import ClzooError
from clzoo.explorer import projection
from clzoo.explorer.graph import neighbor_graph
from clzoo.explorer.projection import has_umap, principal_components, project


def test_principal_components_are_those_of_a_singular_value_decomposition(tmp_path, monkeypatch):
    monkeypatch.setattr(projection, "BATCH", 64)  # in several parts
    vectors = random_vectors(200) * np.linspace(0.2, 3, 12)
    store = write_store(tmp_path, vectors, dtype="float32")
    places, share = principal_components(store, np.arange(200))
    centered = store.embeddings() - store.embeddings().mean(axis=0)
    left, values, _ = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
    expected = left[:, :2] * values[:2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-4)
    assert share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), rel=1e-4)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 30])
def test_every_number_of_images_has_places_within_the_map(tmp_path, count):
    store = write_store(tmp_path, random_vectors(max(count, 1)))
    rows = np.arange(count)
    places, words = project(store, rows, neighbor_graph(store, rows), "pca")
    assert places.shape == (count, 2)
    assert np.abs(places).max(initial=0) <= 1 + 1e-6
    assert count < 2 or np.abs(places).max() == pytest.approx(1)
    assert words.startswith("PCA")


def test_images_that_are_all_one_lie_in_one_place(tmp_path, monkeypatch):
    monkeypatch.setattr(projection, "has_umap", lambda: True)
    store = write_store(tmp_path, np.ones((20, 6), np.float32))
    places, words = project(store, np.arange(20), neighbor_graph(store, np.arange(20)))
    assert not places.any()
    assert words.startswith("PCA")  # UMAP makes NaN of it


def test_without_umap_pca_is_taken_and_says_so_and_umap_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(projection, "has_umap", lambda: False)
    store = write_store(tmp_path, random_vectors(30))
    graph = neighbor_graph(store, np.arange(30))
    assert "umap-learn is not installed" in project(store, np.arange(30), graph)[1]
    with pytest.raises(ClzooError, match=r"clzoo\[explore\]"):
        project(store, np.arange(30), graph, "umap")
    with pytest.raises(ClzooError, match="tsne"):
        project(store, np.arange(30), graph, "tsne")


@pytest.mark.slow
@pytest.mark.skipif(not has_umap(), reason='umap-learn is not installed: pip install "clzoo[explore]"')
def test_umap_lays_out_our_graph_the_same_each_time_and_keeps_groups_together(tmp_path):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 50)
    vectors = 3 * np.eye(16)[groups] + 0.4 * rng.normal(size=(200, 16))
    store = write_store(tmp_path, vectors.astype(np.float32))
    rows = np.arange(200)
    graph = neighbor_graph(store, rows)
    places, words = project(store, rows, graph)
    assert words == "UMAP of 15 neighbors (exact)"
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (groups[distances.argmin(axis=1)] == groups).all()
    np.testing.assert_array_equal(places, project(store, rows, graph)[0])
