"""Runs of small recipes, and what they leave."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import torch
from small_recipes import small_recipe

from clzoo.pretrain.checkpoint import load_checkpoint


def weights_of(run) -> dict[str, torch.Tensor]:
    """The method's state in the newest checkpoint."""
    state = load_checkpoint(run)
    assert state is not None
    return state["method"]


def lines_of(run) -> list[dict[str, float]]:
    """What the run logged."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def same(a, b) -> bool:
    """Whether two states are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def command(pictures, run, *overrides, name="cacr_cifar10", device="cpu") -> list[str]:
    """The command line, without Python, on a small recipe written out as a file."""
    recipe = run.parent / f"{run.name}.yaml"
    recipe.write_text(small_recipe(name, *overrides).to_yaml())
    return ["pretrain", str(recipe), "--data", str(pictures), "--out", str(run), "--device", device]


def torchrun(*arguments, processes=2, restarts=0, extra=(), **options) -> subprocess.Popen:
    """The same under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher += [f"--max-restarts={restarts}"] if restarts else []
    whole = [sys.executable, *launcher, "-m", "clzoo", *command(*arguments, **options), *extra]
    return subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(run, process) -> None:
    while not list(run.glob("checkpoint-*.json")):
        assert process.poll() is None
        time.sleep(0.02)
