"""Searching among some rows, without the query itself, from a score on; without a model, and without FAISS."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clzoo
from clzoo.cli import main
from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.index import build_index, search
from clzoo.index.choosing import COLUMNS, MOST_WITHOUT_INDEX, ExactSearch, rows_where
from clzoo.index.vectors import normalized


@pytest.fixture
def store(pictures, model_folder, tmp_path) -> Store:
    """The pictures, embedded with their labels and indexed by the commands themselves."""
    clzoo.embed_folder(pictures, str(model_folder), tmp_path / "real", labels=True, progress=False)
    build_index(tmp_path / "real")
    return clzoo.open_store(tmp_path / "real")


@pytest.fixture
def without_faiss(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)


@pytest.fixture
def without_models(monkeypatch) -> None:
    """Loading one fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("clzoo.loading.load", refuse)
    monkeypatch.setattr("clzoo.index.searching.load_encoder", refuse)


def run(*arguments: object) -> int:
    try:
        main(["search", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def true_order(store: Store, row: int, rows: np.ndarray) -> list[str]:
    """Paths of `rows` by their cosine with a row, in float64, equal ones by id."""
    vectors = normalized(store.embeddings().copy(), store).astype(np.float64)
    scores = (vectors @ vectors[row])[rows].round(7)
    return [store.paths[rows[place]] for place in np.lexsort((store.ids[rows], -scores))]


# Conditions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_can_be_asked_for(store, column):
    value = store.items[column][3].as_py()
    rows = rows_where(store, [f"{column}={value}"])
    assert 3 in rows
    assert all(store.items[column][int(row)].as_py() == value for row in rows)


def test_with_conditions_the_search_is_exact_among_what_fulfils_them(store):
    query = store.root / store.paths[0]
    rows = np.flatnonzero(np.array(store.labels) == "blues")
    (hits,) = search(store, query, k=4, where=["label=blues"])
    assert [hit.path for hit in hits] == true_order(store, 0, rows)[:4]
    (all_hits,) = search(store, query, k=100, where=["label=blues"])
    assert len(all_hits) == len(rows)
    (one,) = search(store, query, where=["label=blues", f"path={store.paths[int(rows[2])]}"])
    assert [hit.row for hit in one] == [int(rows[2])]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("label", "expected COLUMN=VALUE"),
        ("row=1", "a column of path, label, size, id"),
        ("mtime_ns=1", "a column of path, label, size, id"),
        ("label=red", r"has label=red. Labels are: reds"),
        ("size=big", "has size=big"),
    ],
)
def test_conditions_that_nothing_fulfils_are_refused(store, condition, message):
    with pytest.raises(ClzooError, match=message):
        search(store, store.root / store.paths[0], where=[condition])


@pytest.fixture
def listed(pictures, model_folder, tmp_path) -> Store:
    """The pictures by a table with columns of several types, two of them called as the store calls its own."""
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in pictures.rglob("*.*"))
    columns = {
        "row": [100 + number % 3 for number in range(len(paths))],
        "mtime_ns": ["early"] * 3 + [None] * (len(paths) - 3),
        "is_day": [number % 2 == 0 for number in range(len(paths))],
        "thumbnail": [b"\xff\xd8"] * len(paths),
        "tags": [["a", "b"]] * len(paths),
    }
    pq.write_table(pa.table({"path": paths, **columns}), tmp_path / "list.parquet")
    clzoo.embed_folder(tmp_path / "list.parquet", str(model_folder), tmp_path / "store", progress=False)
    return clzoo.open_store(tmp_path / "store")


@pytest.mark.parametrize("prefix", ["", "metadata."])
def test_a_condition_on_a_column_of_the_list_is_on_no_column_of_the_stores_own(listed, prefix):
    assert rows_where(listed, [f"{prefix}row=101"]).tolist() == [1, 4, 7, 10]
    assert rows_where(listed, [f"{prefix}mtime_ns=early"]).tolist() == [0, 1, 2]
    with pytest.raises(ClzooError, match=r"no image of .* has .*row=5\. Values are: 100, 101, 102$"):
        rows_where(listed, [f"{prefix}row=5"])


