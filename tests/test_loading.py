"""From a name or a path to the encoder that was meant, or to an error that says what to type."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from fake_checkpoints import SHIPPED, FakeZoo, random_backbone, saved_folder, shrunk, write_local
from safetensors.torch import load_file, save_file
from small_models import small_encoder

import clzoo
from clzoo import assets
from clzoo.config import ModelConfig
from clzoo.device import has_native_bf16
from clzoo.errors import ClzooError
from clzoo.files import sha256_of
from clzoo.proof import weights_sha256
from clzoo.zoo import converted, locating


@pytest.fixture(autouse=True)
def _fresh_process():
    locating._say_once.cache_clear()


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo of one small ViT in Hydra's layout, pinned, its file in the Hugging Face cache."""
    return FakeZoo(tmp_path, shrunk(SHIPPED["hydra-vit_base-in1k"])).use(monkeypatch)


@pytest.fixture
def unpinned(tmp_path, monkeypatch):
    """The same as CACR's entries: neither revision nor hash recorded."""
    return FakeZoo(tmp_path, shrunk(SHIPPED["cacr-resnet50-in1k"]), pinned=False).use(monkeypatch)


@pytest.fixture
def saved(tmp_path):
    """A local model folder, with hash and probe."""
    return saved_folder(tmp_path)


def load(zoo, **options):
    return clzoo.load(zoo.config.name, "cpu", cache_dir=zoo.cache, offline=True, **options)


# -- a zoo name: bundled, cache, Hub ---------------------------------------------------------------------------------


def test_a_published_file_becomes_an_encoder_of_exactly_its_backbone(zoo):
    encoder = load(zoo)
    state = encoder.module.state_dict()
    assert state.keys() == zoo.backbone.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in zoo.backbone.items())
    assert not encoder.module.training
    assert encoder.embed(np.zeros((40, 50, 3), np.uint8)).shape == (encoder.dim,)


def test_the_second_load_needs_only_the_cache(zoo):
    first = load(zoo)
    zoo.published.unlink()
    assert load(zoo).weights_sha256 == first.weights_sha256
    (model,) = converted.cached(zoo.cache)
    assert model.provenance.sha256 == zoo.sha256
    assert model.provenance.revision == zoo.commit
    assert model.provenance.weights_sha256 == weights_sha256(zoo.backbone) == weights_sha256(load_file(model.weights))
    assert list(load_file(model.folder / "pretrain.safetensors")) == ["filter.0.weight"]
    assert model.provenance.pretrain_sha256 == sha256_of(model.folder / "pretrain.safetensors")


def test_bundled_weights_come_first(zoo, monkeypatch):
    other = random_backbone(zoo.config, seed=9)
    save_file(other, zoo.hub / zoo.config.name / "model.safetensors")
    assert load(zoo).weights_sha256 == weights_sha256(other)
    assert converted.cached(zoo.cache) == []


