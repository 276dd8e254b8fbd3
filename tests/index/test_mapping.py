"""An index that stays in its file: the same answers, little memory, and what is checked when not every byte is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import faiss
import numpy as np
import pytest

from clzoo import ClzooError
from clzoo.files import read_json, write_json
from clzoo.index import build_index, files, open_index, search

SEED = 11
print(f"seed {SEED}")

MAPPED = ["Flat", "SQfp16", "SQ8", "HNSW8", "HNSW8,SQfp16", "IVF16,Flat", "IVF16,SQfp16", "PCA16,Flat"]


@pytest.fixture
def store(make_store):
    return make_store(np.random.default_rng(SEED).normal(size=(3000, 64)))


@pytest.mark.parametrize("factory", MAPPED)
def test_a_mapped_index_answers_as_the_one_in_memory(store, factory):
    built = build_index(store, factory=factory)
    mapped = open_index(store, mmap=True)
    queries = np.random.default_rng(SEED).normal(size=(20, 64))
    assert search(mapped, queries, 10) == search(built, queries, 10) == search(open_index(store), queries, 10)
    assert mapped.description == built.description


@pytest.mark.parametrize("factory", ["PQ8x4fs", "IVF16,PQ8x4fs", "SQ8,RFlat"])
def test_a_kind_that_faiss_reads_into_memory_is_refused(store, factory):
    faiss.omp_set_num_threads(1)
    build_index(store, factory=factory)
    with pytest.raises(ClzooError, match=r"into memory whatever it is told.*without mmap"):
        open_index(store, mmap=True)
    assert len(open_index(store)) == 3000


_MEMORY = """
import sys
from pathlib import Path
from clzoo.index import open_index
from clzoo.embed.store import open_store
from clzoo.index.files import import_faiss; import_faiss()

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

store = open_store(sys.argv[1])
before = anonymous()
index = open_index(store, mmap=sys.argv[2] == "mmap")
index.faiss.search(store.raw_rows(__import__("numpy").arange(5)).astype("float32"), 3)
print(anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("factory", ["Flat", "SQfp16", "HNSW4", "IVF8,Flat"])
def test_the_vectors_of_a_mapped_index_are_not_in_the_processs_own_memory(make_store, factory):
    rng = np.random.default_rng(SEED)
    store = make_store(rng.normal(size=(8000, 8)) @ rng.normal(size=(8, 512)))  # easy to search, for the graph
    build_index(store, factory=factory)
    size = (store.path / "faiss.index").stat().st_size / 2**20
    grown = {}
    for way in ("read", "mmap"):
        command = [sys.executable, "-c", _MEMORY, str(store.path), way]
        grown[way] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown["read"] > 0.8 * size
    assert grown["mmap"] < 5  # MiB: ids, and what a search needs


@pytest.mark.parametrize("damage", ["shorter", "longer", "hole", "head"])
def test_what_a_broken_copy_leaves_is_noticed_without_reading_all(make_store, damage):
    store = make_store(np.random.default_rng(SEED).normal(size=(20_000, 64)))
    build_index(store)
    path = store.path / "faiss.index"
    content = bytearray(path.read_bytes())
    assert len(content) > 4 << 20  # more than is sampled
    if damage == "shorter":
        del content[-1:]
    elif damage == "longer":
        content += b"\0"
    elif damage == "head":
        content[3] ^= 1
    else:
        content[1 << 20 : 2 << 20] = bytes(1 << 20)
    path.write_bytes(content)
    with pytest.raises(ClzooError, match=r"faiss\.index is damaged.*clzoo store index"):
        open_index(store, mmap=True)


def test_up_to_a_mebibyte_every_byte_is_checked(store):
    build_index(store, factory="SQfp16")
    path = store.path / "faiss.index"
    content = path.read_bytes()
    assert len(content) < 1 << 20
    for place in np.random.default_rng(SEED).integers(len(content), size=20):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ClzooError, match="damaged"):
            open_index(store, mmap=True)


def test_one_flipped_bit_between_the_samples_is_found_by_opening_without_mmap(make_store):
    store = make_store(np.random.default_rng(SEED).normal(size=(20_000, 64)))
    build_index(store)
    path = store.path / "faiss.index"
    content = bytearray(path.read_bytes())
    content[40_000] ^= 1  # the first two samples begin at 0 and near 83,000
    path.write_bytes(content)
    open_index(store, mmap=True)  # as documented
    with pytest.raises(ClzooError, match="damaged"):
        open_index(store)


def test_an_index_of_an_earlier_clzoo_is_hashed_whole(store):
    build_index(store)
    described = read_json(store.path / "faiss.json")
    del described["index"]["sample_sha256"]
    write_json(store.path / "faiss.json", described)
    assert len(open_index(store, mmap=True)) == 3000
    content = bytearray((store.path / "faiss.index").read_bytes())
    content[len(content) // 2] ^= 1
    (store.path / "faiss.index").write_bytes(content)
    with pytest.raises(ClzooError, match="damaged"):
        open_index(store, mmap=True)


_REBUILD_AND_DIE = """
import os, pathlib, signal, sys
import clzoo
replace, count = pathlib.Path.replace, 0
def deadly(self, target):
    global count
    replace(self, target)
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = deadly
clzoo.build_index(sys.argv[1], factory="SQfp16")
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize(("renames", "expected"), [(1, "Flat"), (2, "SQfp16"), (3, "SQfp16")])
def test_after_a_killed_build_the_description_that_fits_is_taken(store, renames, expected):
    build_index(store)
    killed = subprocess.run([sys.executable, "-c", _REBUILD_AND_DIE, str(store.path), str(renames)])
    assert killed.returncode == -signal.SIGKILL
    index = open_index(store, mmap=True)
    assert index.description["factory"] == expected
    assert isinstance(faiss.downcast_index(index.faiss.index), faiss.IndexFlat) == (expected == "Flat")


def test_a_writer_that_comes_between_is_noticed(store, monkeypatch):
    build_index(store)
    real, swaps = files.map_index, []

    def overtaken(path):
        if not swaps:
            swaps.append(build_index(store, factory="SQfp16"))
        return real(path)

    monkeypatch.setattr(files, "map_index", overtaken)
    index = open_index(store, mmap=True)
    assert swaps
    assert index.description["factory"] == "SQfp16"
    assert isinstance(faiss.downcast_index(index.faiss.index), faiss.IndexScalarQuantizer)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a mapped file from being replaced")
def test_a_mapped_index_outlives_its_replacement(store):
    first = build_index(store)
    mapped = open_index(store, mmap=True)
    query = np.random.default_rng(SEED).normal(size=64)
    expected = search(first, query)
    build_index(store, factory="SQ8")
    assert search(mapped, query) == expected


def test_a_faiss_that_cannot_map_is_named(store, monkeypatch):
    build_index(store)
    monkeypatch.delattr(faiss, "IO_FLAG_MMAP_IFC")
    with pytest.raises(ClzooError, match=r"cannot leave vectors in their file.*without mmap"):
        open_index(store, mmap=True)