def test_a_value_that_nothing_has_is_answered_by_those_that_there_are(listed):
    assert rows_where(listed, ["is_day=true"]).tolist() == [0, 2, 4, 6, 8, 10]
    with pytest.raises(ClzooError, match=r"no image of .* has is_day=True\. Values are: true, \.\.\.$"):
        rows_where(listed, ["is_day=True"])


def test_images_without_a_label_are_no_label(make_store):
    store = make_store(np.eye(3, 8), labels=["cat", None, "dog"])
    with pytest.raises(ClzooError, match=r"has label=None\. Labels are: cat, dog$"):
        rows_where(store, ["label=None"])


def test_a_condition_on_a_column_of_bytes_is_refused(listed):
    with pytest.raises(ClzooError, match="thumbnail holds binary, not one value an image"):
        rows_where(listed, ["thumbnail=x"])


def test_a_condition_on_a_column_of_lists_is_refused(pictures, model_folder, tmp_path):
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in pictures.rglob("*.*"))
    pq.write_table(pa.table({"path": paths, "tags": [["a", "b"]] * len(paths)}), tmp_path / "list.parquet")
    clzoo.embed_folder(tmp_path / "list.parquet", str(model_folder), tmp_path / "store", progress=False)
    with pytest.raises(ClzooError, match=r"tags holds list<.*string>, not one value an image"):
        search(clzoo.open_store(tmp_path / "store"), paths[0], where=["tags=a"])


def test_a_threshold_leaves_out_what_is_less_alike(store):
    query = store.root / store.paths[0]
    (hits,) = search(store, query, k=12)
    least = hits[4].score
    (near,) = search(store, query, k=12, threshold=least)
    assert near == [hit for hit in hits if hit.score >= least]
    assert search(store, query, threshold=1.1) == [[]]


def test_a_threshold_that_is_no_number_is_refused(store):
    with pytest.raises(ClzooError, match=r"threshold is nan.*such as 0\.6"):
        search(store, store.root / store.paths[0], threshold=float("nan"))


# The query itself -----------------------------------------------------------------------------------------------------


def test_the_query_itself_is_left_out_and_k_others_are_found(store, tmp_path):
    paths = [store.root / path for path in store.paths]
    for row, (with_self, without) in enumerate(
        zip(search(store, paths, k=4), search(store, paths, k=3, exclude_self=True), strict=True)
    ):
        assert [hit.row for hit in without] == [hit.row for hit in with_self if hit.row != row][:3]
    copy = tmp_path / "copy.jpg"
    shutil.copy(paths[0], copy)  # a copy elsewhere is another image, also where it looks the same
    assert 0 in [hit.row for hit in search(store, copy, k=3, exclude_self=True)[0]]
    with pytest.raises(ClzooError, match="exclude_self needs queries that are paths"):
        search(store, np.ones(store.dim, np.float32), exclude_self=True)


