"""The recipe that is made for an encoder: of a ResNet and of a ViT of timm, for every method."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from small_models import small_encoder

from clzoo.adaptation.recipes import commented, in_brief, lower_half, method_of, recipe_values, with_length
from clzoo.adaptation.survey import Survey
from clzoo.config import Preprocessing
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.methods import METHODS
from clzoo.pretrain.build import build_method, model_config
from clzoo.pretrain.recipe import Recipe

GIB = 1 << 30


def vit() -> Encoder:
    inputs = Preprocessing(size=160, crop_pct=0.95, interpolation="bilinear")
    return small_encoder(architecture="test_vit", backbone="test_vit", num_features=64, preprocessing=inputs)


def made(encoder: Encoder, method: str, *, grey: bool = False, free: int = 8 * GIB) -> tuple[dict[str, Any], Any]:
    seen = Survey(1000, 1000, 200, grey, ())
    return recipe_values(encoder, "the start", seen, 700, method, "mine", free)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [small_encoder, vit], ids=["resnet", "vit"])
def test_every_method_continues_every_kind_of_network_with_its_preprocessing(kind, method):
    encoder = kind()
    values, _ = made(encoder, method)
    with_length(values, 100, 700)
    recipe = Recipe.model_validate(values)
    assert build_method(recipe, 5).backbone is not None
    assert model_config(recipe).preprocessing == encoder.config.preprocessing
    assert {view.size for view in recipe.view_policies()} == {encoder.config.preprocessing.size}
    assert recipe.optimizer.name == ("sgd" if kind is small_encoder else "adamw")
    assert getattr(recipe.method, "queue", 0) <= 350


def test_the_lower_half_is_stem_or_embedding_and_the_first_blocks():
    resnet, transformer = lower_half(small_encoder()), lower_half(vit())
    assert resnet == ["conv1.", "bn1.", "layer1.0."]
    assert "pos_embed" in transformer
    assert "blocks.0." in transformer
    assert "blocks.5." not in transformer
    for encoder, prefixes in ((small_encoder(), resnet), (vit(), transformer)):
        values, _ = made(encoder, "simclr")
        values["backbone"]["frozen"] = prefixes
        with_length(values, 100, 700)
        backbone = build_method(Recipe.model_validate(values), None).backbone
        frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
        assert 0 < len(frozen) < len(list(backbone.parameters()))
        assert all(name.startswith(tuple(prefixes)) for name in frozen)


def test_the_batch_fits_the_memory_and_the_images():
    encoder = small_encoder()
    assert made(encoder, "simclr")[0]["schedule"]["batch_size"] == 128  # a quarter of 700
    small = made(encoder, "simclr", free=200 << 20)[0]["schedule"]["batch_size"]
    assert 16 <= small < 128
    with pytest.raises(ClzooError, match=r"a batch of 16 images takes .* --from NAME"):
        made(encoder, "simclr", free=1 << 20)


def test_grey_images_are_not_recoloured():
    values, reasons = made(small_encoder(), "simclr", grey=True)
    assert {(view["saturation"], view["hue"], view["grayscale"]) for view in values["views"]} == {(0.0, 0.0, 0.0)}
    assert "no image has colours" in reasons["views"]


def test_the_method_is_the_one_asked_for_or_the_start_s_own_where_it_needs_no_labels():
    assert method_of(small_encoder(), "reco")[0] == "reco"
    assert method_of(small_encoder(method="cacr"), None)[0] == "cacr"
    assert method_of(small_encoder(method="supcon"), None)[0] == "simclr"
    assert method_of(small_encoder(method="timm"), None)[0] == "simclr"


def test_the_terminal_is_told_each_choice_in_at_most_twenty_lines():
    for seen in (False, True):
        values, reasons = made(small_encoder(), "simclr", grey=seen)
        with_length(values, 100, 700)
        values["data"]["flatten"] = seen
        values["backbone"]["frozen"] = ["conv1."] if seen else []
        reasons |= dict.fromkeys(
            ("backbone.frozen", "optimizer.base_lr", "schedule.epochs", "schedule.warmup_epochs"), "because; and more"
        )
        reasons |= dict.fromkeys(("schedule.towards_start", "data.flatten"), "because; and more")
        lines = in_brief(values, reasons, "simclr from here on 700 images: 20.00 epochs.")
        assert len(lines) <= 20
        assert all(len(line) <= 120 for line in lines)
        text = "\n".join(lines)
        for word in (
            "simclr",
            "128 images",
            "20.00 epochs",
            "rate        0.03",
            "sgd",
            "32 px",
            "back towards the start",
        ):
            assert word in text
        assert ("the upper half" in text) is seen
        assert ("crowded places" in text) is seen
        assert "BatchNorm counts each batch" in text
        assert "and more" not in text


def test_names_of_others_stay_in_their_line():
    values, reasons = made(small_encoder(), "simclr")
    evil = "x\nseed: 99\n# \x1b[31m"
    values["data"]["title"], values["start"]["name"], reasons["views"] = evil, evil, evil
    with_length(values, 100, 700)
    text = commented(values, reasons, [evil])
    again = yaml.safe_load(text)
    assert again == values
    assert again["seed"] == 0
    assert "\x1b" not in text
