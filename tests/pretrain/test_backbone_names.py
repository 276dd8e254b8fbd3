"""A backbone's name is a preset that sets it, or what its architecture and arguments are called."""

import pytest
import torch

from clzoo.errors import ClzooError
from clzoo.pretrain.backbone_names import PRESETS, backbone_name
from clzoo.pretrain.build import build_backbone, model_config
from clzoo.pretrain.recipe_files import find_recipe, load_recipe, recipe_names


def backbone(*overrides: str, recipe: str = "simclr_cifar10"):
    return load_recipe(find_recipe(recipe), overrides).backbone


def parameters(b) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_backbone(b).parameters())


def test_a_preset_named_on_the_command_line_changes_the_network_and_not_only_its_label():
    assert parameters(backbone()) == 11_168_832
    narrow = backbone("backbone.name=resnet10_w16")
    assert (narrow.name, narrow.architecture, narrow.model_args["channels"]) == (
        "resnet10_w16",
        "resnet18",
        [16, 32, 64, 128],
    )
    assert parameters(narrow) < 400_000


def test_an_architecture_of_timm_is_a_name_too():
    b = backbone("backbone.name=resnet34")
    assert (b.name, b.architecture, b.model_args) == ("resnet34", "resnet34", {})


def test_the_name_follows_the_architecture_and_its_arguments():
    assert backbone("backbone.architecture=resnet50").name == "resnet50"
    one = backbone("backbone.model_args={layers: [1, 1, 1, 1], stem_type: deep}").name
    same = backbone("backbone.model_args={stem_type: deep, layers: [1, 1, 1, 1]}").name
    other = backbone("backbone.model_args={layers: [1, 1, 1, 2], stem_type: deep}").name
    assert one == same != other
    assert one.startswith("resnet18_")
    assert "-" not in one  # a zoo name has three parts


def test_arguments_that_make_a_preset_get_its_name():
    channels = "{layers: [1, 1, 1, 1], channels: [16, 32, 64, 128], stem_type: deep, stem_width: 8}"
    assert backbone(f"backbone.model_args={channels}").name == "resnet10_w16"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_is_called_by_its_name(name):
    architecture, arguments = PRESETS[name]
    assert backbone_name(architecture, arguments) == name
    pool = "token" if name.startswith("vit") else "avg"
    more = ["backbone.stem_stride=null"] if pool == "token" or name == "small_alexnet" else []
    views = ["views.0.size=224", "data.size=224"] if pool == "token" else []
    recipe = load_recipe(
        find_recipe("simclr_cifar10"), (f"backbone.name={name}", f"backbone.global_pool={pool}", *more, *views)
    )
    assert model_config(recipe).backbone == name


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.name=banana"], r"'banana' is neither a preset \(resnet10_w16, .*\) nor an architecture"),
        (["backbone.name=resnet10_w61"], "near it: resnet10_w16"),
        (
            ["backbone.name=resnet10_w16", "backbone.architecture=resnet50"],
            "stands for resnet18 with .*, found resnet50",
        ),
        (["backbone.name=resnet18", "backbone.model_args={layers: [1, 1, 1, 1]}"], "called, which is resnet18_"),
        (["backbone.name=mine", "backbone.architecture=resnet50"], "called, which is resnet50"),
    ],
)
def test_a_name_that_contradicts_the_network_is_an_error(overrides, said):
    with pytest.raises(ClzooError, match=said):
        backbone(*overrides)


@pytest.mark.parametrize("name", recipe_names())
def test_the_shipped_recipes_are_named_by_what_they_build(name):
    b = backbone(recipe=name)
    assert b.name == backbone_name(b.architecture, b.model_args)


def test_a_run_of_an_earlier_version_keeps_loading_under_the_name_of_its_network(tmp_path):
    """There `--set backbone.architecture=resnet50` changed the network and left the label."""
    text = load_recipe(find_recipe("simclr_cifar10")).to_yaml()
    (tmp_path / "recipe.yaml").write_text(text.replace("architecture: resnet18", "architecture: resnet50"))
    with pytest.raises(ClzooError, match="are called, which is resnet50"):
        load_recipe(tmp_path / "recipe.yaml")  # somebody's own file
    (tmp_path / "data.json").write_text("{}")
    assert load_recipe(tmp_path / "recipe.yaml").backbone.name == "resnet50"
