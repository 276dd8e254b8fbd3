"""list, info, verify, cached and convert, as a user types them."""

import json
from pathlib import Path

import pytest
import torch
from fake_checkpoints import SHIPPED, FakeZoo, moco_style, random_backbone, shrunk, small_config

import clzoo
from clzoo import assets


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo of one pinned entry; the cache of the environment, and no network."""
    zoo = FakeZoo(tmp_path, shrunk(SHIPPED["hydra-vit_base-in1k"])).use(monkeypatch)
    monkeypatch.setenv("CLZOO_CACHE", str(zoo.cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return zoo


def test_list_shows_every_entry_and_what_there_is_of_it(clzoo_says):
    code, out, _ = clzoo_says("list")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["name", "params", "px", "dim", "linear/k-NN", "status"]
    assert [line.split()[0] for line in lines[1:-1]] == clzoo.list_models()
    assert max(len(line.rstrip()) for line in lines[:-1]) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["cacr-resnet50-in1k"] == ["23.5M", "224", "2048", "-", "/", "-", "hub"]
    assert rows["supcon-resnet10_w32-tiny"] == ["971k", "64", "256", "37.2", "/", "31.1", "bundled"]


def test_list_takes_a_part_of_a_name_and_says_so_where_nothing_matches(clzoo_says):
    _, out, _ = clzoo_says("list", "vit")
    names = [line.split()[0] for line in out.splitlines()[1:-1]]
    assert names == [name for name in clzoo.list_models() if "vit" in name]
    assert names
    code, out, err = clzoo_says("list", "hydra-vit_smal-in1k")
    assert (code, out) == (1, "")
    assert "The closest: hydra-vit_small-in1k" in err


def test_info_says_what_was_measured_on_how_many_images(clzoo_says):
    _, out, _ = clzoo_says("info", "supcon-resnet10_w32-tiny")
    assert "linear 37.21 / k-NN 31.14, top-1 % on Tiny-ImageNet, 10,000 images" in out
    assert "shorter side 64 px" in out


def test_info_of_a_folder_tells_what_was_measured_beside_it_and_not_of_the_entry_of_its_name(clzoo_says, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    config = assets.HUB / "supcon-resnet10_w32-tiny" / "config.json"
    (folder / "config.json").write_bytes(config.read_bytes())
    _, out, _ = clzoo_says("info", str(folder))
    assert "37.21" not in out
    metrics = json.loads(config.with_name("metrics.json").read_text())
    for row in metrics["results"]:
        row["value"] = 12.34
    (folder / "metrics.json").write_text(json.dumps(metrics))
    _, out, _ = clzoo_says("info", str(folder))
    assert "linear 12.34 / k-NN 12.34" in out


def test_list_json_is_one_document(clzoo_says):
    code, out, _ = clzoo_says("list", "reco-resnet50*", "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert (row["name"], row["status"], row["source"]) == ("reco-resnet50-in1k", "recipe-only", None)


def test_info_prints_the_record_and_says_what_is_not_verified(clzoo_says):
    code, out, _ = clzoo_says("info", "hydra-vit_small-in1k")
    assert code == 0
    assert "{'num_heads': 12}" in out
    assert SHIPPED["hydra-vit_small-in1k"].source.sha256 in out
    assert "not verified on the published file" in out


def test_info_json_is_the_config_and_the_status(clzoo_says):
    _, out, _ = clzoo_says("info", "hydra-vit_small-in1k", "--json")
    value = json.loads(out)
    assert value.pop("status") == "hub"
    assert value == json.loads(json.dumps(SHIPPED["hydra-vit_small-in1k"].to_json()))


def test_an_unknown_name_exits_with_1_and_the_closest(clzoo_says):
    code, out, err = clzoo_says("info", "hydra-vit_smal-in1k")
    assert (code, out) == (1, "")
    assert err.startswith("error: the zoo has no model 'hydra-vit_smal-in1k'. The closest: hydra-vit_small-in1k")


def test_verify_without_a_recorded_probe_says_so_and_exits_with_1(zoo, clzoo_says):
    code, out, err = clzoo_says("verify", zoo.config.name)
    assert code == 1
    assert "verified  NO" in out
    assert "no probe is recorded" in err


def test_cached_lists_sizes_and_rm_deletes(zoo, clzoo_says):
    assert clzoo_says("cached")[1] == f"{zoo.cache} holds nothing\n"
    clzoo_says("verify", zoo.config.name)
    _, out, _ = clzoo_says("cached", "--json")
    (model,) = json.loads(out)
    assert model["bytes"] == sum(path.stat().st_size for path in Path(model["folder"]).iterdir())
    assert model["sha256"] == zoo.sha256
    assert f"{model['bytes'] / 1e6:,.1f} MB" in clzoo_says("cached")[1]
    code, out, _ = clzoo_says("cached", "--rm", zoo.config.name)
    assert (code, out) == (0, f"removed {zoo.config.name}: {model['bytes'] / 1e6:,.1f} MB\n")
    assert not Path(model["folder"]).exists()
    assert clzoo_says("cached", "--rm", zoo.config.name)[0] == 1


def test_graphs_of_the_backend_onnx_are_listed_and_deleted_and_nothing_else_is(zoo, clzoo_says):
    graphs = zoo.cache / "onnx"
    graphs.mkdir(parents=True)
    (graphs / f"{'0f' * 16}.onnx").write_bytes(bytes(2_000_000))
    assert clzoo_says("cached")[1].splitlines()[-1].split()[:3] == ["onnx", "2.0", "MB"]
    assert json.loads(clzoo_says("cached", "--json")[1])[-1] == {
        "name": "onnx",
        "folder": str(graphs),
        "bytes": 2_000_000,
    }
    (graphs / "thesis.onnx").touch()
    assert clzoo_says("cached", "--rm", "onnx")[:2] == (0, "removed onnx: 2.0 MB\n")
    assert [path.name for path in graphs.iterdir()] == ["thesis.onnx"]
    assert clzoo_says("cached")[1] == f"{zoo.cache} holds nothing\n"


def test_convert_prints_what_was_kept_renamed_and_dropped_and_verify_passes(tmp_path, clzoo_says):
    torch.save(moco_style("module.encoder_q.", "fc", random_backbone(small_config())), tmp_path / "a.pth")
    code, out, _ = clzoo_says("convert", tmp_path / "a.pth", "--arch", "test_resnet", "--out", tmp_path / "mine")
    assert code == 0
    assert "kept:    90 tensors" in out
    assert "renamed: 90 tensors, module.encoder_q.NAME -> NAME" in out
    dropped = next(line for line in out.splitlines() if line.startswith("dropped:"))
    for name in ("module.encoder_k (92 tensors)", "module.encoder_q.fc (2 tensors)", "module.queue ", "optimizer"):
        assert name in dropped
    code, out, err = clzoo_says("verify", tmp_path / "mine")
    assert code == 0, err
    assert "verified  yes" in out
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "how and on what it was trained is not recorded" in card
    assert "self-supervised" not in card


def test_convert_of_a_vit_names_its_heads_and_takes_another_number(tmp_path, clzoo_says):
    torch.save(random_backbone(small_config("token")), tmp_path / "a.pth")
    arguments = ("convert", tmp_path / "a.pth", "--arch", "test_vit", "--out")
    assert "heads:   2 (timm's default" in clzoo_says(*arguments, tmp_path / "two")[1]
    assert "heads:   4 (as given" in clzoo_says(*arguments, tmp_path / "four", "--model-arg", "num_heads=4")[1]
    two, four = (clzoo.load(tmp_path / name, "cpu") for name in ("two", "four"))
    assert two.weights_sha256 == four.weights_sha256
    assert two.probe() != pytest.approx(four.probe(), rel=1e-3, abs=1e-4)


def test_convert_of_a_file_that_does_not_fit_exits_with_1_and_leaves_nothing(tmp_path, clzoo_says):
    torch.save({"encoder.x": torch.ones(1)}, tmp_path / "a.pth")
    code, _, err = clzoo_says("convert", tmp_path / "a.pth", "--arch", "test_resnet", "--out", tmp_path / "mine")
    assert code == 1
    assert "no tensor of test_resnet" in err
    assert not (tmp_path / "mine").exists()


def test_a_missing_option_is_wrong_usage(tmp_path, clzoo_says):
    assert clzoo_says("convert", tmp_path / "a.pth")[0] == 2
