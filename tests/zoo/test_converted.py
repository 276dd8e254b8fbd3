"""The cache holds whole models or nothing: killed processes, rival processes, damage, removal."""

import dataclasses
import hashlib
import os
import textwrap
import time
from pathlib import Path

import pytest
from fake_checkpoints import SHIPPED, FakeZoo, published_file, shrunk
from warm_python import Child

import clzoo
from clzoo import cache
from clzoo.errors import ClzooError
from clzoo.proof import weights_sha256
from clzoo.zoo import converted


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    return FakeZoo(tmp_path, shrunk(SHIPPED["hydra-vit_base-in1k"])).use(monkeypatch)


def load(zoo, **options):
    return clzoo.load(zoo.config.name, "cpu", cache_dir=zoo.cache, offline=True, **options)


@pytest.fixture
def start(warm_python):
    """Starts a fresh Python process that runs some code."""

    def start(code: str, *arguments: object) -> Child:
        command = ("-c", textwrap.dedent(code), *map(str, arguments))
        return warm_python.start(command, {**os.environ, "OMP_NUM_THREADS": "1"}, timeout=500)

    return start


# Loads once in a forked child for each audited event of the file system (open, rename, mkdir, remove, ...), and kills
# the child, with SIGKILL, at that event. Prints the number of events that a whole load has.
_KILL_AT_EVERY_EVENT = """
    import os, shutil, signal, sys
    from pathlib import Path
    import torch
    import clzoo, clzoo.assets
    from clzoo.proof import weights_sha256
    from clzoo.zoo import converted, locating

    hub, cache_dir, name, expected = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    clzoo.assets.HUB = hub

    def load():
        return clzoo.load(name, "cpu", cache_dir=cache_dir, offline=True)

    def forked(fatal):
        child = os.fork()
        if child == 0:
            seen = 0
            def count(event, arguments):
                nonlocal seen
                if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.rmtree"):
                    seen += 1
                    if seen == fatal:
                        os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(count)
            load()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        return status

    load()  # everything is imported before the first fork
    fatal, left, finished_before_death = 0, 0, 0
    while True:
        shutil.rmtree(cache_dir / "models")
        fatal += 1
        status = forked(fatal)
        held = converted.cached(cache_dir)
        for model in held:
            tensors = locating.read_safetensors(model.weights, next_step="")
            assert weights_sha256(tensors) == model.provenance.weights_sha256 == expected, fatal
            assert (model.folder / "pretrain.safetensors").is_file(), fatal
        finished_before_death += bool(held)
        left += any((cache_dir / "models").glob(".tmp-*")) if (cache_dir / "models").exists() else 0
        assert load().weights_sha256 == expected, fatal
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    print(fatal - 1, left, finished_before_death)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_at_any_file_system_event_leaves_a_whole_model_or_none(start, tmp_path):
    config = dataclasses.replace(shrunk(SHIPPED["hydra-vit_base-in1k"]), model_args={"depth": 1})
    zoo = FakeZoo(tmp_path, config)
    done = start(_KILL_AT_EVERY_EVENT, zoo.hub, zoo.cache, config.name, weights_sha256(zoo.backbone)).finish()
    assert done.returncode == 0, done.stderr
    events, left_temporary, finished_before_death = map(int, done.stdout.split())
    assert events > 20
    assert left_temporary > 5  # the kills did hit the middle of the writing
    assert 0 < finished_before_death < events


_LOAD_WHEN_TOLD = """
    import sys, time
    from pathlib import Path
    import clzoo, clzoo.assets, clzoo.zoo.locating
    hub, cache_dir, name, ready, go = map(Path, sys.argv[1:])
    clzoo.assets.HUB = hub
    ready.touch()
    while not go.exists():
        time.sleep(0.001)
    for attempt in range(10):  # each into another cache, so that each is a race
        place = cache_dir.with_name(f"cache-{attempt}")
        print(clzoo.load(name.name, "cpu", cache_dir=place, offline=True).weights_sha256)
