"""An entry loads in other libraries with the same vectors, or they refuse it: never other vectors without an error."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from fake_checkpoints import random_backbone, small_config, write_local

import clzoo
from clzoo import assets
from clzoo.backbones import SmallAlexNet, feature_width, network_of
from clzoo.config import ModelConfig, Preprocessing
from clzoo.errors import ClzooError
from clzoo.export import elsewhere
from clzoo.export.elsewhere import LIBRARIES, compare_elsewhere
from clzoo.zoo.entries import bundled_weights, list_models
from clzoo.zoo.saving import save_entry
from clzoo.zoo.sentence_files import SENTENCE_FILES

THROUGH_TIMM = ("timm", "transformers", "sentence-transformers")


def config_of(architecture, size, pool="avg", **changes):
    """Of an architecture of timm, its feature measured."""
    values = {"model_args": {}, "preprocessing": Preprocessing(size=size), "name": "fake", "backbone": architecture}
    config = small_config(**{**values, **changes}, architecture=architecture, global_pool=pool, num_features=1)
    with torch.device("meta"):
        width = feature_width(network_of(config), size)
    return dataclasses.replace(config, num_features=width)


NARROW = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32], "stem_type": "deep", "stem_width": 8}

BUILT = {  # by timm too
    "resnet": lambda: config_of("test_resnet", 64),
    "resnet, narrow with a deep stem": lambda: config_of("resnet18", 64, model_args=NARROW),
    "vit, class token": lambda: config_of("test_vit", 160, "token"),
    "vit, mean of its tokens": lambda: config_of("test_vit", 160, "avg"),
    "vit, other heads": lambda: config_of("test_vit", 160, "token", model_args={"num_heads": 4}),
    "vit, other images": lambda: config_of("test_vit", 96, "token", model_args={"img_size": 96}),
    "vit, images of any size": lambda: config_of("test_vit", 96, "token", model_args={"dynamic_img_size": True}),
    "convnext": lambda: config_of("test_convnext", 64),
    "efficientnet": lambda: config_of("test_efficientnet", 64),
    "crossvit, made for 240 px": lambda: config_of("crossvit_tiny_240", 240),
}

OURS = {  # by nobody else
    "small stem": lambda: config_of("test_resnet", 32, stem_stride=1),
    "small stem of stride 2 with its pool": lambda: config_of("test_resnet", 64, stem_stride=2, stem_pool=True),
    "small stem, narrow": lambda: config_of("resnet18", 32, stem_stride=2, model_args=NARROW),
    "small stem of an architecture with a tag": lambda: config_of("resnet18.a1_in1k", 32, stem_stride=1),
}


def saved(folder, config, **options):
    """A whole entry with random weights, no two tensors alike."""
    save_entry(clzoo.load(write_local(folder, config, random_backbone(config)), "cpu"), folder, **options)
    return folder


def needs(*libraries):
    for library in libraries:
        for package in LIBRARIES[library].packages:
            if importlib.util.find_spec(package.replace("-", "_")) is None:
                pytest.skip(f'{package} is not installed: pip install "clzoo[interop]"')


def assert_same(comparison):
    assert comparison.status == "same", comparison
    assert comparison.problem is None
    assert set(comparison.cosines) == {"probe", "chelsea", "coffee", "rocket"}
    assert min(comparison.cosines.values()) > 0.99999
    assert comparison.max_difference <= 1e-4


@pytest.mark.parametrize("family", BUILT)
def test_timm_gives_the_same_vectors_of_every_family_that_it_builds(tmp_path, family):
    folder = saved(tmp_path / "entry", BUILT[family]())
    (comparison,) = compare_elsewhere(folder, ["timm"])
    assert_same(comparison)


@pytest.mark.parametrize("family", OURS)
def test_timm_refuses_what_only_clzoo_builds_and_names_it(tmp_path, family):
    folder = saved(tmp_path / "entry", OURS[family]())
    raw = json.loads((folder / "config.json").read_text())
    assert "pretrained_cfg" not in raw  # by which transformers would take it for timm's
    assert not timm.is_model(raw["architecture"])
    with pytest.raises(RuntimeError, match=r"Unknown model .clzoo's .* with a small-image stem"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    (comparison,) = compare_elsewhere(folder, ["timm"])
    assert (comparison.status, comparison.problem) == ("refused", None)
    assert "Unknown model" in comparison.reason
    assert not any((folder / name).exists() for name in SENTENCE_FILES)


def test_the_small_alexnet_is_no_model_of_timms(tmp_path):
    config = small_config(
        architecture="small_alexnet", num_features=SmallAlexNet.num_features, preprocessing=Preprocessing(size=32)
    )
    config.save(tmp_path)
    assert ModelConfig.load(tmp_path / "config.json") == config
    with pytest.raises(RuntimeError, match=r"Unknown model .clzoo's small_alexnet"):
        timm.create_model(f"local-dir:{tmp_path}")


@pytest.mark.slow
@pytest.mark.parametrize("family", BUILT)
def test_every_library_gives_the_same_vectors_of_every_family_that_timm_builds(tmp_path, family):
    needs(*THROUGH_TIMM)
    folder = saved(tmp_path / "vit-resnet-bert", BUILT[family]())  # names by which a library might guess
    compared = compare_elsewhere(folder, list(LIBRARIES))
    assert [comparison.library for comparison in compared] == list(LIBRARIES)
    for comparison in compared:
        assert_same(comparison)


@pytest.mark.slow
@pytest.mark.parametrize("family", OURS)
def test_every_library_refuses_what_only_clzoo_builds_and_its_graph_is_the_same(tmp_path, family):
    needs(*THROUGH_TIMM)
    folder = saved(tmp_path / "vit-resnet-bert", OURS[family]())
    *others, onnx, lite = compare_elsewhere(folder, list(LIBRARIES))
    assert [comparison.status for comparison in others] == ["refused"] * 3
    assert "model type `clzoo`" in others[1].reason
    assert_same(onnx)
    assert_same(lite)


@pytest.mark.slow
def test_weights_stored_in_fp16_compute_in_fp32_everywhere(tmp_path):
    needs(*THROUGH_TIMM)
    for comparison in compare_elsewhere(saved(tmp_path / "half", BUILT["vit, class token"](), dtype="fp16"), LIBRARIES):
        assert_same(comparison)


@pytest.mark.slow
def test_what_clzoo_wrote_before_is_found_out_by_running_it(tmp_path):
    needs(*THROUGH_TIMM)
    config = OURS["small stem"]()
    folder = saved(tmp_path / "old", config)
    (folder / "config.json").write_text(json.dumps(of_version_1(ModelConfig.load(folder / "config.json"))))
    _, transformers, sentences = compare_elsewhere(folder, THROUGH_TIMM)
    assert (transformers.status, sentences.status) == ("differs", "differs")
    assert "without an error" in transformers.problem
    vit = saved(tmp_path / "vit", BUILT["vit, class token"]())
    for name in SENTENCE_FILES:
        (vit / name).unlink()
    timms, transformers, sentences = compare_elsewhere(vit, THROUGH_TIMM)
    assert (timms.status, transformers.status, sentences.status) == ("same", "same", "differs")


@pytest.mark.slow
def test_the_bundled_model_is_verified_in_every_library(clzoo_says):
    needs(*THROUGH_TIMM)
    name = next(name for name in list_models() if bundled_weights(name))
    code, out, err = clzoo_says("verify", name, "--in", ",".join(LIBRARIES), "--json", "--quiet")
    assert code == 0, err
    statuses = {row["library"]: row["status"] for row in json.loads(out)["elsewhere"]}
    refused = dict.fromkeys(THROUGH_TIMM, "refused")
    assert statuses == {**refused, "onnx": "same", "lite": "same"}


@pytest.fixture
def timm_does(clzoo_says, monkeypatch):
    """`clzoo verify --in timm`, where timm does what is given."""

    def run(folder, what):
        monkeypatch.setitem(LIBRARIES, "timm", dataclasses.replace(LIBRARIES["timm"], run=what))
        return clzoo_says("verify", folder, "--in", "timm", "--quiet")

    return run


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 0), (1e-3, 1), (np.nan, 1)])
def test_other_vectors_without_an_error_fail_and_equal_ones_pass(tmp_path, timm_does, shift, expected):
    folder = saved(tmp_path / "entry", BUILT["resnet"]())
    code, _, err = timm_does(folder, lambda entry, images: entry.encoder.embed(images) + np.float32(shift))
    assert code == expected, err
    assert ("loads it without an error and gives other vectors" in err) == bool(expected)


@pytest.mark.parametrize(("family", "expected"), [(BUILT["resnet"], 1), (OURS["small stem"], 0)])
def test_a_refusal_fails_only_where_the_entry_promises_to_load(tmp_path, timm_does, family, expected):
    def refuse(entry, images):
        raise KeyError("layer1.0.conv1.weight")

    code, out, err = timm_does(saved(tmp_path / "entry", family()), refuse)
    assert code == expected
    assert ("should load it and does not" in err) if expected else ("refuses it, as it must" in out)
    assert "layer1.0.conv1.weight" in (err if expected else out)


def test_the_command_prints_the_matrix_and_exits_with_0(tmp_path, clzoo_says):
    folder = saved(tmp_path / "entry", BUILT["resnet"]())
    code, out, err = clzoo_says("verify", folder, "--in", "timm, lite,onnx", "--quiet")
    assert code == 0, err
    lines = out.splitlines()
    (head,) = [line for line in lines if "cosine, probe" in line]
    assert all(f"cosine, {name}" in head for name in ("chelsea", "coffee", "rocket"))
    (row,) = [line for line in lines if line.startswith(f"timm {timm.__version__}")]
    assert row.count("1.000000") == 4
    assert row.rstrip().endswith("same")


def test_a_library_that_is_not_installed_is_named_with_what_to_type(tmp_path, clzoo_says, monkeypatch):
    folder = saved(tmp_path / "entry", BUILT["resnet"]())
    find = importlib.util.find_spec
    absent = ("sentence_transformers", "onnxscript")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    for library, extra in (("sentence-transformers", "interop"), ("onnx", "cpu")):
        code, out, err = clzoo_says("verify", folder, "--in", f"timm,{library}", "--quiet")
        assert code == 1
        assert f"{library} is not installed" in err
        assert f'pip install "clzoo[{extra}]"' in err
        assert "same" in out  # timm's row is printed


def test_onnx_runtime_is_the_same_library_whatever_its_package_is_called(tmp_path, monkeypatch):
    ours = importlib.metadata.version

    def version(package: str) -> str:
        if package == "onnxruntime":  # where onnxruntime-gpu is installed in its place
            raise importlib.metadata.PackageNotFoundError(package)
        return ours(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (found,) = compare_elsewhere(saved(tmp_path / "entry", BUILT["resnet"]()), ["onnx"])
    assert (found.status, found.version) == ("same", ours("onnxruntime"))


def test_a_folder_that_names_code_is_given_to_no_library(tmp_path):
    folder = saved(tmp_path / "entry", BUILT["resnet"]())
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "auto_map": {"AutoModel": "theirs.Model"}}))
    with pytest.raises(ClzooError, match="auto_map, which names code"):
        compare_elsewhere(folder, ["timm"])


def test_an_unknown_library_is_an_error_that_names_the_known_ones(tmp_path):
    folder = saved(tmp_path / "entry", BUILT["resnet"]())
    with pytest.raises(ClzooError, match=r"'keras' is no library .* timm, transformers, sentence-transformers, onnx"):
        compare_elsewhere(folder, ["timm", "keras"])


def test_a_graph_of_other_arithmetic_is_held_to_its_own_tolerance(tmp_path):
    folder = saved(tmp_path / "entry", BUILT["resnet"]())
    clzoo.load(folder, "cpu").export(folder / "model.onnx", dtype="fp16", preprocess=True)
    for comparison in compare_elsewhere(folder, ["onnx", "lite"]):
        assert comparison.status == "same", comparison
        assert comparison.max_difference > 0  # the published file was run, not a new one


def of_version_1(config):
    """The content of config.json as clzoo wrote it at first: timm's keys for every network."""
    ours = config.to_json()["clzoo"]
    network = {key: getattr(config, key) for key in ("architecture", "num_features", "global_pool", "model_args")}
    p = config.preprocessing
    cfg = {"input_size": [3, p.size, p.size], "crop_pct": p.crop_pct, "interpolation": p.interpolation}
    cfg |= {"mean": list(p.mean), "std": list(p.std), "num_classes": 0, "first_conv": "conv1", "classifier": "fc"}
    block = {key: value for key, value in ours.items() if key not in (*network, "preprocessing")}
    return {**network, "num_classes": 0, "pretrained_cfg": cfg, "clzoo": {**block, "schema": 1}}


