"""The length of a feature is what the network returns, in every family; and what a network cannot take is named."""

import numpy as np
import pytest
import timm
import torch
from picture_folders import make_folder
from small_models import small_config, small_encoder

import clzoo
from clzoo.backbones import create_backbone, feature_width, made_for
from clzoo.config import ModelConfig, Preprocessing
from clzoo.embed import embed_folder, open_store
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError

ANOTHER_WIDTH = {  # architecture -> what it returns; timm's num_features says less
    "cpubone_nano": 1600,
    "efficientvit_b0": 1280,
    "fasternet_t0": 1280,
    "fbnetv3_b": 1984,
    "ghostnet_050": 1280,
    "hardcorenas_a": 1280,
    "hgnetv2_b0": 2048,
    "inception_next_atto": 960,
    "lcnetv2_small": 1280,
    "lowformer_b0": 1600,
    "mobilenetv3_small_050": 1024,
    "mobilenetv4_conv_small_035": 1280,
    "repghostnet_050": 1280,
    "test_mambaout": 256,
}
SAME_WIDTH = {
    "lcnet_035": 1280,
    "levit_128s": 384,
    "test_byobnet": 256,
    "test_convnext": 64,
    "test_efficientnet": 256,
    "test_nfnet": 192,
    "test_resnet": 96,
    "test_vit": 64,
    "xcit_nano_12_p8_224": 128,
}
FIXED = {"levit_128s": 224, "test_vit": 160}  # architectures that take images of one size


def config_of(architecture: str, width: int, **changes: object) -> ModelConfig:
    size = FIXED.get(architecture, 64)
    return small_config(architecture=architecture, num_features=width, preprocessing=Preprocessing(size), **changes)


@pytest.mark.parametrize(("architecture", "width"), sorted({**ANOTHER_WIDTH, **SAME_WIDTH}.items()))
def test_a_feature_has_the_length_that_the_config_was_measured_to_have(architecture, width):
    if not timm.is_model(architecture):
        pytest.skip(f"timm {timm.__version__} has no {architecture}")
    encoder = Encoder.untrained(config_of(architecture, width))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    vectors = encoder.embed(images)
    assert vectors.shape == (2, encoder.dim) == (2, width)
    if architecture in ANOTHER_WIDTH:
        assert encoder.module.num_features < width  # the trap is there


def test_vgg_returns_4096_values_of_its_512_channels():
    with torch.device("meta"):
        network = create_backbone("vgg11", model_args={}, global_pool="avg", stem_stride=None)
    assert (network.num_features, feature_width(network, 224), feature_width(network, 32)) == (512, 4096, 4096)


@pytest.mark.parametrize("architecture", ["mobilenetv3_small_050", "test_mambaout", "test_resnet"])
def test_a_config_that_says_another_length_is_refused(architecture):
    with pytest.raises(ClzooError, match=rf"num_features is 64, but {architecture} gives \d+ values"):
        Encoder.untrained(config_of(architecture, 64))


def test_an_encoder_whose_network_is_not_its_configs_gives_no_vectors(tmp_path):
    encoder = Encoder(small_encoder().module, small_config(num_features=48))
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ClzooError, match=r"gives \[96\] values for an image, its config says num_features 48"):
        encoder.embed(image)
    with pytest.raises(ClzooError, match="num_features 48"):
        encoder.export(tmp_path / "model.onnx")
    with pytest.raises(ClzooError, match="num_features is 48"):
        encoder.save_pretrained(tmp_path / "entry")
    assert not list(tmp_path.rglob("*.onnx"))
    assert not (tmp_path / "entry").exists()


def test_a_wide_family_is_saved_embedded_and_indexed_row_by_row(tmp_path):
    pictures = make_folder(tmp_path / "pictures", {"a": 3, "b": 4})
    torch.manual_seed(0)
    encoder = Encoder.untrained(config_of("mobilenetv3_small_050", 1024))
    again = clzoo.load(encoder.save_pretrained(tmp_path / "entry"), device="cpu")
    embed_folder(pictures, again, tmp_path / "store", progress=False)
    store = open_store(tmp_path / "store")
    expected = encoder.embed([pictures / path for path in store.paths])
    assert store.embeddings().shape == expected.shape == (len(store), 1024)
    np.testing.assert_allclose(store.embeddings(), expected, atol=2e-3)
    assert clzoo.build_index(store).description["dim"] == 1024


def test_feature_maps_and_unpooled_tokens_are_no_features():
    with torch.device("meta"):
        network = create_backbone("test_resnet", model_args={}, global_pool="", stem_stride=None)
    with pytest.raises(ClzooError, match=r"gives \[1, 96, 2, 2\] for one image; expected one vector"):
        feature_width(network, 64)


def test_measuring_leaves_random_numbers_and_the_network_as_they_were():
    before = torch.get_rng_state()
    with torch.device("meta"):
        network = create_backbone("levit_128s", model_args={}, global_pool="avg", stem_stride=None)
    attributes = {name: dict(vars(module)) for name, module in network.named_modules()}
    assert feature_width(network, 224) == 384
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: dict(vars(module)) for name, module in network.named_modules()}.keys() == attributes.keys()
    assert not any(getattr(module, "attention_bias_cache", None) for module in network.modules())


def test_a_network_for_other_channels_is_refused_by_name():
    with pytest.raises(ClzooError, match="in_chans=1: images have 3 channels"):
        Encoder.untrained(small_config(model_args={"in_chans": 1}))
    Encoder.untrained(small_config(model_args={"in_chans": 3}))


@pytest.mark.parametrize("size", [[96, 128], "96", True, 0, 96.0])
def test_an_image_size_that_is_no_side_of_a_square_is_refused_by_name(size):
    with pytest.raises(ClzooError, match="img_size="):
        Encoder.untrained(config_of("test_vit", 64, model_args={"img_size": size}))


def test_image_sizes_are_read_of_one_number_or_two_that_are_equal():
    assert (made_for({}), made_for({"img_size": 96}), made_for({"img_size": [96, 96]})) == (None, 96, 96)


def test_preprocessing_of_another_size_than_the_network_takes_is_refused_by_name():
    small = config_of("test_vit", 64, model_args={"img_size": 96, "dynamic_img_size": False})
    with pytest.raises(ClzooError, match=r"does not take images of 3 x 160 x 160.*img_size"):
        Encoder.untrained(small)
    any_size = config_of("test_vit", 64, model_args={"img_size": 96, "dynamic_img_size": True})
    assert Encoder.untrained(any_size).embed(np.zeros((8, 8, 3), np.uint8)).shape == (64,)
