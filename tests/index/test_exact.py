"""Searching on a GPU: which way is taken, and that exact search in torch is FAISS's Flat, on any device."""

from __future__ import annotations

import gc

import faiss
import numpy as np
import pytest
import torch

from clzoo import ClzooError
from clzoo.index import build_index, search
from clzoo.index import exact as exact_module
from clzoo.index.exact import exact_search, on_gpu, search_on

CPU = torch.device("cpu")


def random(count, dim=32, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("normalized", [True, False])
def test_exact_search_finds_what_a_flat_index_finds(make_store, dtype, normalized):
    index = build_index(make_store(random(20_000), dtype=dtype, normalized=normalized), factory="Flat")
    queries = unit(random(50, seed=1))
    scores, ids = exact_search(index.store, CPU)(queries, 10)
    expected, expected_ids = index.faiss.search(queries, 10)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert (ids == expected_ids).mean() > 0.999  # neighbors whose scores differ in the last bit may change places


def test_equal_scores_go_to_the_lower_id_at_the_last_place_too(make_store):
    store = make_store(np.repeat(np.eye(4), 10, axis=0))
    _, ids = exact_search(store, CPU)(np.eye(4, dtype=np.float32)[:1], 4)
    assert ids[0].tolist() == sorted(store.ids[:10])[:4]


def test_the_way_taken_is_faiss_where_it_has_the_index_on_a_gpu_and_else_torch(make_store, monkeypatch, caplog):
    caplog.set_level("INFO", "clzoo")
    flat, graph = (
        build_index(make_store(random(500)), factory="Flat"),
        build_index(make_store(random(500)), factory="HNSW16"),
    )
    queries = unit(random(5, seed=1))
    expected = flat.faiss.search(queries, 3)[1]

    def taken(index, k=3):
        caplog.clear()
        assert (on_gpu(index, CPU, k)(queries, 3)[1] == expected).all()
        return caplog.messages[-1]

    assert "exact, in torch on cpu (FAISS cannot: it is built for CPUs" in taken(flat)
    # A FAISS for GPUs, as far as the choice between the two goes.
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "GpuIndex", faiss.IndexFlat, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda resources, number, index: index, raising=False)
    assert taken(flat) == "search: FAISS Flat on cpu"
    assert "exact, in torch on cpu (FAISS cannot: it has no HNSW16 there)" in taken(graph)
    assert "FAISS cannot: it finds at most 2048" in taken(flat, k=2049)


def test_a_gpu_that_a_search_with_conditions_does_not_use_is_said(make_store, monkeypatch, caplog):
    store = make_store(random(20), labels=["cat", "dog"] * 10)
    if not torch.cuda.is_available():
        with pytest.raises(ClzooError, match=r"'cuda' was asked for.*--device cpu"):
            search(store, random(1), where=["label=cat"], device="cuda")
    monkeypatch.setattr("clzoo.index.searching.resolve_device", torch.device)  # where there is one
    (hits,) = search(store, random(1), k=20, where=["label=cat"], device="cuda")
    assert [hit.label for hit in hits] == ["cat"] * 10
    assert "among the 10 images that are left in NumPy, on the CPU and not on cuda" in caplog.text


def test_a_device_that_is_not_there_is_an_error_and_never_another_one(make_store):
    index = build_index(make_store(random(20)))
    if not torch.cuda.is_available():
        with pytest.raises(ClzooError, match=r"'cuda' was asked for.*--device cpu"):
            search(index, random(2), device="cuda")
    with pytest.raises(ClzooError, match="an index is searched on cpu or cuda, found meta"):
        search(index, random(2), device="meta")


def test_on_a_cpu_the_index_itself_searches(make_store):
    index = build_index(make_store(random(20)))
    assert search_on(index, "cpu", 3) == index.faiss.search


@pytest.mark.gpu
@pytest.mark.parametrize("factory", ["Flat", "SQfp16", "HNSW16"])
def test_a_gpu_finds_what_a_flat_index_finds(make_store, factory):
    store = make_store(random(20_000), dtype="float32")
    expected = search(build_index(store, factory="Flat"), random(300, seed=1), 10)
    index = build_index(store, factory=factory)
    found = search(index, random(300, seed=1), 10, device="cuda")
    for row, expected_row in zip(found, expected, strict=True):
        np.testing.assert_allclose([hit.score for hit in row], [hit.score for hit in expected_row], atol=2e-3)
    ids, expected_ids = (np.array([[hit.id for hit in row] for row in rows]) for rows in (found, expected))
    assert (ids == expected_ids).mean() > 0.98
    assert len(exact_module._moved[index]) == 1
    search(index, random(1), 10, device="cuda")
    assert len(exact_module._moved[index]) == 1  # moved once


@pytest.mark.gpu
def test_the_memory_of_a_gpu_is_given_back_with_the_index(make_store):
    before = torch.cuda.memory_allocated()
    index = build_index(make_store(random(20_000)), factory="HNSW16")
    search(index, random(1), device="cuda")
    assert torch.cuda.memory_allocated() > before
    del index
    gc.collect()
    assert torch.cuda.memory_allocated() == before