def test_a_published_file_with_another_hash_is_never_used(zoo):
    data = bytearray(zoo.published.read_bytes())
    data[len(data) // 2] ^= 1
    zoo.published.write_bytes(data)
    with pytest.raises(
        ClzooError, match=rf"has SHA-256 \w+, expected {zoo.sha256}.*hf cache rm model/erow/Hydra --cache"
    ):
        load(zoo)
    assert converted.cached(zoo.cache) == []


def test_a_truncated_published_file_is_named_with_both_sizes(zoo):
    data = zoo.published.read_bytes()
    zoo.published.write_bytes(data[:-10])
    with pytest.raises(ClzooError, match=f"has {len(data) - 10:,} bytes, expected {len(data):,}"):
        load(zoo)


def test_damaged_cached_weights_are_refused_and_removal_repairs(zoo):
    load(zoo)
    (model,) = converted.cached(zoo.cache)
    data = bytearray(model.weights.read_bytes())
    data[-1] ^= 1
    model.weights.write_bytes(data)
    with pytest.raises(ClzooError, match=rf"the weights have hash .* clzoo cached --rm {zoo.config.name}"):
        load(zoo)
    model.weights.write_bytes(data[:100])
    with pytest.raises(ClzooError, match="not a whole safetensors file"):
        load(zoo)
    converted.remove(zoo.config.name, zoo.cache)
    assert load(zoo).weights_sha256 == weights_sha256(zoo.backbone)


def test_weights_that_are_not_the_entrys_recorded_ones_are_refused(zoo):
    dataclasses.replace(zoo.config, weights_sha256="0" * 64).save(zoo.hub / zoo.config.name)
    with pytest.raises(ClzooError, match="recorded is 0000"):
        load(zoo)


def test_a_cache_made_from_another_published_file_is_refused(zoo):
    load(zoo)
    source = dataclasses.replace(zoo.config.source, sha256="1" * 64)
    dataclasses.replace(zoo.config, source=source).save(zoo.hub / zoo.config.name)
    with pytest.raises(ClzooError, match="the zoo entry records 1111"):
        load(zoo)


def test_a_published_file_that_is_not_what_the_entry_describes_is_refused(zoo):
    source = dataclasses.replace(zoo.config.source, layout="", drop=())
    dataclasses.replace(zoo.config, source=source).save(zoo.hub / zoo.config.name)
    with pytest.raises(ClzooError, match=r"78 missing: .*pip install --upgrade clzoo"):
        load(zoo)


def test_an_unpinned_name_is_checked_against_the_hubs_hash_and_said_once(unpinned, caplog):
    encoder = load(unpinned)
    said = [record.getMessage() for record in caplog.records if "not pinned yet" in record.getMessage()]
    assert len(said) == 1
    assert unpinned.commit in said[0]
    assert unpinned.sha256 in said[0]
    assert (encoder.config.source.revision, encoder.config.source.sha256) == (unpinned.commit, unpinned.sha256)
    (model,) = converted.cached(unpinned.cache)
    name, _, key = model.folder.name.rpartition("-")  # NAME@REVISION-HASH
    assert (name, len(key), model.provenance.pinned) == (f"{unpinned.config.name}@unpinned", 32, False)
    caplog.clear()
    load(unpinned)
    assert "not pinned" not in caplog.text


def test_an_unpinned_file_that_the_hubs_hash_does_not_fit_is_refused(unpinned):
    unpinned.published.write_bytes(unpinned.published.read_bytes() + b"x")
    with pytest.raises(ClzooError, match=f"expected {unpinned.sha256}"):
        load(unpinned)


def test_offline_names_the_file_and_the_place_and_the_command(zoo):
    missing = zoo.cache / "elsewhere"
    with pytest.raises(ClzooError) as caught:
        clzoo.load(zoo.config.name, "cpu", cache_dir=missing, offline=True)
    source = zoo.config.source
    message = str(caught.value)
    assert message.startswith(f"{source.file} of {source.repo} at revision {source.revision} was looked for in ")
    assert str(missing / "hub" / "models--erow--Hydra") in message
    assert f"hf download {source.repo} {source.file} --revision {source.revision} --cache-dir {missing}" in message


def test_a_recipe_only_name_says_how_to_train_it():
    with pytest.raises(ClzooError, match=r"nobody has published weights.*clzoo pretrain recipes/reco_in1k\.yaml"):
        clzoo.load("reco-resnet50-in1k", "cpu")


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(ClzooError, match="The closest: cacr-resnet50-in1k"):
        clzoo.load("cacr-resnet50", "cpu")


def test_a_missing_license_is_said_once(zoo, caplog):
    load(zoo)
    load(zoo)
    said = [record for record in caplog.records if "no license is stated" in record.getMessage()]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING


def test_the_note_to_a_license_is_said_once(unpinned, caplog):
    load(unpinned)
    load(unpinned)
    assert caplog.text.count("non-commercial") == 1


def test_another_revision_does_not_carry_the_proof_of_the_pinned_one(zoo):
    config = dataclasses.replace(zoo.config, weights_sha256="0" * 64, probe=(0.0,) * 16)
    config = dataclasses.replace(config, source=dataclasses.replace(config.source, revision="d" * 40))
    config.save(zoo.hub / config.name)
    encoder = load(zoo, revision=zoo.commit)
    assert encoder.config.weights_sha256 is None
    assert encoder.config.probe is None
    assert encoder.config.source.revision == zoo.commit


# -- what is a path, and what is a name ------------------------------------------------------------------------------


def test_a_plain_word_is_a_zoo_name_even_if_a_folder_of_that_name_lies_here(zoo, saved, monkeypatch, caplog):
    here = zoo.cache / "here"
    (here / zoo.config.name).mkdir(parents=True)
    monkeypatch.chdir(here)
    load(zoo)
    assert f"'{zoo.config.name}' is taken as the name of a zoo model" in caplog.text
    assert f"type ./{zoo.config.name}" in caplog.text
    monkeypatch.chdir(saved.parent)
    with pytest.raises(ClzooError, match=r"no model 'mine'.*A folder \./mine lies here: to load it, type \./mine"):
        clzoo.load("mine", "cpu")


@pytest.mark.parametrize("spelling", ["./mine", "mine/", "mine/model.safetensors", "../{parent}/mine"])
def test_a_path_is_what_has_a_separator_or_a_suffix(saved, monkeypatch, spelling):
    monkeypatch.chdir(saved.parent)
    assert clzoo.load(spelling.format(parent=saved.parent.name), "cpu").config.name == "mine"


def test_a_dot_and_a_path_object_are_paths(saved, monkeypatch):
    monkeypatch.chdir(saved)
    assert clzoo.load(".", "cpu").config.name == "mine"
    assert clzoo.load("model.safetensors", "cpu").config.name == "mine"
    monkeypatch.chdir(saved.parent)
    assert clzoo.load(saved.relative_to(saved.parent), "cpu").config.name == "mine"


def test_a_path_that_does_not_exist_offers_the_hub():
    with pytest.raises(ClzooError, match=r"org/repo does not exist.*hf-hub:org/repo"):
        clzoo.load("org/repo", "cpu")


def test_a_file_without_config_leads_to_convert(saved, tmp_path):
    lonely = tmp_path / "other" / "a.safetensors"
    lonely.parent.mkdir()
    lonely.write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(ClzooError, match=r"no config\.json beside it\. Type: clzoo convert .*a\.safetensors --arch"):
        clzoo.load(lonely, "cpu")
    with pytest.raises(ClzooError, match=r"is not a \.safetensors file\. Type: clzoo convert"):
        clzoo.load(saved / "README.md", "cpu")


def test_a_folder_without_weights_or_config_is_named(saved, tmp_path):
    with pytest.raises(ClzooError, match=r"holds no model\.safetensors\. Load it by its name: cacr-resnet50-in1k"):
        clzoo.load(assets.HUB / "cacr-resnet50-in1k", "cpu")
    (saved / "config.json").unlink()
    with pytest.raises(ClzooError, match=r"is no model: it holds no config\.json"):
        clzoo.load(saved, "cpu")


def test_a_revision_of_a_local_path_is_refused(saved):
    with pytest.raises(ClzooError, match="files have no revisions"):
        clzoo.load(saved, "cpu", revision="main")


# -- local folders: strict -------------------------------------------------------------------------------------------


def rewrite(folder, change):
    # Copies: those of safetensors before 0.8 lie in the file that is written over.
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    config = ModelConfig.load(folder / "config.json")
    dataclasses.replace(config, weights_sha256=weights_sha256(tensors)).save(folder)


def test_a_changed_weight_is_refused(saved):
    tensors = load_file(saved / "model.safetensors")
    tensors["conv1.0.weight"][0, 0, 0, 0] += 1e-6
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ClzooError, match="the weights have hash"):
        clzoo.load(saved, "cpu")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("conv1.0.weight"), "1 missing: conv1.0.weight"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "1 unexpected: extra"),
        (lambda tensors: tensors.update({"conv1.1.bias": torch.ones(3)}), r"conv1\.1\.bias \[3\] \(expected \["),
    ],
)
def test_tensors_that_do_not_fit_are_refused_although_their_hash_is_right(saved, change, says):
    rewrite(saved, change)
    with pytest.raises(ClzooError, match=says):
        clzoo.load(saved, "cpu")


