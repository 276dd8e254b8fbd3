"""The backend "onnx": the same features by another runtime, for the same calls."""

import copy
import pickle

import numpy as np
import pytest
import torch
from small_models import small_config, small_encoder

import clzoo
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.export import backend as backends
from clzoo.export.backend import OnnxNetwork, with_backend
from clzoo.zoo.resizing import at_size

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def twin(encoder, cache):
    return with_backend(encoder, "onnx", cache_dir=cache)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 40, 48, 3), np.uint8)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_features_are_those_of_torch(encoder, twin, count):
    assert isinstance(twin.module, OnnxNetwork)
    assert np.abs(twin.embed(images(count)) - encoder.embed(images(count))).max() < 1e-4
    raw = twin.embed(images(count), normalize=False)
    assert np.allclose(raw, encoder.embed(images(count), normalize=False), rtol=1e-3, atol=1e-3)


def test_the_encoder_is_known_by_the_weights_in_its_graph(encoder, twin):
    assert twin.weights_sha256 == encoder.weights_sha256


def test_a_graph_is_exported_once(encoder, cache, twin, monkeypatch):
    monkeypatch.setattr(Encoder, "export", lambda *_, **__: pytest.fail("exported again"))
    again = with_backend(encoder, "onnx", cache_dir=cache)
    assert again.module.path == twin.module.path


def test_other_weights_have_another_graph(cache, twin):
    other = with_backend(small_encoder(seed=1), "onnx", cache_dir=cache)
    assert other.module.path != twin.module.path
    assert np.abs(other.embed(images(2)) - twin.embed(images(2))).max() > 1e-3


def test_weights_that_were_changed_since_have_a_graph_of_their_own(cache):
    encoder = small_encoder()
    before = with_backend(encoder, "onnx", cache_dir=cache)
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.mul_(1.5)
    after = with_backend(encoder, "onnx", cache_dir=cache)
    assert after.module.path != before.module.path
    assert np.abs(after.embed(images(2)) - encoder.embed(images(2))).max() < 1e-4
    assert (before.weights_sha256, after.weights_sha256) == (small_encoder().weights_sha256, encoder.weights_sha256)


def test_a_call_uses_as_many_threads_as_torch_would(twin):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        twin.embed(images(1))
    finally:
        torch.set_num_threads(before)
    assert twin.module._sessions[1].get_session_options().intra_op_num_threads == 1


def test_auto_takes_onnx_for_resnets_on_a_cpu_and_torch_for_the_rest(encoder, cache, monkeypatch):
    assert isinstance(with_backend(encoder, "auto", cache_dir=cache).module, OnnxNetwork)
    vit = Encoder.untrained(small_config(architecture="test_vit", num_features=64, global_pool="token"))
    assert with_backend(vit, "auto", cache_dir=cache) is vit
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)  # nothing is installed
    assert with_backend(encoder, "auto", cache_dir=cache) is encoder


def test_patches_and_unknown_backends_are_refused(encoder, twin):
    with pytest.raises(ClzooError, match="pooled features only"):
        twin.embed(images(1), features="patch")
    with pytest.raises(ClzooError, match="must be torch, onnx or auto, found 'tflite'"):
        with_backend(encoder, "tflite")


def test_a_folder_is_embedded_alike_and_the_stores_fit_together(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("CLZOO_CACHE", str(tmp_path / "cache"))
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(images(9)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    model = encoder.save_pretrained(tmp_path / "model")
    options = {"device": "cpu", "store_dtype": "fp32", "backend": "torch", "dtype": "fp32"}
    by_torch = clzoo.embed_folder(tmp_path / "images", str(model), tmp_path / "a", **options)
    options["backend"] = "onnx"
    by_onnx = clzoo.embed_folder(tmp_path / "images", str(model), tmp_path / "b", **options)
    a, b = (clzoo.open_store(summary.store).embeddings() for summary in (by_torch, by_onnx))
    assert np.abs(a - b).max() < 1e-4
    (tmp_path / "images" / "0.png").unlink()
    assert (
        clzoo.embed_folder(tmp_path / "images", str(model), tmp_path / "a", **options, allow_removals=True).dropped == 1
    )


def test_a_graph_of_fp32_refuses_another_type_and_says_what_it_computes_in(twin):
    assert twin.compute_dtype() == twin.compute_dtype("fp32") == "fp32"
    with pytest.raises(ClzooError, match=r"computes in fp32.*--backend torch"):
        twin.encode(torch.zeros((1, 32, 32, 3), dtype=torch.uint8), dtype="bf16")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_a_copy_computes_the_same_and_is_known_by_the_same_weights(twin, copied):
    other = copied(twin)
    assert np.array_equal(other.embed(images(2)), twin.embed(images(2)))
    assert other.weights_sha256 == twin.weights_sha256


@pytest.mark.parametrize(
    "use",
    [
        lambda encoder, place: encoder.export(place / "again.onnx"),
        lambda encoder, place: encoder.save_pretrained(place / "model"),
        lambda encoder, place: at_size(encoder, 48),
    ],
    ids=["export", "save", "another size"],
)
def test_what_needs_the_weights_themselves_asks_for_the_network(twin, tmp_path, use):
    with pytest.raises(ClzooError, match=r"loaded as an exported graph.*backend='torch'"):
        use(twin, tmp_path)
    assert not list(tmp_path.iterdir())
