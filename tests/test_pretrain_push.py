"""From a recipe to the Hub in one command: checkpoints on a branch meanwhile, the published model at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from labelled_pictures import make_splits

import clzoo
from clzoo.config import ModelConfig

sys.path.insert(0, str(Path(__file__).parent / "pretrain"))
from small_recipes import small_recipe  # which lies beside the tests of training

sys.path.pop(0)

REPO = "tester/mine"


@pytest.fixture
def typed(tmp_path) -> list[str]:
    """`clzoo pretrain` of a run of three epochs on 16 unlabelled pictures."""
    pictures = make_splits(tmp_path / "data", train=3)
    for path in (pictures / "train").rglob("*.png"):
        path.rename(pictures / "train" / f"{path.parent.name}-{path.name}")
    (tmp_path / "recipe.yaml").write_text(small_recipe("simclr_cifar10", "schedule.epochs=3").to_yaml())
    flat = [str(tmp_path / "recipe.yaml"), "--data", str(pictures / "train"), "--out", str(tmp_path / "run")]
    return ["-m", "clzoo", "pretrain", *flat, "--device", "cpu", "--push", REPO]


def test_checkpoints_go_to_a_branch_and_the_published_model_to_main(hub, typed, tmp_path):
    child = hub.python(*typed, "--push-every-epochs", "1", timeout=300)
    assert child.returncode == 0, child.stderr
    run = tmp_path / "run"
    assert child.stdout.splitlines()[-1] == f"{hub.endpoint}/{REPO}/commit/{hub.repos[REPO].branches['main']}"
    files = hub.files(REPO)
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert "No labelled evaluation" in files["README.md"].decode()
    pushed = [message for message in hub.repos[REPO].messages if message.startswith("Epoch")]
    assert pushed[0] == "Epoch 1, step 2"  # the next one is left out if that is still on its way
    branch = hub.files(REPO, "checkpoints")
    assert json.loads(branch["metrics.json"])["results"] == []
    of_branch = ModelConfig.from_json(json.loads(branch["config.json"]), "the branch").weights_sha256
    assert of_branch not in (None, clzoo.load(run, device="cpu").weights_sha256)


def test_without_access_nothing_begins(hub, typed, tmp_path):
    for options, said in (({"token": "hf_wrong"}, "does not accept the token"), ({"token": None}, "hf auth login")):
        child = hub.python(*typed, **options)
        assert child.returncode == 1
        assert said in child.stderr
    elsewhere = hub.python(*typed[:-1], "somebody/theirs")
    assert "no right to write to somebody/theirs" in elsewhere.stderr
    for option in (["--push-every-epochs", "1"], ["--private"]):
        alone = hub.python(*typed[:-2], *option)
        assert alone.returncode == 2
        assert f"{option[0]} needs --push" in alone.stderr
    assert not (tmp_path / "run").exists()
    assert not hub.repos


def test_a_push_that_fails_never_ends_the_training_and_the_same_command_pushes_later(hub, typed, tmp_path):
    fail = "import clzoo.publish, clzoo.pretrain.uploads\n" + (
        "def push(*_, **__): raise RuntimeError('the wire is cut')\n"
        "clzoo.pretrain.uploads.push = push\n"
        "def late(*_, **__): raise clzoo.ClzooError('the connection to the Hub failed.')\n"
        "clzoo.publish.push = late\n"
        "import sys; from clzoo.cli import main; main(sys.argv[1:])"
    )
    child = hub.python("-c", fail, *typed[2:], "--push-every-epochs", "1", timeout=300)
    assert child.returncode == 1
    run = tmp_path / "run"
    assert "the checkpoint of step 2 was not pushed, and the run goes on: the wire is cut" in child.stderr
    assert f"clzoo push {run}-step-2 {REPO} --revision checkpoints" in child.stderr
    assert f"{run / 'entry'} is saved, but it was not pushed" in child.stderr
    assert f"Then type: clzoo push {run / 'entry'} {REPO}" in child.stderr
    assert json.loads((run / "state.json").read_text())["finished"]
    assert hub.files(REPO) == {}
    again = hub.python(*typed, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "planted copies" not in again.stderr  # measured before, of the same weights
    assert set(hub.files(REPO)) >= {"config.json", "model.safetensors", "README.md", "recipe.yaml"}


def test_a_private_run_never_pushes_to_what_everybody_can_read(hub, typed, tmp_path):
    hub.add("tester/public", {"README.md": b"old"})
    public = hub.python(*typed[:-1], "tester/public", "--private")
    assert public.returncode == 1
    assert "tester/public exists and is public" in public.stderr
    assert not (tmp_path / "run").exists()  # found out before the first step
    child = hub.python(*typed, "--private", timeout=300)
    assert child.returncode == 0, child.stderr
    assert hub.repos[REPO].private
    assert "model.safetensors" in hub.files(REPO)


def test_publish_pushes_what_it_made(hub, typed, tmp_path):
    run, entry = tmp_path / "run", tmp_path / "entry"
    assert hub.python(*typed[:-2], timeout=300).returncode == 0
    name = ModelConfig.load(run / "config.json").name
    publish = ["-m", "clzoo", "publish", str(run), name, "--out", str(entry), "--push"]
    refused = hub.python(*publish, "somebody/theirs")
    assert "no right to write to somebody/theirs" in refused.stderr
    alone = hub.python(*publish[:-1], "--private")
    assert alone.returncode == 2
    assert "--private needs --push" in alone.stderr
    assert not entry.exists()  # found out before anything was measured
    child = hub.python(*publish, REPO, "--private")
    assert child.returncode == 0, child.stderr
    assert hub.repos[REPO].private
    assert child.stdout.splitlines()[-1] == f"{hub.endpoint}/{REPO}/commit/{hub.repos[REPO].branches['main']}"
    assert hub.files(REPO)["model.safetensors"] == (entry / "model.safetensors").read_bytes()
