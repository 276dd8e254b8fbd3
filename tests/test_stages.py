"""Maps of stages are what the named parts of the network give; a call and a load say what is computed in."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from small_models import small_config, small_encoder

import clzoo
from clzoo.backbones import measured_width
from clzoo.config import Preprocessing
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.stages import stage_names

FAMILIES = {
    "test_resnet": {},
    "test_vit": {"global_pool": "token", "num_features": 64, "model_args": {"img_size": 32}},
    "test_efficientnet": {"num_features": 256},
    "test_convnext": {"num_features": 64},
}


def at_64_px(architecture: str, **changes: Any) -> Encoder:
    config = small_config(architecture=architecture, preprocessing=Preprocessing(64), **changes)
    return Encoder.untrained(dataclasses.replace(config, num_features=measured_width(config)))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_each_stage_is_what_timm_gives(architecture):
    encoder = Encoder.untrained(small_config(architecture=architecture, **FAMILIES[architecture]))
    stages = stage_names(encoder.module)
    seen: dict[str, torch.Tensor] = {}
    for name in stages:
        encoder.module.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    found = encoder.embed(images(3), features=stages, normalize=False)
    for ours, name in zip(found, stages, strict=True):
        wanted = seen[name]
        if wanted.ndim == 3:  # tokens, of which the first is the class token
            side = int((wanted.shape[1] - 1) ** 0.5)
            wanted = wanted[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        assert ours.shape == tuple(wanted.shape)
        assert ours.ndim == 4
        assert np.abs(ours - wanted.numpy()).max() < 1e-6


def test_a_stage_alone_is_an_array_and_a_list_comes_in_its_own_order():
    encoder = small_encoder()
    last, first = encoder.embed(images(2), features=["layer4", "layer1"])
    assert np.array_equal(encoder.embed(images(2), features="layer4"), last)
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    one = encoder.embed(images(1)[0], features="layer1", as_tensor=True)
    assert torch.allclose(one, torch.from_numpy(first[0]), atol=1e-6)
    assert np.array_equal(
        encoder.encode(torch.from_numpy(images(2)), features="layer2").numpy(),
        encoder.embed(images(2), features="layer2", normalize=False),
    )


def test_unknown_stages_are_refused_with_the_known_ones():
    encoder = small_encoder()
    for features in ("tokens", ["layer9"], [], ["pooled", "layer1"]):
        with pytest.raises(ClzooError, match=r"expected 'pooled', 'patch', or of act1, layer1, layer2"):
            encoder.embed(images(1), features=features)
    alexnet = Encoder.untrained(small_config(architecture="small_alexnet", num_features=4096))
    with pytest.raises(ClzooError, match="SmallAlexNet gives no maps of its stages"):
        alexnet.embed(images(1), features="layer1")


def test_the_type_of_a_call_and_of_a_loaded_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr("clzoo.encoder.has_native_bf16", lambda: True)
    model = small_encoder().save_pretrained(tmp_path / "model")
    exact, coarse = clzoo.load(model, device="cpu"), clzoo.load(model, device="cpu", dtype="bf16")
    vectors = exact.embed(images(4))
    assert not np.array_equal(coarse.embed(images(4)), vectors)
    assert np.array_equal(coarse.embed(images(4)), exact.embed(images(4), dtype="bf16"))
    assert np.array_equal(coarse.embed(images(4), dtype="fp32"), vectors)
    with pytest.raises(ClzooError, match="dtype must be auto, fp32, bf16 or fp16, found 'int4'"):
        clzoo.load(model, device="cpu", dtype="int4")
    with pytest.raises(ClzooError, match="emulated by this CPU"):
        exact.embed(images(1), dtype="fp16")


@pytest.mark.parametrize("architecture", ["test_mambaout", "test_resnet"])
def test_patches_are_a_map_with_the_channels_first_whatever_the_order_inside_the_network(architecture):
    encoder = at_64_px(architecture)
    with torch.inference_mode():
        inside = encoder.module.forward_features(torch.stack([encoder.transform(image) for image in images(3)]))
    channels = encoder.module.num_features
    wanted = inside if inside.shape[1] == channels else inside.permute(0, 3, 1, 2)
    found = encoder.embed(images(3), features="patch", normalize=False)
    assert found.shape[:2] == (3, channels)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    lengths = np.linalg.norm(encoder.embed(images(3), features="patch"), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "stage"), [("pit_ti_224", "transformers.2"), ("coat_tiny", "parallel_blocks")]
)
def test_a_network_whose_patches_are_not_told_apart_names_a_stage_instead(architecture, stage):
    encoder = at_64_px(architecture, global_pool="token", model_args={"img_size": 64})
    with pytest.raises(ClzooError, match=rf"no map of its patches alone.*features='{stage}'"):
        encoder.embed(images(1), features="patch")
    assert encoder.embed(images(1), features=stage).ndim == 4