@pytest.mark.parametrize("keep", [0, 5, 500, -1])
def test_a_truncated_safetensors_file_is_named(saved, keep):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ClzooError, match=r"model\.safetensors \([\d,]+ bytes\) is not a whole safetensors file"):
        clzoo.load(saved, "cpu")


def test_half_precision_files_become_float32_parameters(saved):
    exact = {
        name: tensor.half() for name, tensor in load_file(saved / "model.safetensors").items() if "num" not in name
    }

    def halve(tensors):
        tensors.update(exact)

    rewrite(saved, halve)
    state = clzoo.load(saved, "cpu").module.state_dict()
    assert all(state[name].dtype == torch.float32 for name in exact)
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in exact.items())


def test_a_wrong_feature_length_or_argument_in_the_config_is_refused(saved):
    config = ModelConfig.load(saved / "config.json")
    dataclasses.replace(config, num_features=7).save(saved)
    with pytest.raises(ClzooError, match="num_features is 7, but test_resnet gives 96"):
        clzoo.load(saved, "cpu")
    dataclasses.replace(config, model_args={"nonsense": 1}).save(saved)
    with pytest.raises(ClzooError, match="does not build test_resnet with model_args"):
        clzoo.load(saved, "cpu")


def test_a_published_figure_that_is_no_number_is_named(saved):
    dataclasses.replace(ModelConfig.load(saved / "config.json"), published={"linear": "74.7 %"}).save(saved)
    with pytest.raises(ClzooError, match=r"published is \{'linear': '74\.7 %'\}, expected a table of numbers"):
        clzoo.load(saved, "cpu")


