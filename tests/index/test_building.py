"""Building: which index, its ids, its description, and the recall it is honest about."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from clzoo import ClzooError
from clzoo.embed.writer import store_lock
from clzoo.files import read_json
from clzoo.index import build_index, building, files, open_index, recall, refresh_index, search, vectors

SEED = 7
print(f"seed {SEED}")


def random_vectors(count: int, dim: int = 32, seed: int = SEED) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def exact_ids(vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return ids[np.argsort(-(queries @ unit.T), axis=1)[:, :k]]


def test_the_index_is_plain_faiss_over_the_stores_stable_ids(make_store):
    store = make_store(random_vectors(300))
    build_index(store)
    index = faiss.read_index(str(store.path / "faiss.index"))  # without any of our code
    assert isinstance(index, faiss.IndexIDMap2)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert isinstance(faiss.downcast_index(index.index), faiss.IndexFlat)
    vectors = store.embeddings()
    _, found = index.search(vectors[:20], 5)
    assert (found == exact_ids(vectors, store.ids, vectors[:20], 5)).all()
    np.testing.assert_allclose(index.reconstruct(int(store.ids[3])), vectors[3], atol=2e-3)


def test_the_description_says_what_the_index_file_cannot(make_store):
    store = make_store(random_vectors(300))
    build_index(store)
    described = read_json(store.path / "faiss.json")
    assert described["model"] == "test-model"
    assert described["weights_sha256"] == store.manifest.weights_sha256
    assert described["preprocessing"] == store.manifest.preprocessing
    assert described["store_generation"] == store.generation == 1
    assert (described["count"], described["dim"]) == (300, 32)
    assert described["faiss_version"] == faiss.__version__
    assert described["factory"] == "Flat"
    assert described["normalized"] is True
    assert described["recall_at_10"] == 1.0
    assert described["recall_queries"] == 300
    assert described["build_seconds"] >= 0
    assert sorted(path.name for path in store.path.glob("*faiss*")) == ["faiss.index", "faiss.json"]


@pytest.mark.parametrize("other", ["vectors", "names"])
def test_an_index_of_another_store_with_as_many_rows_and_generations_is_refused(make_store, tmp_path, other):
    vectors = random_vectors(300)
    one = make_store(vectors, folder=tmp_path / "one")
    changed = {"vectors": {}, "names": {"paths": [f"b{n:04}.jpg" for n in range(300)]}}[other]
    two = make_store(vectors if changed else random_vectors(300, seed=8), folder=tmp_path / "two", **changed)
    same = make_store(vectors, folder=tmp_path / "same")
    build_index(one)
    for store in (two, same):
        for name in ("faiss.index", "faiss.json"):
            shutil.copy(one.path / name, store.path / name)
    assert open_index(same).description["store_generation"] == two.generation == 1
    with pytest.raises(ClzooError, match=r"of another store, of as many rows but other ids or vectors\. Type: clzoo"):
        open_index(two)


def test_a_store_that_is_not_normalised_is_normalised_while_building(make_store):
    vectors = random_vectors(200) * np.geomspace(0.01, 100, 200)[:, None].astype(np.float32)
    store = make_store(vectors, normalized=False, dtype="float32")
    index = build_index(store)
    assert index.description["store_normalized"] is False
    assert index.description["normalized"] is True
    query = random_vectors(5, seed=1)
    hits = search(index, query, 3)
    assert [[hit.id for hit in row] for row in hits] == exact_ids(vectors, store.ids, query, 3).tolist()
    assert all(abs(hit.score) <= 1 + 1e-6 for row in hits for hit in row)
    np.testing.assert_array_equal(store.embeddings(), vectors)  # the store itself is left as it is


def test_ids_stay_when_rows_move(make_store):
    vectors = random_vectors(50)
    paths = [f"{i}.jpg" for i in range(50)]
    before = build_index(make_store(vectors, paths=paths))
    after = build_index(make_store(vectors[::-1], paths=paths[::-1]))
    query = random_vectors(4, seed=2)
    first, second = search(before, query, 5), search(after, query, 5)
    assert [[(hit.path, hit.id) for hit in row] for row in first] == [
        [(hit.path, hit.id) for hit in row] for row in second
    ]
    assert first[0][0].row != second[0][0].row


def test_above_the_limit_half_precision_is_taken(make_store, monkeypatch):
    monkeypatch.setattr(building, "FLAT_LIMIT", 1000)
    flat = build_index(make_store(random_vectors(1000)))
    assert flat.description["factory"] == "Flat"
    half = build_index(make_store(random_vectors(1001)))
    assert half.description["factory"] == "SQfp16"
    assert half.description["recall_at_10"] > 0.99
    assert half.description["index"]["size"] < 0.7 * flat.description["index"]["size"]


def test_the_recorded_recall_is_the_real_one(make_store):
    vectors = random_vectors(3000)
    store = make_store(vectors)
    index = build_index(store, factory="PCA8,Flat")  # loses much on purpose
    stored = store.embeddings()
    rows = np.sort(np.random.default_rng(0).permutation(3000)[:500])
    true = exact_ids(stored, store.ids, stored[rows], 11)
    _, found = index.faiss.search(stored[rows], 11)
    shares = []
    for row, true_ids, found_ids in zip(rows, true, found, strict=True):
        others = [i for i in true_ids if i != store.ids[row]][:10]
        got = [i for i in found_ids if i != store.ids[row]][:10]
        shares.append(len(set(others) & set(got)) / 10)
    assert 0.05 < np.mean(shares) < 0.9
    assert index.description["recall_at_10"] == pytest.approx(np.mean(shares), abs=1e-3)


def test_of_equally_near_neighbors_any_counts_as_found(make_store):
    vectors = np.repeat(random_vectors(20), 30, axis=0)  # 30 copies of each: the ten nearest are not unique
    assert build_index(make_store(vectors)).description["recall_at_10"] == 1.0


def test_an_inverted_file_probes_until_it_finds_enough(make_store):
    index = build_index(make_store(random_vectors(4000)), factory="IVF32,Flat")
    assert index.description["nprobe"] > 1
    assert index.description["recall_at_10"] >= 0.95
    again = open_index(index.store)
    assert faiss.extract_index_ivf(again.faiss).nprobe == index.description["nprobe"]  # kept in the file


def test_a_graph_looks_at_more_candidates_until_it_finds_enough(make_store):
    index = build_index(make_store(random_vectors(4000, 64)), factory="HNSW8")
    assert index.description["efSearch"] > 16  # FAISS's default
    assert index.description["nprobe"] is None
    assert index.description["recall_at_10"] >= 0.95
    for mmap in (False, True):
        again = open_index(index.store, mmap=mmap)
        assert faiss.downcast_index(again.faiss.index).hnsw.efSearch == index.description["efSearch"]


@pytest.mark.parametrize(
    ("factory", "efforts"),
    [("RaBitQ,Refine(SQfp16)", {"k_factor"}), ("IVF16,RaBitQ,Refine(SQfp16)", {"k_factor", "nprobe"})],
)
def test_a_refined_index_refines_more_candidates_until_it_finds_enough(make_store, factory, efforts):
    index = build_index(make_store(random_vectors(3000, 64)), factory=factory)
    told = {name: index.description[name] for name in ("nprobe", "efSearch", "k_factor")}
    assert {name for name, value in told.items() if value is not None} == efforts
    assert told["k_factor"] > 1  # FAISS's default, at which nothing is gained by refining
    assert index.description["recall_at_10"] >= 0.95
    again = open_index(index.store)
    assert recall.tuned_recall(again.faiss, index.store)[1] == told  # kept in the file
    refined = files.inner_index(again.faiss)
    assert refined.k_factor == told["k_factor"]
    assert getattr(files.coarse_index(again.faiss), "nprobe", None) == told["nprobe"]


def test_the_neighbors_that_recall_is_measured_by_are_the_true_ones(make_store, monkeypatch):
    monkeypatch.setattr(vectors, "BATCH", 7)  # less than the ten neighbors: they come from many batches
    store = make_store(random_vectors(200))
    exact = recall._ExactNeighbors(store)
    rows = store.embeddings()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -1)
    np.testing.assert_allclose(exact.worst, np.sort(scores, axis=1)[:, -10], atol=1e-6)


def test_a_poor_index_is_warned_about(make_store, caplog):
    build_index(make_store(random_vectors(2000)), factory="PCA4,Flat")
    assert any("true nearest neighbors" in record.message for record in caplog.records)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tiny_stores_are_indexed(make_store, count):
    index = build_index(make_store(random_vectors(count)))
    assert len(index) == count
    assert index.description["recall_at_10"] == (None if count == 1 else 1.0)


def test_an_empty_store_is_refused(make_store):
    with pytest.raises(ClzooError, match="holds no embeddings"):
        build_index(make_store(np.empty((0, 8), np.float32)))


def test_vectors_that_are_not_finite_are_refused(make_store):
    vectors = random_vectors(20)
    vectors[7, 3] = np.nan
    with pytest.raises(ClzooError, match="not finite"):
        build_index(make_store(vectors, normalized=False))


def test_a_zero_vector_is_near_to_nothing(make_store):
    vectors = random_vectors(20)
    vectors[7] = 0
    index = build_index(make_store(vectors, normalized=False))
    hits = search(index, vectors[3], 20)[0]
    assert next(hit.score for hit in hits if hit.row == 7) == 0


@pytest.mark.parametrize("factory", ["Flatt", "IVFx,Flat", "IDMap2,Flat", "IVF64,Flat"])
def test_a_factory_string_that_does_not_work_is_named(make_store, factory):
    store = make_store(random_vectors(30))
    with pytest.raises(ClzooError, match=factory.split(",")[0]):
        build_index(store, factory=factory)
    assert not (store.path / "faiss.json").exists()


def test_an_incomplete_store_is_indexed_with_a_warning(make_store, caplog):
    build_index(make_store(random_vectors(30), complete=False))
    assert any("not complete" in record.message for record in caplog.records)


def test_an_opened_store_that_has_changed_since_is_not_indexed(make_store):
    old = make_store(random_vectors(30))
    make_store(random_vectors(31))
    with pytest.raises(ClzooError, match=r"opened at generation 1 and is now at 2.*clzoo\.open_store"):
        build_index(old)


def test_two_writers_at_once_are_refused(make_store):
    store = make_store(random_vectors(30))
    with store_lock(store.path), pytest.raises(ClzooError, match="written by another clzoo process"):
        build_index(store)


def test_without_faiss_the_error_names_both_packages(make_store, monkeypatch):
    store = make_store(random_vectors(30))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ClzooError, match=r"pip install faiss-cpu.*pip install faiss-gpu"):
        build_index(store)


def test_refreshing_builds_only_what_is_not_current(make_store):
    store = make_store(random_vectors(30))
    built = refresh_index(store)
    stamp = (store.path / "faiss.index").stat().st_mtime_ns
    assert refresh_index(store).description == built.description
    assert (store.path / "faiss.index").stat().st_mtime_ns == stamp
    assert refresh_index(store, factory="HNSW8").description["factory"] == "HNSW8"
    assert refresh_index(store, factory="Flat").description["factory"] == "Flat"
    newer = make_store(random_vectors(31))
    assert refresh_index(newer).description["count"] == 31
    (store.path / "faiss.index").write_bytes(b"junk")
    assert len(refresh_index(newer)) == 31


def test_a_kind_that_was_chosen_stays_when_images_are_added(make_store):
    refresh_index(make_store(random_vectors(30)), factory="HNSW8")
    newer = make_store(random_vectors(31))
    described = refresh_index(newer).description
    assert (described["factory"], described["count"]) == ("HNSW8", 31)
    (newer.path / "faiss.index").write_bytes(b"junk")
    assert refresh_index(newer).description["factory"] == "HNSW8"


def test_faiss_is_imported_inside_the_index_package_alone():
    package = Path(building.__file__).parents[1]
    importing = [path for path in package.rglob("*.py") if "import faiss" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(package).as_posix() for path in importing] == ["index/files.py"]


@pytest.mark.slow
def test_memory_while_building_is_the_index_and_little_more(make_store, tmp_path):
    import subprocess

    make_store(random_vectors(60_000, 256), folder=tmp_path / "big")
    program = (
        "import resource, sys, clzoo\n"
        "from clzoo.index.files import import_faiss; import_faiss(); store = clzoo.open_store(sys.argv[1])\n"
        "import clzoo.index\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "clzoo.build_index(store)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    grown = subprocess.run([sys.executable, "-c", program, str(tmp_path / "big")], capture_output=True, text=True)
    index_mib = 60_000 * 256 * 4 / 2**20
    store_mib = index_mib / 2  # mapped pages count as resident
    # The vector that FAISS grows doubles when it is full, so up to twice the index; then batches of 16,384 rows.
    assert float(grown.stdout) < 2 * index_mib + store_mib + 150, grown.stderr
