import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from clzoo.errors import ClzooError
from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.loop import pretrain
from clzoo.pretrain.recipe import find_recipe, load_recipe

SMALL = (
    "backbone.architecture=resnet10t",
    "backbone.model_args={channels: [4, 8, 8, 8], stem_type: deep, stem_width: 4}",
    "backbone.stem_stride=2",
    "method.hidden_dim=16",
    "method.out_dim=8",
    "schedule.epochs=1",
    "schedule.batch_size=8",
    "schedule.warmup_epochs=0",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 pictures of two classes: stripes along the rows or the columns, noise on top."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 8)):
        for name, axis in (("rows", 0), ("columns", 1)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                stripes = np.indices((32, 32))[axis] // rng.integers(2, 5) % 2 * 120
                noisy = stripes[..., None] + rng.integers(0, 100, (32, 32, 3))
                Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def weights_of(run) -> dict[str, torch.Tensor]:
    state = load_checkpoint(run)
    assert state is not None
    return state["method"]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["cacr_cifar10", "simclr_cifar10"])
def test_a_run_lowers_its_loss_and_leaves_a_whole_folder(name, pictures, tmp_path):
    recipe = load_recipe(find_recipe(name), (*SMALL, "schedule.epochs=15", "optimizer.base_lr=0.5"))
    assert pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["finished"]
    assert state["images_seen"] == 15 * 64
    assert state["encoder_forwards"] == 15 * 64 * recipe.method.views


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(pictures, tmp_path):
    recipe = load_recipe(find_recipe("cacr_cifar10"), SMALL)
    other = load_recipe(find_recipe("cacr_cifar10"), (*SMALL, "seed=1"))
    for run, what in (("a", recipe), ("b", recipe), ("c", other)):
        pretrain(what, pictures, tmp_path / run, device="cpu")
    assert same(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    assert not same(weights_of(tmp_path / "a"), weights_of(tmp_path / "c"))


# One step a call, each with a fresh load of data and checkpoint.
@pytest.mark.parametrize("name", ["cacr_cifar10", "simclr_cifar10"])
def test_a_run_stopped_and_resumed_equals_the_uninterrupted_one_bit_for_bit(name, pictures, tmp_path):
    recipe = load_recipe(find_recipe(name), SMALL)
    assert pretrain(recipe, pictures, tmp_path / "whole", device="cpu")
    pieces = 0
    while not pretrain(recipe, pictures, tmp_path / "pieces", device="cpu", max_minutes=0):
        pieces += 1
    assert pieces == 7
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "pieces"))


def start(pictures, run) -> subprocess.Popen:
    overrides = [part for value in (*SMALL, "schedule.epochs=12") for part in ("--set", value)]
    command = [sys.executable, "-m", "clzoo", "pretrain", "cacr_cifar10", "--data", str(pictures), "--out", str(run)]
    return subprocess.Popen([*command, *overrides], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(run, process) -> None:
    while not list(run.glob("checkpoint-*.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_process_goes_on_and_ends_with_the_weights_of_an_uninterrupted_one(pictures, tmp_path):
    seed = random.randrange(10**6)
    print("seed", seed)
    delays = random.Random(seed)
    recipe = load_recipe(find_recipe("cacr_cifar10"), (*SMALL, "schedule.epochs=12"))
    pretrain(recipe, pictures, tmp_path / "whole", device="cpu")
    run = tmp_path / "killed"
    for _ in range(4):
        process = start(pictures, run)
        wait_for_checkpoint(run, process)
        time.sleep(delays.uniform(0, 1.5))
        process.kill()
        process.wait()
    assert start(pictures, run).wait() == 0
    assert same(weights_of(tmp_path / "whole"), weights_of(run))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
def test_sigterm_leaves_a_checkpoint_and_exits_with_0(pictures, tmp_path):
    process = start(pictures, tmp_path / "run")
    wait_for_checkpoint(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert "run the same command again" in process.stderr.read()


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(pictures, tmp_path, caplog):
    recipe = load_recipe(find_recipe("cacr_cifar10"), (*SMALL, "schedule.epochs=2"))
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    older, newest = sorted((tmp_path / "run").glob("checkpoint-*.pt"))
    before = weights_of(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:-100])
    assert not same(weights_of(tmp_path / "run"), before)
    assert newest.name in caplog.text
    older.unlink()
    with pytest.raises(ClzooError, match="none is whole"):
        load_checkpoint(tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(pictures, tmp_path):
    recipe = load_recipe(find_recipe("cacr_cifar10"), (*SMALL, "optimizer.base_lr=1e30", "schedule.epochs=4"))
    with pytest.raises(ClzooError, match=r"the loss is nan at step \d+"):
        pretrain(recipe, pictures, tmp_path / "run", device="cpu")


def test_a_run_folder_is_not_taken_over_by_another_recipe_or_other_data(pictures, tmp_path):
    recipe = load_recipe(find_recipe("cacr_cifar10"), SMALL)
    pretrain(recipe, pictures, tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match="another recipe"):
        pretrain(load_recipe(find_recipe("cacr_cifar10"), (*SMALL, "seed=1")), pictures, tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match="other data"):
        pretrain(recipe, pictures / "test", tmp_path / "run", device="cpu")
    with pytest.raises(ClzooError, match="no run folder"):
        pretrain(recipe, pictures, pictures, device="cpu")


def test_fewer_images_than_a_batch_is_an_error(pictures, tmp_path):
    recipe = load_recipe(find_recipe("cacr_cifar10"), (*SMALL, "schedule.batch_size=100"))
    with pytest.raises(ClzooError, match="64 images, fewer than one batch"):
        pretrain(recipe, pictures, tmp_path / "run", device="cpu")
