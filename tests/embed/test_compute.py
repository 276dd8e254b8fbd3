"""What computes a run's vectors: the fastest that passes parity here, and what a store was made with ever after."""

import logging

import numpy as np
import pytest
from picture_folders import make_folder
from small_models import small_encoder

import clzoo
from clzoo.embed import compute
from clzoo.errors import ClzooError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A model, some pictures, a cache of its own, and a CPU that computes in fp32 alone."""
    monkeypatch.setenv("CLZOO_CACHE", str(tmp_path / "cache"))
    small_encoder().save_pretrained(tmp_path / "model")
    make_folder(tmp_path / "pictures", {"red": 3, "blue": 2})
    has_bf16(monkeypatch, False)
    return tmp_path


def has_bf16(monkeypatch, native):
    monkeypatch.setattr("clzoo.embed.compute.has_native_bf16", lambda: native)
    monkeypatch.setattr("clzoo.encoder.has_native_bf16", lambda: native)


def embedded(place, out="store", **options):
    """What the store says that its rows were computed in."""
    clzoo.embed_folder(place / "pictures", place / "model", place / out, device="cpu", progress=False, **options)
    return clzoo.open_store(place / out).manifest.compute


def graphs(place):
    return list((place / "cache").rglob("*.onnx"))


def test_few_images_are_embedded_by_torch_and_nothing_is_exported(place):
    assert embedded(place) == ("fp32",)
    assert graphs(place) == []


def test_many_images_pay_for_a_graph_and_the_store_goes_on_with_it(place, monkeypatch):
    monkeypatch.setattr(compute, "EXPORT_FROM", 5)
    assert embedded(place) == ("fp32, ONNX Runtime",)
    (graph,) = graphs(place)
    graph.unlink()
    assert embedded(place) == ("fp32, ONNX Runtime",)
    assert graphs(place) == []  # nothing was new
    make_folder(place / "pictures", {"green": 1})
    monkeypatch.setattr(compute, "EXPORT_FROM", 1000)
    assert embedded(place) == ("fp32, ONNX Runtime",)
    assert graphs(place) == [graph]


def test_bf16_is_taken_where_the_cpu_computes_in_it_and_the_vectors_are_the_same(place, monkeypatch):
    embedded(place, "exact", store_dtype="fp32")
    has_bf16(monkeypatch, True)
    assert embedded(place, store_dtype="fp32") == ("bf16",)
    exact, coarse = (clzoo.open_store(place / name).embeddings() for name in ("exact", "store"))
    assert not np.array_equal(exact, coarse)
    assert (exact * coarse).sum(axis=1).min() >= 0.999


def test_bf16_that_fails_parity_is_left_out(place, monkeypatch, caplog):
    has_bf16(monkeypatch, True)
    monkeypatch.setattr(compute, "bf16_cosine", lambda encoder: 0.9)
    with caplog.at_level(logging.INFO, "clzoo"):
        assert embedded(place) == ("fp32",)
    assert "bf16 is left out: its cosine with fp32 is 0.90000" in caplog.text


def test_a_store_goes_on_in_the_type_that_it_has(place, monkeypatch, caplog):
    embedded(place)
    has_bf16(monkeypatch, True)
    make_folder(place / "pictures", {"green": 1})
    assert embedded(place) == ("fp32",)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    make_folder(place / "pictures", {"grey": 1})
    assert embedded(place, dtype="bf16") == ("fp32", "bf16")
    assert "the store's rows were computed in fp32; this run adds rows in bf16" in caplog.text
    make_folder(place / "pictures", {"white": 1})
    assert embedded(place, dtype="fp32") == ("bf16", "fp32")
    assert "the store's rows were computed in bf16; this run adds rows in fp32" in caplog.text
    make_folder(place / "pictures", {"black": 1})
    assert embedded(place) == ("bf16", "fp32")  # the newest stays the newest


def test_an_encoder_in_hand_computes_as_its_own_embed_does(place, monkeypatch):
    has_bf16(monkeypatch, True)
    encoder = clzoo.load(place / "model", device="cpu")
    clzoo.embed_folder(place / "pictures", encoder, place / "store", store_dtype="fp32", progress=False)
    store = clzoo.open_store(place / "store")
    assert store.manifest.compute == ("fp32",)
    assert np.abs(store.embeddings() - encoder.embed([store.root / path for path in store.paths])).max() < 1e-5


def test_a_graph_in_another_type_is_refused(place):
    with pytest.raises(ClzooError, match=r"dtype bf16: an exported graph computes in fp32.*--backend torch"):
        embedded(place, backend="onnx", dtype="bf16")
    with pytest.raises(ClzooError, match="must be torch, onnx or auto, found 'tflite'"):
        embedded(place, backend="tflite")
