"""Saving a hub entry: what is written, that it proves itself, and what a kill leaves behind."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from small_models import METRICS, small_encoder

import clzoo
from clzoo.config import ModelConfig, Source
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.proof import probe_image, weights_sha256
from clzoo.zoo.cards import is_generated
from clzoo.zoo.saving import save_entry
from clzoo.zoo.swapping import settle


def recorded(folder: Path) -> ModelConfig:
    return ModelConfig.load(folder / "config.json")


def test_a_saved_folder_holds_exactly_what_a_push_uploads(tmp_path):
    save_entry(small_encoder(), tmp_path / "m", metrics=METRICS, recipe="method: cacr\n")
    names = {path.name for path in (tmp_path / "m").iterdir()}
    through_timm = {"modules.json", "sentence_bert_config.json"}
    assert names == {"config.json", "model.safetensors", "metrics.json", "recipe.yaml", "README.md", *through_timm}
    assert read_json(tmp_path / "m" / "metrics.json") == METRICS
    assert (tmp_path / "m" / "recipe.yaml").read_text() == "method: cacr\n"


def test_the_config_proves_the_stored_weights(tmp_path):
    encoder = small_encoder()
    save_entry(encoder, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert recorded(tmp_path).weights_sha256 == weights_sha256(stored) == encoder.weights_sha256
    assert recorded(tmp_path).probe == tuple(encoder.probe())
    count = sum(parameter.numel() for parameter in encoder.module.parameters())
    assert recorded(tmp_path) == dataclasses.replace(
        encoder.config, weights_sha256=encoder.weights_sha256, probe=tuple(encoder.probe()), parameters=count
    )


def test_fp16_halves_the_file_and_the_proof_is_of_the_rounded_weights(tmp_path):
    encoder = small_encoder()
    before = encoder.weights_sha256
    whole, half = save_entry(encoder, tmp_path / "whole"), save_entry(encoder, tmp_path / "half", dtype="fp16")
    stored = load_file(half / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16, torch.int64}  # BatchNorm counts stay integers
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, whole)]
    assert 0.5 < sizes[0] / sizes[1] < 0.52  # the header is not halved
    assert recorded(half).weights_sha256 == weights_sha256(stored) != recorded(whole).weights_sha256
    rounded = small_encoder()
    rounded.module.load_state_dict(stored)
    assert recorded(half).probe == tuple(rounded.probe()) != recorded(whole).probe
    assert weights_sha256(encoder.module.state_dict()) == before  # the encoder itself was not rounded


def test_a_saved_folder_loads_with_the_same_embeddings(tmp_path):
    encoder = small_encoder()
    encoder.save_pretrained(tmp_path / "m")
    loaded = clzoo.load(tmp_path / "m", device="cpu")
    np.testing.assert_array_equal(loaded.embed(probe_image()), encoder.embed(probe_image()))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_timm_loads_a_saved_folder_with_identical_outputs(tmp_path, dtype):
    save_entry(small_encoder(), tmp_path, dtype=dtype)
    ours = clzoo.load(tmp_path, device="cpu").module
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval().to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))
    assert timm.data.resolve_model_data_config(theirs)["input_size"] == [3, 32, 32]


def test_the_weights_are_as_readable_as_the_other_files(tmp_path):
    save_entry(small_encoder(), tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode


def test_metrics_and_recipe_stay_with_the_same_weights_and_go_with_others(tmp_path):
    save_entry(small_encoder(0), tmp_path, metrics=METRICS, recipe="seed: 0\n")
    save_entry(small_encoder(0), tmp_path)
    assert read_json(tmp_path / "metrics.json") == METRICS
    assert (tmp_path / "recipe.yaml").exists()
    save_entry(small_encoder(1), tmp_path)
    assert read_json(tmp_path / "metrics.json") == {"results": [], "training": {}}
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_generated_card_is_replaced(tmp_path):
    save_entry(small_encoder(0), tmp_path, metrics=METRICS)
    old = (tmp_path / "README.md").read_text()
    save_entry(small_encoder(1), tmp_path)
    new = (tmp_path / "README.md").read_text()
    assert "65.1" in old
    assert "65.1" not in new
    assert is_generated(new)


@pytest.mark.parametrize("edited", [True, False])
def test_a_card_that_a_person_wrote_or_edited_is_kept_and_that_is_said(tmp_path, caplog, edited):
    save_entry(small_encoder(0), tmp_path)
    card = (tmp_path / "README.md").read_text().replace("An image encoder", "My encoder") if edited else "# mine\n"
    (tmp_path / "README.md").write_text(card)
    with caplog.at_level(logging.WARNING, "clzoo"):
        save_entry(small_encoder(1), tmp_path)
    assert (tmp_path / "README.md").read_text() == card
    assert "README.md was written by hand and is kept" in caplog.text


@pytest.mark.parametrize(("value", "dtype", "advice"), [(1e6, "fp16", "fp32"), (float("nan"), "fp32", "diverged")])
def test_weights_that_are_not_finite_are_refused_and_named(tmp_path, value, dtype, advice):
    encoder = small_encoder()
    encoder.module.state_dict()["bn1.weight"][0] = value
    with pytest.raises(ClzooError, match=rf"tensor bn1\.weight .* not finite in {dtype}.*{advice}"):
        save_entry(encoder, tmp_path / "m", dtype=dtype)
    assert not (tmp_path / "m").exists()


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    encoder = small_encoder()
    encoder.config = dataclasses.replace(encoder.config, architecture="test_vit", num_features=64)
    with pytest.raises(ClzooError, match=r"does not hold exactly the \d+ tensors of test_vit"):
        save_entry(encoder, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_metrics_that_cannot_be_shown_are_refused_before_anything_is_written(tmp_path):
    for row, named in (({"value": 1.0}, "protocol"), ({**METRICS["results"][0], "value": float("nan")}, "value")):
        with pytest.raises(ClzooError, match=rf"results\[0\].*{named}"):
            save_entry(small_encoder(), tmp_path / "m", metrics={"results": [row]})
    assert not (tmp_path / "m").exists()


def test_another_programs_config_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ClzooError, match="no `clzoo` block"):
        save_entry(small_encoder(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "m").write_text("")
    with pytest.raises(ClzooError, match="cannot be written"):
        save_entry(small_encoder(), tmp_path / "m")


KILLED_SAVES = """
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)  # no thread pool, so that forked processes may compute
from small_models import METRICS, small_encoder
from clzoo.zoo.saving import save_entry

