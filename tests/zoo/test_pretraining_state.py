"""pretrain.safetensors belongs to one model, and whoever reads it knows: by its hash in config.json."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import clzoo
from clzoo import assets
from clzoo.config import ModelConfig
from clzoo.errors import ClzooError
from clzoo.evaluation.subject import find_subject
from clzoo.files import sha256_of
from clzoo.pretrain.build import build_method
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.start import start_from
from clzoo.zoo.entries import list_models
from clzoo.zoo.pushing import _checked_entry
from clzoo.zoo.saving import save_entry

NAME, OTHER = "simclr-resnet10_w16-cifar10", "cacr-resnet10_w16-cifar10"


@pytest.fixture
def entry(tmp_path):
    return shutil.copytree(assets.HUB / NAME, tmp_path / NAME)


def swap(entry):
    """The state of another model, of the same shapes: what a killed publish used to leave."""
    shutil.copy(assets.HUB / OTHER / "pretrain.safetensors", entry / "pretrain.safetensors")


def damage(entry):
    path = entry / "pretrain.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def renumber(entry):
    """The same tensors under other metadata, such as other names of classes."""
    save_file(
        load_file(entry / "pretrain.safetensors"), entry / "pretrain.safetensors", metadata={"format": "pt", "a": "b"}
    )


def remove(entry):
    (entry / "pretrain.safetensors").unlink()


def evaluate(entry):
    find_subject(entry, "cpu")


def init(entry):
    start_from(build_method(load_recipe(entry / "recipe.yaml"), None), str(entry), None)


def load(entry):
    clzoo.load(entry, device="cpu")


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_entry_records_the_file_that_lies_beside_it(name):
    path = assets.HUB / name / "pretrain.safetensors"
    expected = sha256_of(path) if path.is_file() else None
    assert ModelConfig.load(assets.HUB / name / "config.json").pretrain_sha256 == expected


@pytest.mark.parametrize("change", [swap, damage, renumber])
@pytest.mark.parametrize("reader", [load, evaluate, init, _checked_entry])
def test_the_state_of_another_model_is_refused_by_whoever_reads_the_entry(entry, change, reader):
    reader(entry)
    change(entry)
    with pytest.raises(ClzooError, match=r"pretrain\.safetensors has SHA-256 \w+, recorded is"):
        reader(entry)


@pytest.mark.parametrize("reader", [evaluate, init, _checked_entry])
def test_a_state_that_is_recorded_and_missing_is_named_where_it_is_needed(entry, reader):
    remove(entry)
    load(entry)  # the encoder alone does not need it
    with pytest.raises(ClzooError, match=r"pretrain\.safetensors is missing"):
        reader(entry)


def test_a_state_that_no_config_records_is_refused(entry):
    config = ModelConfig.load(entry / "config.json")
    clzoo.load(entry, device="cpu").save_pretrained(entry.parent / "copy")  # without the state
    assert ModelConfig.load(entry.parent / "copy" / "config.json").pretrain_sha256 is None
    shutil.copy(entry / "pretrain.safetensors", entry.parent / "copy")
    with pytest.raises(ClzooError, match="the config records none"):
        evaluate(entry.parent / "copy")
    assert config.pretrain_sha256 is not None


def test_saving_the_same_weights_keeps_the_state_and_its_hash_and_other_weights_drop_both(entry):
    before = ModelConfig.load(entry / "config.json").pretrain_sha256
    encoder = clzoo.load(entry, device="cpu")
    save_entry(encoder, entry, dtype="fp16")
    assert ModelConfig.load(entry / "config.json").pretrain_sha256 == before
    evaluate(entry)
    with torch.no_grad():
        next(encoder.module.parameters()).add_(1)
    save_entry(encoder, entry, dtype="fp16")
    assert ModelConfig.load(entry / "config.json").pretrain_sha256 is None
    assert not (entry / "pretrain.safetensors").exists()