def test_an_image_that_is_stored_as_a_link_is_left_out_of_its_own_neighbors(pictures, model_folder, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    for number, picture in enumerate(sorted(pictures.rglob("*.jpg"))):
        (links / f"{number}.jpg").symlink_to(picture)
    (tmp_path / "way").symlink_to(links)
    clzoo.embed_folder(links, str(model_folder), tmp_path / "linked", progress=False)
    store = clzoo.open_store(tmp_path / "linked")
    for query in (links / "0.jpg", tmp_path / "way" / "0.jpg", "0.jpg"):
        (hits,) = search(store, query, k=5, exclude_self=True)
        assert sorted(hit.path for hit in hits) == [f"{number}.jpg" for number in range(1, 6)]


def test_so_is_an_image_below_a_folder_that_is_a_link(pictures, model_folder, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "sub").symlink_to(pictures / "blues")
    clzoo.embed_folder(tmp_path / "links", str(model_folder), tmp_path / "linked", progress=False)
    store = clzoo.open_store(tmp_path / "linked")
    (hits,) = search(store, tmp_path / "links" / "sub" / "0.jpg", k=6, exclude_self=True)
    assert sorted(hit.path for hit in hits) == sorted(set(store.paths) - {"sub/0.jpg"})


def test_scores_never_exceed_one(make_store):
    vectors = np.random.default_rng(0).normal(size=(300, 48)).astype(np.float32)
    index = build_index(make_store(vectors))
    scores = [hit.score for hits in search(index, vectors, k=3) for hit in hits]
    assert max(scores) <= 1.0
    assert min(hits[0].score for hits in search(index, vectors, k=1)) > 0.999


# Without a model ------------------------------------------------------------------------------------------------------


def test_images_that_the_store_holds_need_no_model(store, without_models):
    path = store.paths[5]
    expected = true_order(store, 5, np.arange(len(store)))[:3]
    for query in (store.root / path, str(store.root / path), path, str(store.ids[5])):
        assert [hit.path for hit in search(store, query, k=3)[0]] == expected


def test_a_changed_image_is_embedded_again_and_a_deleted_one_is_known(store):
    first, other = (store.root / path for path in (store.paths[0], store.paths[-1]))
    assert search(store, first, k=1)[0][0].row == 0
    shutil.copy(other, first)
    scores = {hit.row: hit.score for hit in search(store, first, k=len(store))[0]}
    assert scores[len(store) - 1] > 0.999  # what the file now shows
    assert scores[0] < 0.999
    first.unlink()
    assert search(store, store.paths[0], k=1)[0][0].row == 0


def test_the_command_takes_paths_and_ids_and_imports_no_torch(store, capsys):
    import subprocess

    program = (
        "import sys\nfrom clzoo.cli import main\nmain(sys.argv[1:])\nassert not {'torch', 'timm'} & set(sys.modules)"
    )
    for query in (store.root / store.paths[2], store.paths[2], store.ids[2]):
        command = [sys.executable, "-c", program, "search", str(store.path), str(query), "--json", "--exclude-self"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)["results"]
        assert result["query"] == str(store.root / store.paths[2])
        assert result["label"] == store.labels[2]
        assert store.paths[2] not in [hit["path"] for hit in result["hits"]]
    assert run(store.path, "no such thing") == 1
    assert "does not exist" in capsys.readouterr().err


def test_images_that_a_list_named_by_url_are_found_by_path_and_id(pictures, model_folder, tmp_path, memory, capsys):
    urls = [f"memory://photos/{path.relative_to(pictures).as_posix()}" for path in sorted(pictures.rglob("*.*"))]
    for url in urls:
        memory.pipe(url.removeprefix("memory:/"), (pictures / url.removeprefix("memory://photos/")).read_bytes())
    memory.pipe("/photos/list.txt", "\n".join(urls).encode())
    clzoo.embed_folder("memory://photos/list.txt", str(model_folder), tmp_path / "store", progress=False)
    found = clzoo.open_store(tmp_path / "store")
    assert found.paths == urls
    for query in (urls[3], str(found.ids[3])):
        capsys.readouterr()
        assert run(tmp_path / "store", query, "-k", "1", "--json") == 0
        assert json.loads(capsys.readouterr().out)["results"][0]["hits"][0]["path"] == urls[3]
        assert search(found, query, exclude_self=True)[0][0].path != urls[3]
    assert run(tmp_path / "store", "memory://photos/other.jpg") == 1
    assert "memory://photos/other.jpg is not on this machine" in capsys.readouterr().err


def test_the_command_narrows_the_search_and_names_the_group(store, capsys):
    query = store.root / store.paths[0]
    group = store.labels[0]
    assert run(store.path, query, "-k", 3, "--label", group, "--threshold", 0.1, "--exclude-self") == 0
    output = capsys.readouterr().out
    assert f"label of the query: {group}, as 3 of 3" in output
    assert run(store.path, query, "--where", "label=none") == 1
    assert "Labels are" in capsys.readouterr().err


# Without FAISS --------------------------------------------------------------------------------------------------------


def test_without_faiss_the_search_is_exact_and_says_so(store, without_faiss, capsys):
    for row in (0, 7):
        (hits,) = search(store, store.root / store.paths[row], k=5)
        assert [hit.path for hit in hits] == true_order(store, row, np.arange(len(store)))[:5]
    capsys.readouterr()
    assert run(store.path, store.paths[0]) == 0
    assert "exact, in NumPy among all 12 rows (faiss is not installed)" in capsys.readouterr().err


def test_a_store_without_an_index_is_searched_exactly_too_and_finds_what_its_index_finds(store, capsys):
    capsys.readouterr()
    found = []
    for _ in range(2):
        assert run(store.path, *store.paths[:3], "--json") == 0
        printed = capsys.readouterr()
        found.append((json.loads(printed.out)["results"], printed.err))
        for name in ("faiss.index", "faiss.json"):
            (store.path / name).unlink(missing_ok=True)
    (indexed, said), (exact, line) = found
    assert "exact" not in said
    assert line == "search: exact, in NumPy among all 12 rows (there is no index)\n"
    for one, other in zip(indexed, exact, strict=True):
        assert [hit["path"] for hit in one["hits"]] == [hit["path"] for hit in other["hits"]]
        assert [hit["score"] for hit in one["hits"]] == pytest.approx([hit["score"] for hit in other["hits"]], abs=1e-6)


def test_an_empty_store_is_told_and_not_searched(make_store):
    with pytest.raises(ClzooError, match=r"is empty\. Embed images into it: clzoo embed IMAGES --out "):
        search(make_store(np.zeros((0, 4), np.float32), normalized=False), np.ones(4, np.float32))


def test_half_of_an_index_is_refused_and_not_passed_over(store):
    (store.path / "faiss.index").unlink()
    with pytest.raises(ClzooError, match="holds no FAISS index"):
        search(store, store.root / store.paths[0])


def test_exact_search_is_that_of_float64_over_several_batches(make_store, monkeypatch):
    monkeypatch.setattr("clzoo.index.choosing.BATCH", 64)
    random = np.random.default_rng(1)
    store = make_store(random.normal(size=(500, 16)).astype(np.float32))
    vectors = normalized(store.embeddings().copy(), store)
    for rows, k in ((None, 7), (np.arange(3, 500, 5), 20), (np.arange(4), 10)):
        scores, ids = ExactSearch(store, rows).search(vectors[:9], k)
        chosen = np.arange(len(store)) if rows is None else rows
        exact = vectors[:9].astype(np.float64) @ vectors[chosen].astype(np.float64).T
        for row in range(9):
            best = np.lexsort((store.ids[chosen], -exact[row]))[:k]
            assert ids[row][: len(best)].tolist() == store.ids[chosen][best].tolist()
            np.testing.assert_allclose(scores[row][: len(best)], exact[row][best], atol=1e-6)
            assert (ids[row][len(best) :] == -1).all()


def test_equal_scores_are_in_the_order_of_ids(make_store):
    store = make_store(np.ones((40, 8), np.float32))
    _, ids = ExactSearch(store).search(np.full((1, 8), 8**-0.5, np.float32), 10)
    assert ids[0].tolist() == sorted(store.ids.tolist())[:10]


def test_a_large_store_still_needs_faiss(store, without_faiss, monkeypatch):
    assert MOST_WITHOUT_INDEX == 100_000
    monkeypatch.setattr("clzoo.index.building.MOST_WITHOUT_INDEX", 11)
    with pytest.raises(ClzooError, match="faiss cannot be imported"):
        search(store, store.root / store.paths[0])


def test_embedding_with_an_index_is_refused_before_anything_is_embedded(pictures, without_faiss, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["embed", str(pictures), "--out", str(tmp_path / "new"), "--index", "faiss"])
    assert stop.value.code == 1
    assert "nothing was embedded" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
