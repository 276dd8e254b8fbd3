"""The entries under hub/ and the names that lead to them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_checkpoints import SHIPPED

import clzoo
from clzoo import assets
from clzoo.config import ModelConfig
from clzoo.errors import ClzooError
from clzoo.zoo.entries import bundled_weights, entry, list_models, row, status
from clzoo.zoo.weights import skeleton

PUBLISHED = {
    "cacr-resnet50-in1k": ("hjzheng/CACR", "checkpoint_resnet_cacr.pth.tar", None, None),
    "cacr-vit_base-in1k": ("hjzheng/CACR", "checkpoint_vitb_cacr.pth.tar", None, None),
    "hydra-vit_tiny-in1k": ("erow/Hydra", "Hydra_e100_IN1K_vitt.pth", "41a5c1bb", 23_725_806),
    "hydra-vit_small-in1k": ("erow/Hydra", "Hydra_e300_IN1K_vits.pth", "83753942", 89_863_918),
    "hydra-vit_base-in1k": ("erow/Hydra", "Hydra_e300_IN1K_vitb.pth", "a51890c1", 373_722_948),
    "mocov3-resnet50-in1k": ("erow/SSL", "resnet/mocov3_resnet50_e1000.pth", "9c89db04", 94_343_634),
    "simclr-resnet50-in1k": ("erow/SSL", "resnet/simclr_resnet50_e1000.pth", "9be5042d", 94_346_596),
    "barlow-resnet50-in1k": ("erow/SSL", "resnet/BT_resnet50_e1000.pth", "dbb5cf1d", 94_320_556),
    "mocov3-vit_small-in1k": ("erow/SSL", "vit/moco_vits_in1k.pth", "0d2a84a1", 86_709_926),
    "mocov3-vit_base-in1k": ("erow/SSL", "vit/moco_vitb_in1k.pth", "842f237c", 343_241_894),
}
RECIPE_ONLY = {"reco-resnet50-in1k", "potential_samples-resnet50-in1k"}


def test_every_published_checkpoint_and_both_recipes_have_an_entry():
    assert set(PUBLISHED) | RECIPE_ONLY <= set(clzoo.list_models())


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_entry_states_the_published_file(name):
    source = SHIPPED[name].source
    repo, file, sha256, size = PUBLISHED[name]
    assert (source.repo, source.file, source.size) == (repo, file, size)
    assert source.sha256 is None if sha256 is None else len(source.sha256) == 64 and source.sha256.startswith(sha256)
    assert source.revision is None if sha256 is None else len(source.revision) == 40
    assert SHIPPED[name].license == ("mit" if repo == "hjzheng/CACR" else "not stated")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_entry_is_whole(name):
    folder = assets.HUB / name
    config = SHIPPED[name]
    assert config.name == name
    assert (folder / "README.md").read_text().startswith("---\n")
    assert "results" in json.loads((folder / "metrics.json").read_text())
    if status(config) == "bundled":
        assert config.weights_sha256 is not None
        assert config.probe is not None


@pytest.mark.parametrize("name", SHIPPED)
def test_every_entry_builds_its_architecture_with_the_recorded_feature_length(name):
    module = skeleton(SHIPPED[name], name)  # refuses another num_features
    tensors = module.state_dict()
    assert module.num_features == SHIPPED[name].num_features
    assert all(tensor.is_meta for tensor in tensors.values())
    if name in PUBLISHED:
        assert len(tensors) == (318 if "resnet50" in name else 150)


@pytest.mark.parametrize("name", [name for name in SHIPPED if "-vit_" in name])
def test_vits_give_the_class_token_and_small_ones_have_12_heads(name):
    heads = {"vit_tiny": 3, "vit_small": 12, "vit_base": 12}[SHIPPED[name].backbone]
    assert SHIPPED[name].global_pool == "token"
    assert skeleton(SHIPPED[name], name).blocks[0].attn.num_heads == heads


def test_status_is_derived_from_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "HUB", tmp_path)
    config = SHIPPED["cacr-resnet50-in1k"]
    assert status(config) == "hub"
    assert status(SHIPPED["reco-resnet50-in1k"]) == "recipe-only"
    (tmp_path / config.name).mkdir()
    (tmp_path / config.name / "model.safetensors").touch()
    assert status(config) == "bundled"
    assert bundled_weights(config.name) == tmp_path / config.name / "model.safetensors"


def test_names_are_filtered_by_a_pattern():
    assert list_models("*vit_tiny*") == ["hydra-vit_tiny-in1k"]
    assert list_models("nothing*") == []


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(ClzooError, match=r"no model 'cacr-resnet-in1k'\. The closest: cacr-resnet50-in1k.*clzoo list"):
        entry("cacr-resnet-in1k")


def test_a_row_says_whether_the_published_file_was_verified():
    assert row(SHIPPED["cacr-resnet50-in1k"])["verified"] is False


def test_listing_imports_neither_torch_nor_timm():
    code = (
        "import sys, clzoo.zoo; clzoo.zoo.list_models()\n"
        "assert not {'torch', 'timm', 'huggingface_hub', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_config_survives_writing_and_reading(tmp_path: Path):
    for config in SHIPPED.values():
        config.save(tmp_path)
        assert ModelConfig.load(tmp_path / "config.json") == config