@pytest.mark.parametrize("key", ["parameters", "recipe", "weights_sha256"])
def test_a_value_of_another_kind_in_the_config_is_named(saved, key):
    config = json.loads((saved / "config.json").read_text())
    config["clzoo"][key] = ["x"]
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClzooError, match=rf"config\.json is not a valid model config: {key} is \['x'\], expected"):
        clzoo.load(saved, device="cpu")


@pytest.mark.parametrize("size", [True, 0, -32, 64.0])
def test_a_size_that_is_no_number_of_pixels_is_refused(saved, size):
    with pytest.raises(ClzooError, match=f"a whole number above 0; found {size}"):
        clzoo.load(saved, device="cpu", size=size)


@pytest.mark.skipif(not has_native_bf16(), reason="this CPU does not compute in bf16")
def test_auto_takes_the_backend_that_computes_in_what_is_asked_for(tmp_path):
    pytest.importorskip("onnxruntime")
    encoder = clzoo.load(
        small_encoder().save_pretrained(tmp_path / "model"),
        device="cpu",
        backend="auto",
        dtype="bf16",
        cache_dir=tmp_path,
    )
    assert encoder.embed(np.zeros((1, 40, 40, 3), np.uint8)).shape == (1, encoder.dim)


def test_a_config_without_hash_loads_and_says_that_nothing_was_checked(saved, caplog):
    config = ModelConfig.load(saved / "config.json")
    dataclasses.replace(config, weights_sha256=None).save(saved)
    clzoo.load(saved, "cpu")
    assert "records no weights_sha256" in caplog.text


def test_an_encoder_does_not_change_with_its_file(saved):
    encoder = clzoo.load(saved, "cpu")
    before = encoder.weights_sha256
    path = saved / "model.safetensors"
    with path.open("r+b") as file:  # in place: the same inode
        file.seek(2000)
        file.write(b"\0" * (path.stat().st_size - 2000))
    assert weights_sha256(encoder.module.state_dict()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error_before_anything_is_fetched(zoo):
    with pytest.raises(ClzooError, match="sees 0 CUDA device"):
        clzoo.load(zoo.config.name, "cuda", cache_dir=zoo.cache, offline=True)
    assert converted.cached(zoo.cache) == []


# -- the number of heads ---------------------------------------------------------------------------------------------


def test_vit_small_with_6_heads_takes_the_same_tensors_and_gives_other_outputs(tmp_path):
    twelve = dataclasses.replace(SHIPPED["mocov3-vit_small-in1k"], source=None)
    tensors = random_backbone(twelve)
    probes = {}
    for heads in (12, 6):
        config = dataclasses.replace(twelve, model_args={"num_heads": heads})
        probes[heads] = clzoo.load(write_local(tmp_path / f"{heads}", config, tensors), "cpu").probe()
    assert np.abs(np.subtract(probes[12], probes[6])).max() > 0.01
