"""The graphs that are exported: the preprocessing against Pillow's, and every kind of backbone at any batch size."""

import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_models import small_encoder

from clzoo.backbones import create_backbone
from clzoo.config import Preprocessing
from clzoo.errors import ClzooError
from clzoo.export.graph import OPSET, network_graph, preprocessing_graph, put_before
from clzoo.methods.batchnorm import split_batchnorm
from clzoo.proof import probe_image
from clzoo.transform import normalize, resize_and_crop

TINY_VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 3}
NARROW = {"channels": [4, 8, 8, 8], "stem_type": "deep", "stem_width": 4}
BACKBONES = {
    "timm's own stem": {"architecture": "resnet10t", "model_args": NARROW},
    "small-image stem": {"architecture": "resnet10t", "model_args": NARROW, "stem_stride": 1},
    "small-image stem with pool, BatchNorm in groups": {
        "architecture": "resnet10t",
        "model_args": NARROW,
        "stem_stride": 1,
        "pool": True,
        "groups": 4,
    },
    "dilated": {"architecture": "resnet10t", "model_args": {**NARROW, "output_stride": 8}},
    "class token": {"architecture": "vit_tiny_patch16_224", "model_args": TINY_VIT, "global_pool": "token"},
    "mean of tokens": {"architecture": "vit_tiny_patch16_224", "model_args": TINY_VIT, "global_pool": "avg"},
}


def backbone(architecture, model_args, global_pool="avg", stem_stride=None, pool=False, groups=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = create_backbone(
            architecture, model_args=model_args, global_pool=global_pool, stem_stride=stem_stride, stem_pool=pool
        )
    if groups is not None:
        split_batchnorm(module, groups)
    return module.eval()


@cache
def exported(kind):
    """A backbone and its graph; both are shared by the tests and must not be changed."""
    module = backbone(**BACKBONES[kind])
    return module, network_graph(module, 32)


def run(model, **feed):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def preprocessing_model(p):
    imports = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(preprocessing_graph(p), opset_imports=imports, ir_version=10)


def pillow_road(images, p):
    pixels = np.stack([resize_and_crop(Image.fromarray(image), p) for image in images])
    return normalize(torch.from_numpy(pixels), p).numpy()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(256, 256), (375, 500), (500, 333), (40, 91), (70, 40), (31, 33), (1200, 1600)])
@pytest.mark.parametrize(("size", "crop_pct"), [(32, 1.0), (224, 0.875), (45, 0.9)])
def test_the_preprocessing_gives_pillows_pixels(shape, size, crop_pct, interpolation):
    p = Preprocessing(size=size, crop_pct=crop_pct, interpolation=interpolation)
    rng = np.random.default_rng(1)
    wide = Image.fromarray(probe_image()).resize(shape[::-1])
    images = np.stack([np.asarray(wide), rng.integers(0, 256, (*shape, 3), np.uint8)])
    (found,) = run(preprocessing_model(p), images=images)
    levels = np.abs(found - pillow_road(images, p)) * 255 * np.array(p.std)[:, None, None]  # in 8-bit steps
    assert found.shape == (2, 3, size, size)
    assert levels.max() < 1.01
    assert (levels > 0.01).mean() < (0.01 if interpolation == "bicubic" else 0.06)  # halves rounded the other way


def test_a_portrait_more_than_twice_as_high_as_wide_may_be_resized_in_another_order():
    # Pillow 13 begins with the height then, the graph always with the width; both round in between.
    p = Preprocessing(size=32, crop_pct=1.0)
    images = np.asarray(Image.fromarray(probe_image()).resize((100, 240)))[None]
    (found,) = run(preprocessing_model(p), images=images)
    levels = np.abs(found - pillow_road(images, p)) * 255 * np.array(p.std)[:, None, None]
    assert levels.max() < 5
    assert levels.mean() < 0.5


@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.9, 0.97])
def test_of_an_image_at_its_scale_the_preprocessing_only_cuts_and_normalises(crop_pct):
    p = Preprocessing(size=29, crop_pct=crop_pct)
    for longer in range(p.resize, p.resize + 4):  # all ways that a half pixel can be rounded
        images = np.random.default_rng(longer).integers(0, 256, (1, p.resize, longer, 3), np.uint8)
        for turned in (images, images.transpose(0, 2, 1, 3)):
            (found,) = run(preprocessing_model(p), images=np.ascontiguousarray(turned))
            np.testing.assert_allclose(found, pillow_road(turned, p), atol=1e-6)


def test_a_crop_larger_than_the_resized_image_is_refused():
    with pytest.raises(ClzooError, match="crop of 64 px does not fit into 51 px"):
        preprocessing_graph(Preprocessing(size=64, crop_pct=1.25))


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_kind_of_backbone_gives_what_torch_gives_at_any_batch_size(kind):
    module, model = exported(kind)
    onnx.checker.check_model(model, full_check=True)
    for batch in (1, 2, 5):
        pixels = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            expected = module(pixels)
        embedding, feature = run(model, pixels=pixels.numpy())
        np.testing.assert_allclose(feature, expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(embedding, F.normalize(expected, dim=1).numpy(), atol=1e-6)


def test_the_norm_is_taken_in_float32_where_the_arithmetic_is_float16():
    module = backbone(**BACKBONES["class token"])
    module.norm.weight.data.fill_(1e3)  # a feature of norm 5,000: its square is beyond float16
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = F.normalize(module(pixels), dim=1).numpy()
    embedding, feature = run(network_graph(module.half(), 32, torch.float16), pixels=pixels.numpy())
    assert (embedding.dtype, feature.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(embedding, expected, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)


def test_the_preprocessing_is_put_before_the_network():
    p = Preprocessing(size=32, crop_pct=0.875)
    model = onnx.ModelProto()
    model.CopyFrom(exported("class token")[1])
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8)
    expected = run(model, pixels=pillow_road(images, p))
    put_before(preprocessing_graph(p), model)
    onnx.checker.check_model(model, full_check=True)
    for found, wanted in zip(run(model, images=images), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_graph_names_no_file_of_this_machine():
    _, model = exported("class token")
    assert not re.search(rb"\.py|site-packages|/home", model.SerializeToString())


def test_a_network_that_needs_a_fixed_batch_is_refused():
    class PairsOnly(torch.nn.Module):
        def forward(self, pixels):
            return pixels.reshape(2, -1) @ torch.ones(3 * 8 * 8, 4)

    handlers = list(logging.getLogger().handlers)
    with pytest.raises(ClzooError, match="PairsOnly can only be exported for a batch of 2"):
        network_graph(PairsOnly(), 8)
    assert logging.getLogger().handlers == handlers  # the exporter set up no logging


def test_threads_may_export_at_once():
    together = threading.Barrier(3)

    def export(seed: int) -> onnx.ModelProto:
        network = small_encoder(seed).module
        together.wait()
        return network_graph(network, 32)

    with ThreadPoolExecutor(3) as pool:
        assert all(graph.graph.output for graph in pool.map(export, range(3)))
