"""A saved folder loads in timm alone, with the same outputs."""

import dataclasses

import pytest
import timm
import torch
from fake_checkpoints import SHIPPED, random_backbone, small_config, write_local

import clzoo
from clzoo.proof import probe_image
from clzoo.zoo.saving import save_entry

BIG = ["mocov3-resnet50-in1k", "mocov3-vit_small-in1k", "mocov3-vit_base-in1k"]


def assert_same_outputs(folder, config):
    save_entry(clzoo.load(write_local(folder, config, random_backbone(config)), "cpu"), folder)
    ours = clzoo.load(folder, "cpu")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    batch = torch.stack([ours.transform(image) for image in (probe_image(), probe_image()[::-1].copy())])
    with torch.inference_mode():
        expected = ours.module(batch)
        found = theirs(batch.contiguous(memory_format=torch.channels_last))
        assert expected.shape == (2, config.num_features)
        assert expected[0].sub(expected[1]).abs().max() > 1e-4  # the network looks at the image
    assert not theirs.training
    # The Encoder's weights are channels_last in memory, timm's are not: the same sums, taken in another order.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(theirs.to(memory_format=torch.channels_last)(batch), expected)
    return theirs


@pytest.mark.parametrize("kind", ["avg", "token"])
def test_a_small_model_gives_identical_outputs_in_timm(tmp_path, kind):
    assert_same_outputs(tmp_path / "model", small_config(kind, name="small"))


def test_vit_small_keeps_its_12_heads_in_timm(tmp_path):
    config = dataclasses.replace(SHIPPED[BIG[1]], source=None)
    theirs = assert_same_outputs(tmp_path / "model", config)
    assert theirs.blocks[0].attn.num_heads == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", [BIG[0], BIG[2]])
def test_the_large_models_give_identical_outputs_in_timm(tmp_path, name):
    assert_same_outputs(tmp_path / "model", dataclasses.replace(SHIPPED[name], source=None))


def test_timms_own_transform_gives_the_same_pixels(tmp_path):
    from PIL import Image

    config = small_config(name="small")
    folder = write_local(tmp_path / "model", config, random_backbone(config))
    ours = clzoo.load(folder, "cpu")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    image = Image.fromarray(probe_image()).resize((333, 257))
    torch.testing.assert_close(transform(image), ours.transform(image), rtol=0, atol=1e-6)
