"""An index in parts: the file of a whole build, whoever built the parts, and whatever was killed."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clzoo import ClzooError
from clzoo.cli import main
from clzoo.index import build_index, build_part, merge_index, open_index, refresh_index, vectors
from clzoo.index.parts import PARTS

SEED = 5
print(f"seed {SEED}")
FACTORY = "IVF32,SQfp16"


@pytest.fixture
def store(make_store, monkeypatch):
    monkeypatch.setattr(vectors, "BATCH", 256)
    return make_store(np.random.default_rng(SEED).normal(size=(4000, 32)))


@pytest.mark.parametrize("factory", ["IVF32,Flat", "IVF32,SQfp16", "PCA16,IVF32,SQ8", "IVF100_HNSW8,Flat"])
@pytest.mark.parametrize("total", [1, 3, 40])  # of 16 batches: many of the 40 parts are empty
def test_the_merged_index_is_the_file_of_a_whole_build(store, factory, total):
    numbers = list(range(1, total + 1))
    random.Random(SEED).shuffle(numbers)
    for number in numbers:
        build_part(store, (number, total), factory=factory)
    merged = merge_index(store)
    in_parts = (store.path / "faiss.index").read_bytes()
    whole = build_index(store, factory=factory)
    assert in_parts == (store.path / "faiss.index").read_bytes()
    for key in set(whole.description) - {"build_seconds"}:
        assert merged.description[key] == whole.description[key], key
    assert merged.description["nprobe"] > 1  # tuned, and in the file
    assert sorted(path.name for path in store.path.iterdir() if "faiss" in path.name) == ["faiss.index", "faiss.json"]


def test_lists_without_rows_are_written_as_faiss_does(make_store, monkeypatch):
    monkeypatch.setattr(vectors, "BATCH", 100)
    few = np.repeat(np.random.default_rng(SEED).normal(size=(10, 8)), 60, axis=0)  # 10 places, 32 lists
    store = make_store(few)
    for number in (1, 2):
        build_part(store, (number, 2), factory="IVF32,Flat")
    merge_index(store)
    in_parts = (store.path / "faiss.index").read_bytes()
    build_index(store, factory="IVF32,Flat")
    assert in_parts == (store.path / "faiss.index").read_bytes()


def test_a_merged_index_is_current(store):
    for number in (1, 2):
        build_part(store.path, (number, 2), factory=FACTORY)
    merged = merge_index(store.path)
    assert len(merged) == len(open_index(store)) == 4000
    assert refresh_index(store, factory=FACTORY).description == merged.description  # nothing is built again


@pytest.mark.parametrize(("factory", "why"), [("HNSW8", "a graph cannot be merged"), ("Flat", "plain inverted files")])
def test_other_kinds_are_refused(store, factory, why):
    with pytest.raises(ClzooError, match=f"{why}.*IVF4096,SQfp16"):
        build_part(store, (1, 2), factory=factory)
    assert not (store.path / PARTS).exists()


@pytest.mark.parametrize("shard", [(0, 2), (3, 2)])
def test_a_part_that_does_not_exist_is_refused(store, shard):
    with pytest.raises(ClzooError, match="numbers go from 1 to 2"):
        build_part(store, shard, factory=FACTORY)


def test_a_missing_part_is_named_with_what_to_type(store):
    with pytest.raises(ClzooError, match="holds no parts"):
        merge_index(store)
    build_part(store, (2, 3), factory=FACTORY)
    with pytest.raises(ClzooError, match=rf"part 1 of 3 is missing \(2 of 3 are\).*--factory {FACTORY} --share 1/3"):
        merge_index(store)


def test_the_commands_of_messages_can_be_typed_whatever_the_folder_is_called(make_store, tmp_path):
    store = make_store(np.random.default_rng(SEED).normal(size=(200, 8)), folder=tmp_path / "my store")
    with pytest.raises(ClzooError, match="holds no parts") as none:
        merge_index(store)
    build_part(store, (2, 2), factory="IVF4,Flat")
    with pytest.raises(ClzooError, match="is missing") as missing:
        merge_index(store)
    for message, share in ((str(none.value).removesuffix(", and so on to 4/4"), "1/4"), (str(missing.value), "1/2")):
        words = shlex.split(message.partition("Type: ")[2])
        assert words[:4] == ["clzoo", "store", "index", str(store.path)]
        assert words[-2:] == ["--share", share]


def test_parts_of_another_build_are_refused(store, make_store):
    build_part(store, (1, 2), factory=FACTORY)
    with pytest.raises(ClzooError, match=r"another build \(factory IVF32,SQfp16; this is factory IVF16,Flat\).*delete"):
        build_part(store, (2, 2), factory="IVF16,Flat")
    with pytest.raises(ClzooError, match=r"parts 2; this is parts 3"):
        build_part(store, (2, 3), factory=FACTORY)
    build_part(store, (2, 2), factory=FACTORY)
    newer = make_store(np.random.default_rng(SEED).normal(size=(4001, 32)))
    for use in (lambda: merge_index(newer), lambda: build_part(newer, (2, 2), factory=FACTORY)):
        with pytest.raises(ClzooError, match=r"for generation 1, the store is at 2\. Delete .* build all parts anew"):
            use()


def test_parts_of_another_store_are_refused(store, make_store, tmp_path):
    build_part(store, (1, 2), factory=FACTORY)
    other = make_store(np.random.default_rng(SEED + 1).normal(size=(len(store), store.dim)), folder=tmp_path / "other")
    shutil.copytree(store.path / "faiss.parts", other.path / "faiss.parts")
    for use in (lambda: build_part(other, (2, 2), factory=FACTORY), lambda: merge_index(other)):
        with pytest.raises(ClzooError, match=r"faiss\.parts was built for another store\. Delete"):
            use()


def test_a_damaged_part_is_named(store):
    paths = [build_part(store, (number, 2), factory=FACTORY) for number in (1, 2)]
    content = bytearray(paths[1].read_bytes())
    content[len(content) // 2] ^= 1
    paths[1].write_bytes(content)
    with pytest.raises(ClzooError, match=r"part-2\.index is damaged.*--share 2/2"):
        merge_index(store)
    paths[1].unlink()
    build_part(store, (2, 2), factory=FACTORY)
    assert len(merge_index(store)) == 4000


def test_a_damaged_training_is_not_merged(store):
    build_part(store, (1, 1), factory=FACTORY)
    trained = store.path / "faiss.parts" / "trained.index"
    content = bytearray(trained.read_bytes())
    content[len(content) // 2] ^= 1  # a centroid: FAISS reads it as any other
    trained.write_bytes(content)
    with pytest.raises(ClzooError, match=r"trained\.index is damaged\. Delete .*faiss\.parts and build all parts anew"):
        merge_index(store)


def test_a_part_of_another_training_counts_as_missing(store):
    for number in (1, 2):
        build_part(store, (number, 2), factory=FACTORY)
    (store.path / PARTS / "trained.json").unlink()  # as after a kill; trained again, from other rows
    faulty = vectors.SEED
    vectors.SEED = 99
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("clzoo.index.building._TRAINING_BYTES", 4 * 32 * 2000)
            build_part(store, (1, 2), factory=FACTORY)
    finally:
        vectors.SEED = faulty
    with pytest.raises(ClzooError, match="part 2 of 2 is missing"):
        merge_index(store)


_RUN = """
import os, pathlib, signal, sys
import clzoo
from clzoo.index import build_part, merge_index, vectors
vectors.BATCH = 256
replace, left = pathlib.Path.replace, int(sys.argv[2])
def counted(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(self, target)
    left -= 1
pathlib.Path.replace = counted
for number in (1, 2, 3):
    build_part(sys.argv[1], (number, 3), factory="IVF32,SQfp16")
merge_index(sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_kill_before_any_rename_loses_nothing_and_the_same_commands_finish(store):
    build_index(store, factory=FACTORY)
    whole = (store.path / "faiss.index").read_bytes()
    build_index(store)
    # Killed with the training not yet described, a part not yet described, all parts done, the new index not described.
    for renames in (1, 3, 6, 2, 99):
        run = subprocess.run([sys.executable, "-c", _RUN, str(store.path), str(renames)], capture_output=True)
        assert run.returncode == (0 if renames == 99 else -signal.SIGKILL), run.stderr.decode()
        assert open_index(store).description["factory"] in ("Flat", FACTORY)  # never neither
    assert (store.path / "faiss.index").read_bytes() == whole
    assert not (store.path / PARTS).exists()
    assert not list(store.path.glob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_kill_at_any_instant_leaves_a_whole_index(store):
    build_index(store)
    rng = random.Random(SEED)
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", _RUN, str(store.path), "99"])
        time.sleep(rng.uniform(1, 4))
        process.kill()
        process.wait()
        assert len(open_index(store)) == 4000
    subprocess.run([sys.executable, "-c", _RUN, str(store.path), "99"], check=True)
    assert open_index(store).description["factory"] == FACTORY


def test_processes_that_begin_at_once_train_once(store):
    program = (
        "import sys; from clzoo.index import build_part, vectors; vectors.BATCH = 256;"
        f"build_part(sys.argv[1], (int(sys.argv[2]), 3), factory={FACTORY!r})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(store.path), str(i)]) for i in (1, 2, 3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(merge_index(store)) == 4000


def test_parts_are_built_and_merged_as_it_is_typed(store, capsys):
    assert run("index", store.path, "--factory", FACTORY, "--share", "1/2") == 0
    assert capsys.readouterr().out.strip().endswith("part-1.index")
    assert run("index", store.path, "--merge") == 1
    assert "part 2 of 2 is missing" in capsys.readouterr().err
    assert run("index", store.path, "--factory", FACTORY, "--share", "2/2") == 0
    assert run("index", store.path, "--merge") == 0
    assert f"4000 vectors, {FACTORY}, recall@10" in capsys.readouterr().out
    merged = (store.path / "faiss.json").read_bytes()
    assert run("index", store.path) == 0  # of the kind that is there, which is current
    assert (store.path / "faiss.json").read_bytes() == merged
    assert run("index", store.path, "--factory", "Flat") == 0  # whole
    assert open_index(store).description["factory"] == "Flat"


@pytest.mark.parametrize("options", [("--share", "1/2"), ("--merge", "--factory", FACTORY)])
def test_options_that_do_not_go_together_are_refused(store, options):
    assert run("index", store.path, *options) == 2


def run(*arguments):
    """Exit code of `clzoo store ARGUMENTS`."""
    try:
        main(["store", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code or 0
    return 0
