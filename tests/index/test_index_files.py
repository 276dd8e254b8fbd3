"""faiss.index and faiss.json: whole, fitting each other, of this store's generation, or refused."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import pytest

from clzoo import ClzooError
from clzoo.index import build_index, building, open_index
from clzoo.index.choosing import ExactSearch

SEED = int.from_bytes(os.urandom(2), "little")
print(f"seed {SEED}")


@pytest.fixture
def store(make_store):
    return make_store(np.random.default_rng(0).normal(size=(500, 16)))


@pytest.fixture
def built(store):
    return build_index(store)


def test_what_was_built_is_what_opens(built):
    again = open_index(built.store.path)
    assert again.description == built.description
    assert len(again) == 500
    np.testing.assert_array_equal(faiss.vector_to_array(again.faiss.id_map), faiss.vector_to_array(built.faiss.id_map))


def test_an_index_moves_with_its_store(built, tmp_path):
    shutil.move(built.store.path, tmp_path / "elsewhere")
    assert open_index(tmp_path / "elsewhere").description == built.description


def test_a_large_store_without_index_says_how_to_make_one(store, monkeypatch):
    monkeypatch.setattr(building, "MOST_WITHOUT_INDEX", 10)
    with pytest.raises(ClzooError, match=r"holds no FAISS index.*Type: clzoo store index .*store$"):
        open_index(store)


def test_the_command_to_type_makes_an_index_of_the_kind_that_there_was(make_store, clzoo_says, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(60, 8))
    for factory in (None, "HNSW8"):
        build_index(make_store(vectors, folder=tmp_path / "it's a store"), factory=factory)
        newer = make_store(vectors[:50], folder=tmp_path / "it's a store")
        with pytest.raises(ClzooError, match="older than its store") as caught:
            open_index(newer)
        words = shlex.split(str(caught.value).split("Type: ")[1])
        assert clzoo_says(*words[1:])[0] == 0
        assert open_index(newer).description["factory"] == (factory or "Flat")


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(ClzooError, match="not an embedding store"):
        open_index(tmp_path)


def test_an_index_older_than_its_store_is_refused_with_what_to_type(built, make_store):
    newer = make_store(np.random.default_rng(1).normal(size=(501, 16)))
    with pytest.raises(ClzooError, match=r"older than its store.*generation 1, the store is at 2.*clzoo store index"):
        open_index(newer)
    assert len(build_index(newer)) == len(open_index(newer)) == 501


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_truncated_index_is_refused_and_named(built, kept):
    path = built.store.path / "faiss.index"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(ClzooError, match=r"faiss\.index is damaged"):
        open_index(built.store)


def test_one_flipped_bit_anywhere_is_noticed(built):
    path = built.store.path / "faiss.index"
    content = bytearray(path.read_bytes())
    rng = random.Random(SEED)
    for _ in range(20):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ClzooError, match="damaged"):
            open_index(built.store)


def test_an_index_of_another_store_is_refused(built, make_store, tmp_path):
    other = build_index(make_store(np.random.default_rng(2).normal(size=(500, 16)), folder=tmp_path / "other"))
    shutil.copy(other.store.path / "faiss.index", built.store.path / "faiss.index")
    with pytest.raises(ClzooError, match="damaged or is not the one"):
        open_index(built.store)


def test_an_index_without_description_is_refused(built):
    (built.store.path / "faiss.json").unlink()
    with pytest.raises(ClzooError, match=r"faiss\.json is missing"):
        open_index(built.store)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "x"}', '{"schema": 1}'])
def test_a_damaged_description_is_refused(built, content):
    (built.store.path / "faiss.json").write_text(content)
    with pytest.raises(ClzooError, match=r"faiss\.json is not"):
        open_index(built.store)


def test_a_description_of_a_newer_clzoo_is_refused(built):
    path = built.store.path / "faiss.json"
    path.write_text(json.dumps({**built.description, "schema": 99}))
    with pytest.raises(ClzooError, match="upgrade clzoo"):
        open_index(built.store)


_REBUILD_AND_DIE = """
import os, pathlib, signal, sys
import clzoo
folder, step, after = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "after"
replace, count = pathlib.Path.replace, 0
def deadly(self, target):
    global count
    count += 1
    if count == step and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(self, target)
    if count == step:
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = deadly
clzoo.build_index(folder, factory="SQfp16")
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3])  # the three renames: the next description, the index, the description
def test_a_kill_between_any_two_renames_leaves_a_pair_that_fits(built, step, when):
    arguments = [sys.executable, "-c", _REBUILD_AND_DIE, str(built.store.path), str(step), when]
    assert subprocess.run(arguments, capture_output=True).returncode == -signal.SIGKILL
    left = open_index(built.store.path)
    swapped = (step, when) in {(2, "after"), (3, "before"), (3, "after")}
    assert left.description["factory"] == ("SQfp16" if swapped else "Flat")
    assert isinstance(faiss.downcast_index(left.faiss.index), faiss.IndexScalarQuantizer) == swapped
    build_index(built.store)
    names = sorted(path.name for path in built.store.path.iterdir() if "faiss" in path.name)
    assert names == ["faiss.index", "faiss.json"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_first_build_that_was_killed_does_not_stand_in_the_way(store):
    arguments = [sys.executable, "-c", _REBUILD_AND_DIE, str(store.path), "1", "after"]
    assert subprocess.run(arguments, capture_output=True).returncode == -signal.SIGKILL
    assert isinstance(open_index(store).faiss, ExactSearch)  # as if there had been no build
    assert len(build_index(store)) == 500


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("second", [2, 3, 4])  # renames of a build that first has to finish the killed one's swap
def test_a_build_killed_after_another_killed_build_leaves_a_pair_that_fits(built, second):
    for step, when in ((2, "after"), (second, "before")):
        arguments = [sys.executable, "-c", _REBUILD_AND_DIE, str(built.store.path), str(step), when]
        assert subprocess.run(arguments, capture_output=True).returncode == -signal.SIGKILL
    assert open_index(built.store.path).description["factory"] == "SQfp16"


_REBUILD_FOREVER = """
import itertools, sys
import clzoo
for factory in itertools.cycle(["Flat", "SQfp16"]):
    clzoo.build_index(sys.argv[1], factory=factory)
    print(flush=True)
"""


@pytest.fixture
def rebuilder(built):
    """A process that rebuilds the index again and again."""
    process = subprocess.Popen([sys.executable, "-c", _REBUILD_FOREVER, str(built.store.path)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_a_reader_beside_a_writer_always_sees_a_fitting_pair(built, rebuilder):
    seen = set()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        index = open_index(built.store.path)
        kind = faiss.downcast_index(index.faiss.index)
        assert isinstance(kind, faiss.IndexFlat) == (index.description["factory"] == "Flat")
        seen.add(index.description["factory"])
    assert seen == {"Flat", "SQfp16"}
    assert rebuilder.poll() is None


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_kill_at_any_instant_leaves_a_pair_that_fits(built):
    rng = random.Random(SEED)
    for _ in range(15):
        arguments = [sys.executable, "-c", _REBUILD_FOREVER, str(built.store.path)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        assert len(open_index(built.store.path)) == 500


def test_a_full_disk_leaves_the_old_pair_and_says_why(built, monkeypatch):
    def refuse(_):
        raise OSError(28, "No space left on device")

    real = faiss.PyCallbackIOWriter
    monkeypatch.setattr(faiss, "PyCallbackIOWriter", lambda write: real(refuse))
    with pytest.raises(ClzooError, match="No space left"):
        build_index(built.store, factory="SQfp16")
    monkeypatch.undo()
    assert open_index(built.store).description["factory"] == "Flat"
    assert not list(Path(built.store.path).glob(".tmp-*"))
