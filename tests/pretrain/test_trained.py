"""A run is a model: whatever takes a model's name takes its folder."""

import logging

import numpy as np
import pytest
import torch
from labelled_pictures import make_splits
from small_recipes import small_recipe

import clzoo
from clzoo.cli import main
from clzoo.pretrain.build import build_method
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.start import start_from
from clzoo.publish import publish


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp("data") / "animals", train=40)


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    pretrain(small_recipe("mocov2_cifar10"), pictures, folder, device="cpu")
    return folder


def test_a_finished_run_loads_as_the_entry_that_is_published_of_it(run, pictures, tmp_path):
    entry = publish(run, "mocov2-resnet18-cifar10", pictures, tmp_path / "entry", protocols="knn", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    of_run, of_entry = clzoo.load(run, device="cpu"), clzoo.load(entry, device="cpu")
    assert of_run.weights_sha256 == of_entry.weights_sha256
    assert (of_run.embed(image) == of_entry.embed(image)).all()


def test_commands_take_a_run_for_a_model(run, pictures, tmp_path, capsys):
    store = tmp_path / "store"
    embed = ["embed", str(pictures / "test"), "--model", str(run), "--out", str(store), "--index", "faiss", "--quiet"]
    assert main(embed) in (0, None)
    assert main(embed) in (0, None)  # again: the manifest names the run, whose weights are the same
    query = next((pictures / "train").rglob("*.*g"))
    capsys.readouterr()
    assert main(["search", str(store), str(query), "-k", "1"]) in (0, None)
    assert str(query) in capsys.readouterr().out
    assert main(["export", str(run), "--to", "onnx", "--out", str(tmp_path / "model.onnx")]) in (0, None)


def test_an_unfinished_run_loads_its_newest_checkpoint_and_says_so(pictures, tmp_path, caplog):
    recipe = small_recipe("simclr_cifar10")
    assert not pretrain(recipe, pictures, tmp_path / "run", device="cpu", max_minutes=0)
    with caplog.at_level(logging.WARNING, "clzoo"):
        clzoo.load(tmp_path / "run", device="cpu")
    assert "stopped at step 1 of" in caplog.text


def test_a_run_is_started_from_with_its_heads_and_queue(run):
    recipe = small_recipe("mocov2_cifar10", "seed=5")
    method, kept = build_method(recipe, None), torch.load(_checkpoint(run), weights_only=True)["method"]
    start_from(method, str(run), None)
    assert all(torch.equal(value, kept[name]) for name, value in method.state_dict().items())


def _checkpoint(run):
    return max(run.glob("checkpoint-*.pt"))
