"""CAGRA graphs: built by a GPU that is only pretended; all else, from the graph's own type on, is FAISS's."""

from typing import ClassVar

import faiss
import numpy as np
import pytest
from packaging.version import Version

from clzoo.errors import ClzooError
from clzoo.index import build_index, open_index
from clzoo.index.cagra import is_cagra


class Config:
    graph_degree = intermediate_graph_degree = 0


class PretendedCagra:
    """As FAISS's GpuIndexCagra is called; the graph is one that a CPU makes."""

    built: ClassVar[list] = []

    def __init__(self, resources, dim, metric, config):
        assert (resources, metric) == ("resources", faiss.METRIC_INNER_PRODUCT)
        self.dim, self.config = dim, config
        self.built.append(self)

    def train(self, vectors):
        assert vectors.dtype == np.float32
        self.vectors = vectors

    def copyTo(self, graph):  # noqa: N802
        assert isinstance(graph, faiss.IndexHNSWCagra)
        graph.add(self.vectors)


@pytest.fixture
def with_cuvs(monkeypatch):
    PretendedCagra.built = []
    for name, value in (
        ("GpuIndexCagra", PretendedCagra),
        ("GpuIndexCagraConfig", Config),
        ("StandardGpuResources", lambda: "resources"),
        ("get_num_gpus", lambda: 1),
    ):
        monkeypatch.setattr(faiss, name, value, raising=False)


def vectors_of(count, dim=32):
    return np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)


@pytest.mark.skipif(Version(faiss.__version__) < Version("1.14"), reason="this FAISS reads CAGRA's graph as plain HNSW")
def test_the_graph_is_of_all_rows_normalised_and_found_again_without_a_gpu(make_store, with_cuvs, monkeypatch):
    store = make_store(vectors_of(500))
    index = build_index(store, factory="CAGRA32")
    (built,) = PretendedCagra.built
    assert (built.dim, built.config.graph_degree, built.config.intermediate_graph_degree) == (32, 32, 64)
    rows = store.embeddings()
    np.testing.assert_allclose(built.vectors, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)
    assert index.description["factory"] == "CAGRA32"
    assert index.description["recall_at_10"] >= 0.95
    assert index.description["efSearch"] >= 16
    monkeypatch.delattr(faiss, "GpuIndexCagra")
    again = open_index(store)
    assert isinstance(faiss.downcast_index(again.faiss.index), faiss.IndexHNSWCagra)
    scores, ids = again.faiss.search(rows[:20] / np.linalg.norm(rows[:20], axis=1, keepdims=True), 1)
    assert (ids[:, 0] == store.ids[:20]).all()
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-5)


def test_a_faiss_without_cuvs_or_a_machine_without_a_gpu_says_what_to_do_instead(make_store, with_cuvs, monkeypatch):
    store = make_store(vectors_of(500))
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(ClzooError, match=r"built on a GPU, and FAISS sees none\. Type: --factory HNSW32"):
        build_index(store, factory="CAGRA")
    monkeypatch.delattr(faiss, "GpuIndexCagra")
    with pytest.raises(ClzooError, match=r"has no cuVS in it\. Type: conda install .*faiss-gpu-cuvs.*HNSW32"):
        build_index(store, factory="CAGRA")
    assert not (store.path / "faiss.index").exists()


@pytest.mark.parametrize(("factory", "rows"), [("CAGRA0", 500), ("CAGRA7", 500), ("CAGRA64", 128), ("CAGRA", 100)])
def test_too_few_rows_for_the_neighbors_are_refused(make_store, with_cuvs, factory, rows):
    with pytest.raises(ClzooError, match=f"even number of neighbors and more than twice as many rows, found {rows}"):
        build_index(make_store(vectors_of(rows)), factory=factory)
    assert PretendedCagra.built == []


def test_what_the_gpu_refuses_is_told(make_store, with_cuvs, monkeypatch):
    def out_of_memory(self, vectors):
        raise RuntimeError("Error in cuvs: out of memory")

    monkeypatch.setattr(PretendedCagra, "train", out_of_memory)
    with pytest.raises(ClzooError, match="faiss cannot build 'CAGRA32' from 500 vectors: out of memory"):
        build_index(make_store(vectors_of(500)), factory="CAGRA32")


def test_only_our_own_strings_are_taken_for_it():
    assert is_cagra("CAGRA")
    assert is_cagra("CAGRA32")
    assert not any(map(is_cagra, ("HNSW32", "IVF16,CAGRA", "CAGRA32,Flat", "cagra")))
