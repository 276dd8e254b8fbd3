import pytest
import torch
from small_models import METRICS, small_config

from clzoo.backbones import create_backbone
from clzoo.config import Preprocessing
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.loading import load
from clzoo.zoo.saving import save_entry


def small_alexnet(**changes):
    options = {"model_args": {"img_size": 32}, "global_pool": "avg", "stem_stride": None, **changes}
    return create_backbone("small_alexnet", **options)


@pytest.mark.parametrize(("size", "side"), [(32, 3), (64, 7)])
def test_the_small_alexnet_is_the_published_one(size, side):
    network = small_alexnet(model_args={"img_size": size})
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert [c.out_channels for c in convolutions] == [96, 192, 384, 384, 192]
    assert all(c.kernel_size == (3, 3) for c in convolutions)
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(192 * side**2, 4096), (4096, 4096)]
    images = torch.rand(2, 3, size, size)
    assert network.forward_features(images).shape == (2, 192, side, side)
    features = network(images)
    assert features.shape == (2, network.num_features)
    assert (features >= 0).all()  # behind a ReLU


def test_the_small_alexnet_refuses_other_sizes_and_stems():
    with pytest.raises(ClzooError, match=r"takes images of 32 px, found \(40, 40\)"):
        small_alexnet()(torch.rand(2, 3, 40, 40))
    with pytest.raises(ClzooError, match="at least 15 px, found img_size 14"):
        small_alexnet(model_args={"img_size": 14})
    for change in ({"stem_stride": 1}, {"global_pool": "token"}):
        with pytest.raises(ClzooError, match="do not fit"):
            small_alexnet(**change)


def test_an_entry_of_the_small_alexnet_loads_as_it_was_saved_and_is_not_said_to_be_timms(tmp_path):
    config = small_config(
        architecture="small_alexnet", model_args={"img_size": 15}, num_features=4096,
        preprocessing=Preprocessing(size=15, crop_pct=1.0),
    )  # fmt: skip
    encoder = Encoder.untrained(config)
    save_entry(encoder, tmp_path / "entry", metrics=METRICS, recipe="{}", dtype="fp16")
    loaded = load(str(tmp_path / "entry"), device="cpu")
    pixels = torch.randint(0, 256, (2, 15, 15, 3), dtype=torch.uint8)
    assert torch.allclose(loaded.encode(pixels), encoder.encode(pixels), atol=1e-2)
    card = (tmp_path / "entry" / "README.md").read_text()
    assert "timm.create_model" not in card
    assert "the second connected layer, 4096 values" in card
