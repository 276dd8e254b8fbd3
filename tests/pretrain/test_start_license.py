"""The license of the encoder that a run starts from stays with whatever is made of it."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil

import pytest
import yaml
from small_recipes import small_recipe

import clzoo
from clzoo.config import ModelConfig
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.start import start_of
from clzoo.pretrain.trained import convert_checkpoint
from clzoo.publish import publish
from clzoo.zoo import load
from clzoo.zoo.convert import convert_to_folder

NOT_FOR_SALE = {"license": "cc-by-nc-4.0", "license_note": "Ask the authors first."}
CALLED = "simclr-resnet10t-photographs"


def terms(config: ModelConfig) -> dict[str, str]:
    return {"license": config.license, "license_note": config.license_note}


def recipe(*overrides):
    return small_recipe("simclr_cifar10", *overrides)


def as_entry(run, folder, **changes):
    """The encoder of a run as somebody else's model folder."""
    encoder = load(run, "cpu")
    config = dataclasses.replace(encoder.config, name=CALLED, **changes)
    return Encoder(encoder.module, config).save_pretrained(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures):
    """A run from random weights."""
    out = tmp_path_factory.mktemp("license") / "trained"
    assert pretrain(recipe("seed=5"), pictures, out, device="cpu")
    return out


@pytest.fixture(scope="module")
def start(trained):
    """A model folder that is not for commercial use."""
    return as_entry(trained, trained.parent / "start", **NOT_FOR_SALE)


@pytest.fixture(scope="module")
def run(start, pictures):
    """A finished run that `--init` began."""
    out = start.parent / "run"
    assert pretrain(recipe(), pictures, out, device="cpu", init=str(start))
    return out


def test_random_weights_are_ours_and_derive_from_nothing(trained):
    config = load(trained, "cpu").config
    assert (config.license, config.derived_from) == ("apache-2.0", "")
    assert "derived_from" not in read_json(trained / "config.json")["clzoo"]


def test_the_run_records_its_start_and_its_encoder_has_the_license(run, start):
    recorded = load_recipe(run / "recipe.yaml").start
    assert recorded == start_of(load(start, "cpu"), str(start))
    assert (recorded.name, recorded.model) == (str(start), CALLED)
    config = load(run, "cpu").config
    assert terms(config) == NOT_FOR_SALE
    assert config.derived_from == CALLED
    assert ModelConfig.load(run / "config.json") == config


