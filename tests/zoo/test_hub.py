"""Loading over HTTP: the real `huggingface_hub` client in fresh processes, against a Hub-compatible server."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from fake_checkpoints import SHIPPED, published_file, shrunk
from hub_server import TOKEN
from small_models import METRICS, small_encoder
from warm_python import Child

from clzoo.config import ModelConfig
from clzoo.zoo.saving import save_entry

REPO = "tester/small"
WEIGHTS = "model.safetensors"
PINNED, UNPINNED = "mocov3-resnet50-in1k", "cacr-resnet50-in1k"

LOAD_ALL = """
import hashlib, json, logging, sys
from pathlib import Path
import clzoo
from clzoo import assets
from clzoo.proof import probe_image

logging.basicConfig(level=logging.INFO, format="%(message)s")
zoo, calls = sys.argv[1:]
if zoo:
    assets.HUB = Path(zoo)
for call in json.loads(calls):
    try:
        encoder = clzoo.load(device="cpu", **call)
        vector = hashlib.sha256(encoder.embed(probe_image()).tobytes()).hexdigest()
        print(json.dumps({"weights": encoder.weights_sha256, "vector": vector}), flush=True)
    except clzoo.ClzooError as error:
        print(json.dumps({"error": str(error)}), flush=True)
"""


def load_all(hub, *calls: dict[str, Any], zoo: Path | str = "", **environment: Any) -> tuple[list[dict], str]:
    """Make these calls of `clzoo.load` in one fresh process; returns what came of each, and the log."""
    child = hub.python("-c", LOAD_ALL, str(zoo), json.dumps(calls), **environment)
    assert child.returncode == 0, child.stderr
    assert TOKEN not in child.stdout + child.stderr
    return [json.loads(line) for line in child.stdout.splitlines()], child.stderr


def load_one(hub, name: str, zoo: Path | str = "", **environment: Any) -> dict[str, str]:
    """The outcome of `clzoo.load(name)` in a fresh process."""
    ((outcome,), _) = load_all(hub, {"name_or_path": name}, zoo=zoo, **environment)
    return outcome


def start_load(hub, name: str, zoo: Path | str = "") -> Child:
    """The same in the background."""
    return hub.start("-c", LOAD_ALL, str(zoo), json.dumps([{"name_or_path": name}]))


@pytest.fixture
def pushed(hub, tmp_path: Path) -> Path:
    """A model folder, whose files also lie in REPO on the server."""
    folder = save_entry(small_encoder(), tmp_path / "entry", metrics=METRICS)
    hub.add(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    return folder


def publish(hub, folder: Path, name: str) -> ModelConfig:
    """A zoo under `folder` with one entry, shrunk, whose file somebody published on the server."""
    config = shrunk(SHIPPED[name])
    assert config.source is not None
    folder.mkdir(exist_ok=True)
    published_file(config, folder / "published.pth")
    data = (folder / "published.pth").read_bytes()
    commit = hub.add(config.source.repo, {config.source.file: data})
    if name == PINNED:
        source = dataclasses.replace(
            config.source, revision=commit, sha256=hashlib.sha256(data).hexdigest(), size=len(data)
        )
        config = dataclasses.replace(config, source=source)
    config.save(folder / name)
    return config


# -- models that were pushed by clzoo --------------------------------------------------------------------------------


@pytest.mark.parametrize("all_regular", [False, True])
def test_what_was_pushed_loads_in_a_fresh_process_with_identical_embeddings(hub, tmp_path, all_regular):
    hub.all_regular = all_regular
    folder = save_entry(small_encoder(), tmp_path / "entry", metrics=METRICS)
    pushing = hub.python("-m", "clzoo", "push", str(folder), REPO, "--quiet")
    assert pushing.returncode == 0, pushing.stderr
    outcomes, _ = load_all(hub, {"name_or_path": f"hf-hub:{REPO}"}, {"name_or_path": str(folder)})
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {"weights", "vector"}
    assert hub.repos[REPO].commits[hub.repos[REPO].branches["main"]][WEIGHTS].lfs != all_regular


def test_a_revision_can_be_asked_for_and_what_was_loaded_once_loads_offline(hub, pushed, tmp_path):
    old = hub.repos[REPO].branches["main"]
    newer = save_entry(small_encoder(seed=1), tmp_path / "newer")
    hub.add(REPO, {path.name: path.read_bytes() for path in newer.iterdir()})
    call = {"name_or_path": f"hf-hub:{REPO}"}
    (main, by_commit), _ = load_all(hub, call, {**call, "revision": old})
    assert main["weights"] == small_encoder(seed=1).weights_sha256
    assert by_commit["weights"] == small_encoder().weights_sha256
    asked = len(hub.requests)
    (offline, by_variable), _ = load_all(hub, {**call, "offline": True}, call, HF_HUB_OFFLINE="1")
    assert offline == by_variable == main
    assert len(hub.requests) == asked


def test_what_is_not_there_is_named_with_what_to_do(hub, pushed):
    hub.add("somebody/bert", {"config.json": b'{"model_type": "bert"}'})
    hub.add("somebody/gated", {"config.json": b"{}"}, gated=True)
    names = ["nobody/nothing", "somebody/bert", "somebody/gated"]
    calls = [{"name_or_path": f"hf-hub:{name}"} for name in names]
    nowhere = {"name_or_path": f"hf-hub:{REPO}", "revision": "nowhere"}
    (missing, foreign, gated, revision), _ = load_all(hub, *calls, nowhere)
    assert "no repository nobody/nothing" in missing["error"]
    assert "not a clzoo model" in foreign["error"]
    assert "gated" in gated["error"]
    assert "no revision 'nowhere'" in revision["error"]
    wrong_token = load_one(hub, f"hf-hub:{REPO}", token="hf_wrong")
    assert "hf auth login" in wrong_token["error"]


@pytest.mark.slow  # the client tries for 20 seconds
def test_without_a_network_the_error_says_so(hub):
    unreachable = load_one(hub, f"hf-hub:{REPO}", HF_ENDPOINT="http://127.0.0.1:9")
    assert "Check the network" in unreachable["error"]


def test_a_download_that_is_cut_goes_on_where_it_was(hub, tmp_path):
    encoder = small_encoder(architecture="resnet10t", num_features=512)  # 20 MB: the client writes pieces of 10
    folder = save_entry(encoder, tmp_path / "entry")
    hub.add(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.cut_after[WEIGHTS] = [15_000_000]
    assert load_one(hub, f"hf-hub:{REPO}")["weights"] == encoder.weights_sha256
    first, second = hub.downloads(WEIGHTS)
    assert "range" not in first
    assert int(second["range"].removeprefix("bytes=").removesuffix("-")) > 0


def test_a_download_that_is_cut_every_time_is_an_error_and_a_later_load_succeeds(hub, pushed):
    hub.cut_after[WEIGHTS] = [1000] * 20
    outcome = load_one(hub, f"hf-hub:{REPO}")
    assert f"{WEIGHTS} of {REPO}" in outcome["error"]
    assert "Nothing half-fetched is used. Type the same command again" in outcome["error"]
    hub.cut_after.clear()
    assert load_one(hub, f"hf-hub:{REPO}")["weights"] == small_encoder().weights_sha256


def test_a_process_killed_in_the_middle_of_a_download_leaves_nothing_that_loads(hub, pushed):
    hub.stall_after[WEIGHTS] = 100_000
    child = start_load(hub, f"hf-hub:{REPO}")
    assert hub.stalled.wait(60)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    (offline,), _ = load_all(hub, {"name_or_path": f"hf-hub:{REPO}", "offline": True})
    assert f"{WEIGHTS} of {REPO}" in offline["error"]
    hub.stall_after.clear()
    assert load_one(hub, f"hf-hub:{REPO}")["weights"] == small_encoder().weights_sha256


def test_bytes_that_are_not_those_of_the_config_are_refused_until_they_are_removed_as_the_error_says(hub, pushed):
    hub.corrupt.add(WEIGHTS)
    refused = load_one(hub, f"hf-hub:{REPO}")
    assert "the weights have hash" in refused["error"]
    assert f"hf cache rm model/{REPO}" in refused["error"]
    hub.corrupt.clear()
    assert "error" in load_one(hub, f"hf-hub:{REPO}")  # the damaged file is the client's, and stays until then
    hf = "from huggingface_hub.cli.hf import main; main()"
    removed = hub.python("-c", hf, "cache", "rm", f"model/{REPO}", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert load_one(hub, f"hf-hub:{REPO}")["weights"] == small_encoder().weights_sha256


# -- zoo entries whose file somebody else published ------------------------------------------------------------------


def test_a_published_file_is_fetched_converted_once_and_taken_from_the_cache_afterwards(hub, tmp_path):
    config = publish(hub, tmp_path / "zoo", PINNED)
    first = load_one(hub, PINNED, tmp_path / "zoo")
    assert "error" not in first
    assert len(hub.downloads(config.source.file)) == 1
    asked = len(hub.requests)
    assert load_one(hub, PINNED, tmp_path / "zoo") == first
    assert len(hub.requests) == asked


def test_a_published_file_that_does_not_match_the_recorded_hash_is_refused(hub, tmp_path):
    config = publish(hub, tmp_path / "zoo", PINNED)
    hub.corrupt.add(config.source.file)
    refused = load_one(hub, PINNED, tmp_path / "zoo")
    assert f"expected {config.source.sha256}" in refused["error"]
    assert f"hf cache rm model/{config.source.repo}" in refused["error"]
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_a_pinned_entry_stays_at_its_revision_when_the_repository_moves_on(hub, tmp_path):
    config = publish(hub, tmp_path / "zoo", PINNED)
    hub.add(config.source.repo, {config.source.file: b"something else"})
    assert "error" not in load_one(hub, PINNED, tmp_path / "zoo")


def test_an_entry_without_a_recorded_hash_says_so_once_and_is_checked_against_the_hubs_own(hub, tmp_path):
    config = publish(hub, tmp_path / "zoo", UNPINNED)
    commit = hub.repos[config.source.repo].branches["main"]
    (first,), said = load_all(hub, {"name_or_path": UNPINNED}, zoo=tmp_path / "zoo")
    assert f"{UNPINNED} is not pinned yet" in said
    assert commit in said
    hub.add(config.source.repo, {config.source.file: b"something else"})
    (second,), said = load_all(hub, {"name_or_path": UNPINNED}, zoo=tmp_path / "zoo")
    assert second == first  # kept at the commit of the first load
    assert "not pinned" not in said


def test_an_entry_without_a_recorded_hash_is_refused_if_the_bytes_are_not_what_the_hub_states(hub, tmp_path):
    config = publish(hub, tmp_path / "zoo", UNPINNED)
    hub.corrupt.add(config.source.file)
    stated = (
        hub.repos[config.source.repo].commits[hub.repos[config.source.repo].branches["main"]][config.source.file].oid
    )
    assert f"expected {stated}" in load_one(hub, UNPINNED, tmp_path / "zoo")["error"]


def test_a_file_that_the_hub_states_no_sha256_of_is_not_used(hub, tmp_path):
    config = publish(hub, tmp_path / "zoo", UNPINNED)
    data = hub.files(config.source.repo)[config.source.file]
    hub.add(config.source.repo, {config.source.file: data}, lfs=False)  # a regular file has a git hash only
    assert "no SHA-256" in load_one(hub, UNPINNED, tmp_path / "zoo")["error"]


def test_processes_that_load_the_same_name_at_once_all_succeed(hub, tmp_path):
    publish(hub, tmp_path / "zoo", PINNED)
    children = [start_load(hub, PINNED, tmp_path / "zoo") for _ in range(3)]
    outcomes = []
    for child in children:
        done = child.finish()
        assert done.returncode == 0, done.stderr
        outcomes.append(json.loads(done.stdout))
    assert all(set(outcome) == {"weights", "vector"} for outcome in outcomes), outcomes
    assert outcomes[0] == outcomes[1] == outcomes[2]
    models = tmp_path / "cache" / "clzoo" / "models"
    assert [folder.name.split("@")[0] for folder in models.iterdir()] == [PINNED]


def test_a_process_killed_while_it_fetches_a_published_file_leaves_a_cache_that_a_later_load_completes(hub, tmp_path):
    config = publish(hub, tmp_path / "zoo", PINNED)
    hub.stall_after[config.source.file] = 100_000
    child = start_load(hub, PINNED, tmp_path / "zoo")
    assert hub.stalled.wait(60)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    hub.stall_after.clear()
    assert "error" not in load_one(
        hub, PINNED, tmp_path / "zoo"
    )  # which ends by itself: no dead one's lock is waited for
