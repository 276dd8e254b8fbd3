"""What to label next: each way does what it says, with and without labels so far."""

from __future__ import annotations

import numpy as np
import pytest
from test_pairs import unit
from written_stores import write_store

from clzoo import ClzooError, select_images
from clzoo.cli import main
from clzoo.curation.selection import WAYS, centered, clusters_of, typicality_of
from clzoo.data.lists import read_list

SIZES = (200, 60, 15, 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four clusters of a long tail, rows in the order of SIZES."""
    cluster = np.repeat(np.arange(4), SIZES)
    vectors = unit(4, seed=5, dim=32)[cluster] + 0.1 * unit(len(cluster), seed=6, dim=32)
    return write_store(tmp_path_factory.mktemp("select") / "store", vectors)


def clusters(rows: list[int]) -> list[int]:
    return np.repeat(np.arange(4), SIZES)[rows].tolist()


@pytest.mark.parametrize("how", WAYS)
def test_as_many_as_asked_for_each_once_and_always_the_same(store, how):
    rows = select_images(store, 30, how=how).rows
    assert len(set(rows)) == 30
    assert rows == select_images(store, 30, how=how).rows


def test_diverse_images_come_from_every_cluster_first(store):
    assert sorted(clusters(select_images(store, 4, how="diverse").rows)) == [0, 1, 2, 3]


def test_each_diverse_image_is_the_farthest_from_those_before(store):
    vectors = store.embeddings() / np.linalg.norm(store.embeddings(), axis=1, keepdims=True)
    rows = select_images(store, 6, how="diverse").rows
    for count in range(1, 6):
        near = (vectors @ vectors[rows[:count]].T).max(axis=1)
        assert near[rows[count]] == pytest.approx(near.min(), abs=1e-5)


def test_balanced_images_flatten_the_long_tail(store):
    shares = {how: np.bincount(clusters(select_images(store, 20, how=how).rows), minlength=4) for how in WAYS}
    random = 20 * SIZES[0] / sum(SIZES)
    assert shares["balanced"][0] < random
    assert shares["balanced"].min() >= 1


def test_typical_images_are_the_most_typical_of_their_clusters_the_largest_first(store):
    vectors = store.embeddings() - store.embeddings().mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cluster = clusters_of(vectors, 8)
    rows = select_images(store, 8, how="typical").rows
    sizes = np.bincount(cluster)[cluster[rows]]
    distinct = len(np.bincount(cluster))
    assert sizes[:distinct].tolist() == sorted(sizes[:distinct], reverse=True)
    for row in rows[:distinct]:
        own = vectors[cluster == cluster[row]]
        near = np.sort(own @ own.T, axis=1)[:, -21:-1].mean(axis=1)  # 0 of one that is alone
        assert typicality_of(vectors, cluster)[row] == pytest.approx(near.max() if len(own) > 1 else 0, abs=1e-5)


def test_clusters_are_those_of_the_collection_whatever_they_share(store):
    cluster = clusters_of(centered(store.embeddings() + 3), 4)
    assert sorted(np.bincount(cluster)) == sorted(SIZES)
    for number in range(4):
        assert len(set(clusters(np.flatnonzero(cluster == number).tolist()))) == 1


def test_rows_that_are_all_alike_are_chosen_each_once(tmp_path):
    same = write_store(tmp_path / "same", np.tile(unit(1), (12, 1)))
    for how in WAYS:
        assert len(set(select_images(same, 12, how=how).rows)) == 12


@pytest.mark.parametrize("how", WAYS)
def test_what_has_a_label_is_not_chosen_and_counts_as_covered(store, how):
    labels = ["big" if row < 200 else None for row in range(sum(SIZES))]
    rows = select_images(store, 3, how=how, labels=labels).rows
    assert min(rows) >= 200
    if how == "diverse":
        assert sorted(clusters(rows)) == [1, 2, 3]


def test_more_than_there_are_and_unknown_ways_are_refused(store, tmp_path):
    with pytest.raises(ClzooError, match="280 images without a label"):
        select_images(store, 281)
    with pytest.raises(ClzooError, match="how must be one of"):
        select_images(store, 1, how="luck")
    one = write_store(tmp_path / "one", unit(1))
    assert [select_images(one, 1, how=how).rows for how in WAYS] == [[0]] * 3


def test_standard_output_is_the_list_of_paths_and_nothing_else(store, tmp_path, capsys):
    main(["curate", "select", str(store.path), "-n", "3", "--html", str(tmp_path / "next.html"), "--quiet"])
    said = capsys.readouterr()
    assert said.out.splitlines() == select_images(store, 3).paths
    assert f"wrote {tmp_path / 'next.html'}" in said.err


def test_a_list_that_is_written_names_the_files_as_they_are_called(tmp_path, clzoo_says):
    names = ["family \U0001f469\u200d\U0001f467.png", "soft\u00adhyphen.png", "plain.png"]
    store = write_store(tmp_path / "store", np.random.default_rng(0).normal(size=(3, 8)), paths=names)
    code, out, err = clzoo_says("curate", "select", store.path, "-n", 3)
    assert (code, out.count("\\u"), out.count("\\x")) == (0, 1, 1)
    assert "2 of these names have characters that are spelt out; --out FILE" in err
    code, out, err = clzoo_says("curate", "select", store.path, "-n", 3, "--out", tmp_path / "next.txt")
    assert code == 0, err
    assert sorted((tmp_path / "next.txt").read_text().splitlines()) == sorted(names)
    broken = write_store(tmp_path / "broken", np.eye(2), paths=["two\nlines.png", "one.png"])
    with pytest.raises(ClzooError, match=r"holds the end of a line\. Write a table: .*next\.csv"):
        select_images(broken, 2).write_list(tmp_path / "next.txt")
    table = select_images(broken, 2).write_list(tmp_path / "next.csv")
    assert sorted(read_list(table.read_bytes(), table.name, "next.csv").paths) == sorted(broken.paths)
    blank = write_store(tmp_path / "blank", np.eye(2), paths=[" blank.png", "one.png"])
    with pytest.raises(ClzooError, match="begins or ends with a blank: no list can name it"):
        select_images(blank, 2).write_list(table)