def test_a_start_is_known_from_every_folder(start, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(start.parent)
    assert not pretrain(recipe(), pictures, tmp_path / "run", device="cpu", init="./start", max_minutes=0)
    assert load_recipe(tmp_path / "run" / "recipe.yaml").start.name == str(start)
    monkeypatch.chdir(tmp_path)
    for place in (str(start), f"{start}/", os.path.relpath(start)):
        assert not pretrain(recipe(), pictures, tmp_path / "run", device="cpu", init=place, max_minutes=0)


def test_the_published_card_states_license_and_origin_and_no_place_on_this_machine(run, start, tmp_path):
    entry = publish(run, "simclr-resnet10t-mine", None, tmp_path / "entry", device="cpu")
    assert terms(ModelConfig.load(entry / "config.json")) == NOT_FOR_SALE
    card = (entry / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-nc-4.0"
    assert "Weights: cc-by-nc-4.0. Ask the authors first." in card
    assert f"Derived from {CALLED}, whose license stays with these weights." in card
    assert "apache" not in card.lower()
    assert read_json(entry / "metrics.json")["training"]["continued from"] == CALLED
    for name in ("README.md", "metrics.json", "recipe.yaml", "config.json"):
        assert str(start.parent) not in (entry / name).read_text(), name
    assert load_recipe(entry / "recipe.yaml").start.name == CALLED


def test_a_checkpoint_that_is_converted_keeps_it(run, tmp_path):
    convert_checkpoint(run, tmp_path / "entry")
    config = ModelConfig.load(tmp_path / "entry" / "config.json")
    assert (terms(config), config.derived_from) == (NOT_FOR_SALE, CALLED)
    assert f"Derived from {CALLED}" in (tmp_path / "entry" / "README.md").read_text()


def test_the_weights_of_a_clzoo_model_that_are_converted_keep_it(tmp_path):
    narrow = {"channels": [4, 8, 8, 8], "stem_type": "deep", "stem_width": 4}
    config = ModelConfig("mine", "resnet10t", 8, "simclr", "resnet10t", "mine", model_args=narrow, **NOT_FOR_SALE)
    entry = Encoder.untrained(config).save_pretrained(tmp_path / "entry")
    for out in ("converted", "converted"):  # the same again changes nothing
        convert_to_folder(entry / "model.safetensors", "resnet10t", tmp_path / out, model_args=narrow)
    assert terms(ModelConfig.load(tmp_path / "converted" / "config.json")) == NOT_FOR_SALE
    alone = shutil.copy(entry / "model.safetensors", tmp_path / "alone.safetensors")
    convert_to_folder(tmp_path / "alone.safetensors", "resnet10t", tmp_path / "unknown", model_args=narrow)
    assert alone.is_file()
    assert terms(ModelConfig.load(tmp_path / "unknown" / "config.json")) == {
        "license": "not stated",
        "license_note": "",
    }


def test_a_model_saved_from_the_run_and_a_run_that_starts_there_keep_it(run, pictures, tmp_path):
    saved = load(run, "cpu").save_pretrained(tmp_path / "saved")
    assert terms(load(saved, "cpu").config) == NOT_FOR_SALE
    assert not pretrain(recipe(), pictures, tmp_path / "next", device="cpu", init=str(run), max_minutes=0)
    config = load(tmp_path / "next", "cpu").config  # of a run that is not finished
    assert terms(config) == NOT_FOR_SALE
    assert config.derived_from == f"{load(run, 'cpu').config.name}, itself derived from {CALLED}"


@pytest.mark.slow
def test_an_exported_graph_says_it(run, tmp_path):
    load(run, "cpu").export(tmp_path / "model.onnx")
    provenance = clzoo.lite.load(tmp_path / "model.onnx").provenance
    assert (provenance.license, provenance.license_note) == tuple(NOT_FOR_SALE.values())
    assert provenance.derived_from == CALLED


def test_a_stopped_run_goes_on_by_its_own_record_when_the_start_is_gone(start, pictures, tmp_path):
    place = shutil.copytree(start, tmp_path / "start")
    for name in ("with", "without"):
        assert not pretrain(recipe(), pictures, tmp_path / name, device="cpu", init=str(place), max_minutes=0)
    with pytest.raises(ClzooError, match=r"starts from .*start|is the run of another recipe"):
        pretrain(recipe(), pictures, tmp_path / "with", device="cpu", init=str(start))
    shutil.rmtree(place)
    assert pretrain(recipe(), pictures, tmp_path / "with", device="cpu", init=str(place))
    assert pretrain(recipe(), pictures, tmp_path / "without", device="cpu")
    for name in ("with", "without"):
        assert terms(load(tmp_path / name, "cpu").config) == NOT_FOR_SALE


def test_a_run_of_before_the_start_was_recorded_records_it_when_it_goes_on(start, pictures, tmp_path, caplog):
    out = tmp_path / "run"
    assert not pretrain(recipe(), pictures, out, device="cpu", init=str(start), max_minutes=0)
    (out / "recipe.yaml").write_text(recipe().to_yaml().replace("start: null\n", ""))
    with caplog.at_level(logging.WARNING, "clzoo"):
        assert pretrain(recipe(), pictures, out, device="cpu", init=str(start))
    assert f"its recipe now names {start}" in caplog.text
    assert terms(load(out, "cpu").config) == NOT_FOR_SALE


def test_a_run_from_random_weights_is_not_continued_by_a_recipe_with_a_start(start, pictures, tmp_path):
    out = tmp_path / "run"
    assert not pretrain(recipe(), pictures, out, device="cpu", max_minutes=0)
    sha256 = load(start, "cpu").weights_sha256
    named = recipe("start={}", f"start.name={start}", f"start.weights_sha256={sha256}")
    with pytest.raises(ClzooError, match="is the run of another recipe"):
        pretrain(named, pictures, out, device="cpu")
    with pytest.raises(ClzooError, match=r"another recipe: start.name is None there"):
        pretrain(recipe(), pictures, out, device="cpu", init=str(start))
    assert load_recipe(out / "recipe.yaml").start is None


@pytest.mark.parametrize("own", ["cc-by-nc-4.0", "not stated"])
def test_a_recipe_cannot_state_other_terms_than_its_start_has(own, trained, pictures, tmp_path):
    place = as_entry(trained, tmp_path / "start", license=own)
    named = [f"start.name={place}", f"start.weights_sha256={load(place, 'cpu').weights_sha256}"]
    with pytest.raises(ClzooError, match=r"start.license=apache-2.0, but the license of .* is " + own):
        pretrain(recipe("start={}", *named, "start.license=apache-2.0"), pictures, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    assert not pretrain(recipe("start={}", *named), pictures, tmp_path / "run", device="cpu", max_minutes=0)
    assert load(tmp_path / "run", "cpu").config.license == own


@pytest.mark.parametrize(
    ("place", "source", "called"),
    [
        ("./models/mine", None, CALLED),
        ("hf-hub:org/model", None, "hf-hub:org/model"),
        ("timm:resnet10t.c3_in1k", None, "timm:resnet10t.c3_in1k"),
        ("cacr-resnet50-in1k", "hjzheng/CACR", "cacr-resnet50-in1k (hjzheng/CACR)"),
    ],
)
def test_cards_call_a_start_by_its_public_name(place, source, called, trained):
    encoder = load(trained, "cpu")
    published = source and clzoo.config.Source(source, "a.pth", None, None, None, "")
    encoder.config = dataclasses.replace(encoder.config, name=CALLED, source=published)
    assert start_of(encoder, place).model == called