"""


@pytest.mark.slow
def test_two_processes_loading_the_same_name_at_once_both_succeed(zoo, start, tmp_path):
    for attempt in range(10):
        place = tmp_path / f"cache-{attempt}"
        place.mkdir()
        (place / "hub").symlink_to(zoo.cache / "hub")
    flags = [tmp_path / "ready-0", tmp_path / "ready-1"]
    processes = [start(_LOAD_WHEN_TOLD, zoo.hub, zoo.cache, zoo.config.name, ready, tmp_path / "go") for ready in flags]
    deadline = time.monotonic() + 200
    while not all(flag.exists() for flag in flags) and time.monotonic() < deadline:
        time.sleep(0.005)
    (tmp_path / "go").touch()
    done = [process.finish() for process in processes]
    assert [process.returncode for process in done] == [0, 0]
    outputs = [process.stdout for process in done]
    assert outputs[0].split() == outputs[1].split() == [weights_sha256(zoo.backbone)] * 10
    for attempt in range(10):
        assert [path.name for path in (tmp_path / f"cache-{attempt}" / "models").iterdir()] == [
            converted.key(zoo.config.name, zoo.config.source, None)
        ]


def test_who_comes_second_takes_the_firsts_model(zoo):
    load(zoo)
    (model,) = converted.cached(zoo.cache)
    other = {name: tensor + 1 for name, tensor in zoo.backbone.items()}
    kept = converted.keep(zoo.config.name, zoo.config.source, None, zoo.cache, model.provenance, other, {})
    assert kept == model
    assert load(zoo).weights_sha256 == weights_sha256(zoo.backbone)


def test_what_looks_like_a_temporary_folder_and_has_no_mark_is_nobodys_to_delete(zoo):
    models = zoo.cache / "models"
    (models / ".tmp-1-old").mkdir(parents=True)
    (models / ".tmp-1-old" / "model.safetensors").write_bytes(b"mine")
    for path in (models / ".tmp-1-old" / "model.safetensors", models / ".tmp-1-old"):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert converted.cached(zoo.cache) == []
    load(zoo)
    assert sorted(path.name for path in models.iterdir()) == [
        ".tmp-1-old",
        converted.key(zoo.config.name, zoo.config.source, None),
    ]


def test_only_what_the_cache_made_is_removed_from_it(zoo):
    (zoo.cache / "models" / "mine").mkdir(parents=True)
    (zoo.cache / "models" / "mine" / "thesis.pdf").touch()
    with pytest.raises(ClzooError, match="holds no mine"):
        converted.remove("mine", zoo.cache)
    (zoo.cache / "features" / "mine").mkdir(parents=True)
    (zoo.cache / "features" / "mine" / "features.npy").touch()
    cache.remove_all(cache.FEATURES, zoo.cache)
    assert (zoo.cache / "models" / "mine" / "thesis.pdf").exists()
    assert (zoo.cache / "features" / "mine" / "features.npy").exists()


def test_removal_frees_the_bytes_it_names_and_the_next_load_converts_again(zoo):
    load(zoo)
    (model,) = converted.cached(zoo.cache)
    size = sum(path.stat().st_size for path in model.folder.iterdir())
    assert model.size == size
    assert converted.remove(zoo.config.name, zoo.cache) == size
    assert list((zoo.cache / "models").iterdir()) == []
    load(zoo)
    assert converted.remove(converted.key(zoo.config.name, zoo.config.source, None), zoo.cache) == size


def test_removing_what_is_not_there_names_what_is(zoo):
    with pytest.raises(ClzooError, match="holds no nothing; it holds nothing"):
        converted.remove("nothing", zoo.cache)
    load(zoo)
    with pytest.raises(ClzooError, match=f"it holds {converted.key(zoo.config.name, zoo.config.source, None)}"):
        converted.remove("hydra", zoo.cache)


def test_damaged_provenance_is_an_error_that_says_how_to_remove_it(zoo):
    load(zoo)
    (model,) = converted.cached(zoo.cache)
    (model.folder / "provenance.json").write_text("{")
    with pytest.raises(ClzooError, match=f"clzoo cached --rm {model.folder.name}"):
        load(zoo)
    converted.remove(model.folder.name, zoo.cache)
    load(zoo)


def test_the_place_is_the_argument_or_the_environment_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("CLZOO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "clzoo"
    assert cache.hub_cache() is None  # the client's own
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path.home() / ".cache" / "clzoo"
    monkeypatch.setenv("CLZOO_CACHE", str(tmp_path / "ours"))
    assert cache.root() == tmp_path / "ours"
    assert cache.hub_cache() == tmp_path / "ours" / "hub"
    assert cache.root(tmp_path / "argument") == tmp_path / "argument"


def test_a_cache_that_cannot_be_written_is_an_error_with_a_way_out(zoo):
    (zoo.cache / "models").write_text("a file where a folder must be")
    with pytest.raises(ClzooError, match=r"models cannot be written.*CLZOO_CACHE"):
        load(zoo)


def test_branches_whose_names_begin_alike_are_different_models(zoo):
    """Also names that differ in what a folder's name cannot hold, and in case."""
    repo = zoo.published.parents[1]
    branches = ["experiment-2024-a", "experiment-2024-b", "experiment/2024-a", "Experiment-2024-a", "x" * 50, "x" * 51]
    expected = {}
    for number, branch in enumerate(branches):
        commit = f"{number + 1:040x}"
        file = repo / "new.pth"
        backbone = published_file(zoo.config, file, seed=number + 1)
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        file.replace(blob)
        pointer = repo / "snapshots" / commit / zoo.config.source.file
        ref = repo / "refs" / branch
        for path in (pointer, ref):
            path.parent.mkdir(parents=True, exist_ok=True)
        pointer.symlink_to(blob)
        ref.write_text(commit)
        expected[branch] = weights_sha256(backbone)
    for _ in ("converted", "from the cache"):
        for branch in branches:
            assert load(zoo, revision=branch).weights_sha256 == expected[branch]
    assert len(converted.cached(zoo.cache)) == len(set(expected.values())) == len(branches)


def test_a_key_says_which_content_is_meant(zoo):
    source = zoo.config.source
    others = [dataclasses.replace(source, **{name: "other"}) for name in ("repo", "file", "revision", "layout")]
    keys = {converted.key(zoo.config.name, one, None) for one in (source, *others)}
    assert len(keys) == 5
    assert converted.key(zoo.config.name, zoo.config.source, None).startswith(f"{zoo.config.name}@{source.revision}-")