@pytest.mark.parametrize("family", {**BUILT, **OURS})
def test_a_config_of_version_1_is_read(family):
    config = dataclasses.replace({**BUILT, **OURS}[family](), weights_sha256="ab" * 32, probe=(0.5,) * 16)
    assert ModelConfig.from_json(of_version_1(config), "old") == config
    assert ModelConfig.from_json(config.to_json(), "new") == config


def test_two_pools_in_one_config_are_refused():
    raw = {**BUILT["resnet"]().to_json(), "global_pool": "max"}
    with pytest.raises(ClzooError, match="theirs is not a valid model config: global_pool is 'max', and 'avg' in"):
        ModelConfig.from_json(raw, "theirs")


@pytest.mark.parametrize("name", list_models())
def test_no_entry_of_the_zoo_can_be_taken_for_another_network(name):
    config = ModelConfig.load(assets.HUB / name / "config.json")
    raw = json.loads((assets.HUB / name / "config.json").read_text())
    assert raw == json.loads(json.dumps(config.to_json()))
    assert ("pretrained_cfg" in raw) == (config.stem_stride is None)
    assert timm.is_model(raw["architecture"]) == (config.stem_stride is None)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnet", "vit, class token"])
def test_the_snippets_of_the_card_run_and_give_the_same_vectors(tmp_path, monkeypatch, clzoo_says, family):
    needs(*THROUGH_TIMM)
    monkeypatch.chdir(tmp_path)
    card = (saved(Path("entry"), BUILT[family]()) / "README.md").read_text()
    for image, name in zip(elsewhere.test_images().values(), ("a.jpg", "b.jpg"), strict=False):
        image.save(name)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert [block.split()[1] for block in blocks] == ["clzoo", "timm", "PIL", "PIL", "clzoo.lite"]
    (export,) = re.findall(r"```sh\nclzoo (.*?)\n```", card)
    assert clzoo_says(*export.split())[0] == 0
    names = [{} for _ in blocks]
    for block, found in zip(blocks, names, strict=True):
        exec(block, found)
    (ours, _), in_timm, feature, (sentence,), (lite, _) = (
        names[0]["vectors"],
        names[1]["model"],
        names[2]["features"],
        names[3]["vectors"],
        names[4]["vectors"],
    )
    encoder = clzoo.load("./entry", "cpu")
    assert in_timm.num_features == encoder.dim
    np.testing.assert_allclose(sentence, ours, atol=1e-4)
    assert ours @ lite > 0.999  # the graph resizes by itself
    np.testing.assert_allclose(feature[0].detach(), encoder.embed("a.jpg", normalize=False), rtol=1e-3, atol=1e-4)