encoder = small_encoder(seed=1)
renamed = 0
def counted(rename):
    def counting(path, target):
        global renamed
        if renamed == count:
            os.kill(os.getpid(), signal.SIGKILL)
        renamed += 1
        return rename(path, target)
    return counting
Path.replace, Path.rename = counted(Path.replace), counted(Path.rename)

for folder in sys.argv[2:]:
    count = int(folder[-1])
    if os.fork() == 0:
        save_entry(encoder, Path(folder), metrics=METRICS)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_a_save_killed_at_any_rename_leaves_the_old_model_or_the_new_one(tmp_path, warm_python):
    old, new = small_encoder(0), small_encoder(1)
    save_entry(old, tmp_path / "old")
    for count in range(10):
        shutil.copytree(tmp_path / "old", tmp_path / f"replaced-{count}")
        old.config.save(tmp_path / f"weightless-{count}")  # an entry of the zoo before anybody downloaded its weights
    names = [f"{kind}-{count}" for kind in ("replaced", "weightless", "fresh") for count in range(10)]
    arguments = ("-c", KILLED_SAVES, str(Path(__file__).parents[1]), *(str(tmp_path / name) for name in names))
    child = warm_python.run(arguments, os.environ, timeout=240)
    codes = dict(zip(names, map(int, child.stdout.split()), strict=True))
    assert set(codes.values()) == {0, -signal.SIGKILL}, child.stderr

    states = {name: state_of(tmp_path / name, {old.weights_sha256: "old", new.weights_sha256: "new"}) for name in names}
    for name, state in states.items():
        before = {"replaced": "old", "weightless": "config alone", "fresh": "nothing"}[name.partition("-")[0]]
        assert state in (before, "new"), name
        assert codes[name] == -signal.SIGKILL or state == "new"
    assert set(states.values()) == {"old", "new", "config alone", "nothing"}


def state_of(folder, known):
    """What somebody finds who comes after the kill."""
    settle(folder)
    if not folder.exists():
        return "nothing"
    if not (folder / "model.safetensors").exists():
        assert [path.name for path in folder.iterdir()] == ["config.json"]
        return "config alone"
    return known[clzoo.load(folder, device="cpu").weights_sha256]


@pytest.mark.parametrize("name", ["metrics.json", "recipe.yaml", "model.onnx", "model.safetensors", "modules.json"])
def test_files_of_the_same_names_that_belong_to_no_entry_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ClzooError, match=f"holds {name} and no config.json.*name another folder"):
        save_entry(small_encoder(), tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_run_is_not_replaced_by_an_entry(tmp_path):
    for name in ("recipe.yaml", "state.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ClzooError, match="is a run, whose files an entry would replace"):
        save_entry(small_encoder(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "state.json"]


def published_encoder():
    source = Source("authors/weights", "model.pth", None, None, None, layout="")
    config = dataclasses.replace(small_encoder().config, source=source, published={"linear": 74.7}, license="mit")
    return Encoder(small_encoder().module, config)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("recorded_hash", [False, True])
def test_weights_that_were_changed_after_loading_are_not_said_to_be_the_published_ones(tmp_path, dtype, recorded_hash):
    encoder = published_encoder()
    save_entry(encoder, tmp_path / "same", dtype=dtype)
    assert recorded(tmp_path / "same").source == encoder.config.source
    assert "The weights are those published at" in (tmp_path / "same" / "README.md").read_text()
    loaded = clzoo.load(tmp_path / "same", "cpu") if recorded_hash else encoder
    again = save_entry(loaded, tmp_path / "again", dtype=dtype)
    assert recorded(again).source == encoder.config.source
    with torch.no_grad():
        next(loaded.module.parameters()).mul_(2)
    save_entry(loaded, tmp_path / "changed", dtype=dtype)
    found, card = recorded(tmp_path / "changed"), (tmp_path / "changed" / "README.md").read_text()
    assert (found.source, found.published, found.method, found.license) == (None, {}, "unknown", "mit")
    assert f"began as those of {encoder.config.name} and were changed after loading" in card
    assert "published at" not in card
    assert "74.7" not in card


def test_another_preprocessing_keeps_neither_measurements_nor_the_graph(tmp_path):
    folder = save_entry(small_encoder(), tmp_path / "m", metrics=METRICS, recipe="method: cacr\n")
    (folder / "model.onnx").write_bytes(b"a graph")
    save_entry(clzoo.load(folder, "cpu"), folder)
    assert read_json(folder / "metrics.json") == METRICS
    assert (folder / "model.onnx").is_file()
    save_entry(clzoo.load(folder, "cpu", size=64), folder)
    assert read_json(folder / "metrics.json")["results"] == []
    assert not (folder / "model.onnx").exists()
    assert (folder / "recipe.yaml").is_file()
