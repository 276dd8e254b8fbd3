"""Pushing: what is refused before the network is touched, and what the real client sends to a Hub-compatible server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN
from huggingface_hub import ModelCard
from small_models import METRICS, result, small_encoder

import clzoo
from clzoo.config import ModelConfig
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.zoo.saving import save_entry

REPO = "tester/small"
REQUIRED = {"config.json", "model.safetensors", "README.md", "metrics.json"}
UPLOADED = REQUIRED | {"modules.json", "sentence_bert_config.json"}

PUSH_ALL = """
import json, sys
from clzoo import ClzooError, push
for call in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"url": push(**call)}), flush=True)
    except ClzooError as error:
        print(json.dumps({"error": str(error)}), flush=True)
"""


def push_all(hub, *calls: dict[str, Any], **environment: Any) -> list[dict[str, str]]:
    """Make these calls of `clzoo.push` in one fresh process; returns {"url": ...} or {"error": ...} of each."""
    child = hub.python(
        "-c", PUSH_ALL, json.dumps([{**call, "path": str(call["path"])} for call in calls]), **environment
    )
    assert child.returncode == 0, child.stderr
    assert TOKEN not in child.stdout + child.stderr
    return [json.loads(line) for line in child.stdout.splitlines()]


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return save_entry(small_encoder(), tmp_path / "entry", metrics=METRICS)


# -- before the network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_folder_without_one_of_its_files_is_refused_and_the_file_named(entry, name):
    (entry / name).unlink()
    with pytest.raises(ClzooError, match=rf"{name} missing.*save_pretrained"):
        clzoo.push(entry, REPO)


def test_weights_that_are_not_those_of_the_config_are_refused(entry, tmp_path):
    other = save_entry(small_encoder(seed=1), tmp_path / "other")
    (entry / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ClzooError, match=r"other weights than config\.json says"):
        clzoo.push(entry, REPO)


def test_truncated_weights_are_refused_and_named(entry):
    whole = (entry / "model.safetensors").read_bytes()
    (entry / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClzooError, match=r"model\.safetensors .* is not a whole safetensors file"):
        clzoo.push(entry, REPO)


def test_weights_without_a_stated_license_need_a_word_of_consent(tmp_path):
    folder = save_entry(small_encoder(license="not stated"), tmp_path)
    with pytest.raises(ClzooError, match=r"not stated.*--accept-license"):
        clzoo.push(folder, REPO)


def test_a_repository_without_an_owner_and_a_missing_folder_are_refused(entry, tmp_path):
    with pytest.raises(ClzooError, match="OWNER/NAME, found 'small'"):
        clzoo.push(entry, "small")
    with pytest.raises(ClzooError, match="nowhere is not a folder"):
        clzoo.push(tmp_path / "nowhere", REPO)


# -- over HTTP -------------------------------------------------------------------------------------------------------


def test_a_push_is_one_commit_of_exactly_the_entrys_files(hub, entry):
    (entry / "training.log").write_text("not for the world")
    (outcome,) = push_all(hub, {"path": entry, "repo_id": REPO})
    repo = hub.repos[REPO]
    assert outcome == {"url": f"{hub.endpoint}/{REPO}/commit/{repo.branches['main']}"}
    assert repo.messages == ["initial commit", f"Upload cacr-test_resnet-cifar10 with clzoo {clzoo.__version__}"]
    files = hub.files(REPO)
    assert set(files) == UPLOADED
    for name in UPLOADED - {"README.md"}:
        assert files[name] == (entry / name).read_bytes()
    agents = [headers["user-agent"] for method, path, headers in hub.requests if "/commit/" in path]
    assert all(f"clzoo/{clzoo.__version__}" in agent for agent in agents)
    assert any(method == "PUT" for method, *_ in hub.requests)  # the weights took the LFS path


def test_an_entry_in_the_first_format_is_pushed_in_the_present_one(hub, entry):
    """What it says stays; transformers would have built another network from it, or sentence-transformers pooled it."""
    config = ModelConfig.load(entry / "config.json")
    raw = read_json(entry / "config.json")
    raw["clzoo"]["schema"] = 1
    del raw["model_args"]["global_pool"], raw["dtype"]
    (entry / "config.json").write_text(json.dumps(raw))
    (entry / "modules.json").unlink()
    push_all(hub, {"path": entry, "repo_id": REPO})
    files = hub.files(REPO)
    assert set(files) == UPLOADED
    assert json.loads(files["config.json"]) == json.loads(json.dumps(config.to_json()))


def test_without_lfs_the_same_files_arrive_in_the_commit_itself(hub, entry):
    hub.all_regular = True
    push_all(hub, {"path": entry, "repo_id": REPO})
    assert hub.files(REPO)["model.safetensors"] == (entry / "model.safetensors").read_bytes()
    assert not any(method == "PUT" for method, *_ in hub.requests)


def test_the_pushed_card_names_the_repository_and_one_by_hand_goes_as_it_is(hub, entry, tmp_path):
    by_hand = save_entry(small_encoder(), tmp_path / "by-hand")
    (by_hand / "README.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    push_all(hub, {"path": entry, "repo_id": REPO}, {"path": by_hand, "repo_id": "tester/by-hand"})
    card = ModelCard(hub.files(REPO)["README.md"].decode())
    assert f'clzoo.load("hf-hub:{REPO}")' in card.text
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True)' in card.text
    assert card.data.eval_results[0].metric_value == 65.1
    assert hub.files("tester/by-hand")["README.md"] == (by_hand / "README.md").read_bytes()


def test_pushing_again_commits_nothing_and_other_weights_take_the_old_recipe_away(hub, entry, tmp_path):
    save_entry(small_encoder(), entry, recipe="seed: 0\n")
    other = save_entry(small_encoder(seed=1), tmp_path / "other")
    same = {"path": entry, "repo_id": REPO}
    first, again, last = push_all(hub, same, same, {**same, "path": other, "commit_message": "Other weights"})
    assert first == again != last
    repo = hub.repos[REPO]
    assert repo.messages[2:] == ["Other weights"]
    assert "recipe.yaml" in repo.commits[first["url"].split("/")[-1]]
    assert set(hub.files(REPO)) == UPLOADED


def test_a_pull_request_and_a_branch_leave_main_alone(hub, entry):
    hub.add(REPO, {"README.md": b"old"})
    hub.repos[REPO].branches["dev"] = hub.repos[REPO].branches["main"]
    call = {"path": entry, "repo_id": REPO}
    proposed, branched, nowhere = push_all(
        hub, {**call, "create_pr": True}, {**call, "revision": "dev"}, {**call, "revision": "nowhere"}
    )
    assert proposed == {"url": f"{hub.endpoint}/{REPO}/discussions/1"}
    assert set(hub.files(REPO, "refs/pr/1")) == set(hub.files(REPO, "dev")) == UPLOADED
    assert "/commit/" in branched["url"]
    assert "no branch 'nowhere'. Type: hf repos branch create" in nowhere["error"]
    assert hub.files(REPO) == {"README.md": b"old"}


def test_every_refusal_says_what_to_do_and_commits_nothing(hub, entry):
    hub.add("tester/public", {"README.md": b"old"})
    hub.add("somebody/theirs", {"README.md": b"old"})
    call = {"path": entry, "repo_id": REPO}
    wrong_token, no_right, missing, public, bad_name, proposed = push_all(
        hub,
        {**call, "token": "hf_wrong"},
        {**call, "repo_id": "somebody/theirs"},
        {**call, "repo_id": "tester/missing", "create_pr": True},
        {**call, "repo_id": "tester/public", "private": True},
        {**call, "repo_id": "tester/../x"},
        {**call, "repo_id": "tester/public", "private": True, "create_pr": True},
    )
    assert "does not accept the token" in wrong_token["error"]
    assert "hf auth login" in wrong_token["error"]
    assert "hf_wrong" not in str(wrong_token)
    assert "no right to write to somebody/theirs" in no_right["error"]
    assert "no model repository tester/missing" in missing["error"]
    assert "hf repos create tester/missing" in missing["error"]
    assert "tester/public exists and is public" in public["error"]
    assert "tester/public exists and is public" in proposed["error"]
    assert "OWNER/NAME" in bad_name["error"]
    assert set(hub.repos) == {"tester/public", "somebody/theirs"}
    assert hub.files("tester/public") == hub.files("somebody/theirs") == {"README.md": b"old"}


def test_without_a_token_or_a_network_the_error_says_so(hub, entry):
    call = {"path": entry, "repo_id": REPO}
    (no_token,) = push_all(hub, call, token=None)
    assert "there is none" in no_token["error"]
    (offline,) = push_all(hub, call, HF_HUB_OFFLINE="1")
    assert "unset HF_HUB_OFFLINE" in offline["error"]
    (unreachable,) = push_all(hub, call, HF_ENDPOINT="http://127.0.0.1:9")
    assert "connection to the Hub failed" in unreachable["error"]
    assert not hub.repos


def test_consent_and_privacy_reach_the_hub(hub, tmp_path):
    folder = save_entry(small_encoder(license="not stated"), tmp_path / "unlicensed")
    (outcome,) = push_all(hub, {"path": folder, "repo_id": REPO, "accept_license": True, "private": True})
    assert "url" in outcome
    assert hub.repos[REPO].private


def test_the_command_prints_the_url_and_never_the_token(hub, entry):
    plain = hub.python("-m", "clzoo", "push", str(entry), REPO, "--message", "Hello", "--debug", HF_DEBUG="1")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout == f"{hub.endpoint}/{REPO}/commit/{hub.repos[REPO].branches['main']}\n"
    assert hub.repos[REPO].messages[-1] == "Hello"
    as_json = hub.python("-m", "clzoo", "push", str(entry), REPO, "--json", "--quiet")
    assert json.loads(as_json.stdout) == {"repo_id": REPO, "url": plain.stdout.strip()}
    refused = hub.python("-m", "clzoo", "push", str(entry), REPO, token="hf_wrongButSecret")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: the Hub does not accept the token")
    for text in (plain.stdout, plain.stderr, as_json.stderr, refused.stderr, refused.stdout):
        assert TOKEN not in text
        assert "hf_wrongButSecret" not in text


def test_an_encoder_pushes_itself(hub, entry):
    code = (
        "import sys, clzoo; encoder = clzoo.load(sys.argv[1], device='cpu');"
        "print(encoder.push_to_hub(sys.argv[2], metrics={'results': []}, dtype='fp16'))"
    )
    child = hub.python("-c", code, str(entry), REPO)
    assert child.returncode == 0, child.stderr
    files = hub.files(REPO)
    assert set(files) == UPLOADED
    assert len(files["model.safetensors"]) < 0.52 * (entry / "model.safetensors").stat().st_size
    assert json.loads(files["config.json"])["clzoo"]["name"] == read_json(entry / "config.json")["clzoo"]["name"]


# -- what else an entry may hold -------------------------------------------------------------------------------------


def test_an_exported_graph_goes_along_and_results_against_the_hubs_rules_go_away(hub, tmp_path, small_graph):
    metrics = {"results": [result(dataset_id="uoft-cs/cifar10")], "training": {}}
    entry = save_entry(small_encoder(), tmp_path / "entry", metrics=metrics)
    shutil.copy(small_graph, entry / "model.onnx")
    earlier = {f".eval_results/{name}.yaml": b"- x" for name in ("uoft-cs--cifar10", "somebody--else")}
    hub.add(REPO, earlier)
    (outcome,) = push_all(hub, {"path": entry, "repo_id": REPO})
    assert "error" not in outcome
    files = hub.files(REPO)
    assert {name for name in files if name.startswith(".eval")} == {".eval_results/somebody--else.yaml"}
    assert files["model.onnx"] == (entry / "model.onnx").read_bytes()
    other = save_entry(small_encoder(seed=1), tmp_path / "other")
    push_all(hub, {"path": other, "repo_id": REPO})
    assert set(hub.files(REPO)) - set(earlier) == UPLOADED  # it does not stay beside other weights


def test_a_graph_of_other_weights_is_refused_and_goes_when_the_entry_is_saved_anew(tmp_path, small_graph):
    entry = save_entry(small_encoder(seed=1), tmp_path / "entry", metrics=METRICS)
    shutil.copy(small_graph, entry / "model.onnx")
    with pytest.raises(ClzooError, match="was exported from weights"):
        clzoo.push(entry, REPO)
    save_entry(small_encoder(seed=2), entry)
    assert not (entry / "model.onnx").exists()
