"""Searching: every kind of query, honest refusals, named neighbors."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from PIL import Image

import clzoo
from clzoo import ClzooError, Encoder
from clzoo.index import build_index, query_images, search


@pytest.fixture
def index(embedded):
    return build_index(embedded)


def paths(hits):
    return [[hit.path for hit in row] for row in hits]


def test_an_image_of_the_index_finds_itself_then_its_like(index, pictures, encoder):
    hits = search(index, pictures / "reds" / "0.jpg", k=6, encoder=encoder)
    assert len(hits) == 1
    assert hits[0][0].path == "reds/0.jpg"
    assert hits[0][0].score == pytest.approx(1, abs=1e-3)
    assert {hit.label for hit in hits[0]} == {"reds"}
    scores = [hit.score for hit in hits[0]]
    assert scores == sorted(scores, reverse=True)


def test_every_kind_of_query_finds_the_same(index, pictures, encoder):
    path = pictures / "blues" / "1.png"  # lossless, so that all kinds hold the same pixels
    image = Image.open(path)
    pixels = np.asarray(image)
    kinds = [
        str(path),
        [path],
        path.read_bytes(),
        image,
        pixels,
        pixels[None],
        torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255,
        encoder.embed(path),
        encoder.embed([path]).astype(np.float64),
        encoder.embed(path, normalize=False) * 100,
    ]
    expected = paths(search(index, path, 4, encoder=encoder))
    for query in kinds:
        assert paths(search(index, query, 4, encoder=encoder)) == expected, type(query)


def test_vectors_need_no_model(index):
    assert search(index, index.store.embeddings()[:2], 1)[1][0].row == 1


def test_a_folder_stands_for_its_images_in_path_order(index, pictures, encoder):
    (pictures / "notes.txt").write_text("not an image")
    hits = search(index, pictures, 1, encoder=encoder)
    assert [row[0].path for row in hits] == [path.relative_to(pictures).as_posix() for path in query_images(pictures)]
    assert len(hits) == 12


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClzooError, match="empty holds no images"):
        query_images(tmp_path / "empty")


def test_a_query_that_is_missing_or_damaged_is_named(index, tmp_path, encoder):
    with pytest.raises(ClzooError, match=r"nowhere\.jpg does not exist"):
        search(index, tmp_path / "nowhere.jpg", encoder=encoder)
    (tmp_path / "broken.jpg").write_bytes(b"not a jpeg")
    with pytest.raises(ClzooError, match=r"broken\.jpg"):
        search(index, [tmp_path / "broken.jpg"], encoder=encoder)


def test_a_query_of_other_weights_is_refused(index, pictures, encoder):
    torch.manual_seed(1)
    other = Encoder.untrained(encoder.config, "cpu")
    with pytest.raises(ClzooError, match="weights"):
        search(index, pictures / "reds" / "0.jpg", encoder=other)


def test_a_query_of_another_preprocessing_is_refused(index, pictures, encoder):
    preprocessing = dataclasses.replace(encoder.config.preprocessing, crop_pct=0.5)
    other = Encoder(encoder.module, dataclasses.replace(encoder.config, preprocessing=preprocessing), "cpu")
    assert other.weights_sha256 == encoder.weights_sha256
    with pytest.raises(ClzooError, match="crop_pct"):
        search(index, pictures / "reds" / "0.jpg", encoder=other)


@pytest.mark.parametrize("shape", [(3,), (2, 511), (1, 1, 512), (0,)])
def test_vectors_of_another_shape_are_refused(index, shape):
    with pytest.raises(ClzooError, match="query vectors have shape"):
        search(index, np.ones(shape, np.float32))


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_vector_without_direction_is_refused(index, value):
    with pytest.raises(ClzooError, match="query 1"):
        search(index, np.stack([np.ones(512), np.full(512, value)]))


def test_k_larger_than_the_index_gives_all_there_is(index):
    hits = search(index, index.store.embeddings()[:1], k=1000)[0]
    assert sorted(hit.path for hit in hits) == sorted(index.store.paths)


def test_an_index_that_finds_fewer_than_k_gives_those(make_store):
    index = build_index(make_store(np.random.default_rng(0).normal(size=(40, 8))), factory="IVF8,Flat")
    faiss.extract_index_ivf(index.faiss).nprobe = 1
    hits = search(index, index.store.embeddings()[:5], k=40)
    assert all(0 < len(row) < 40 for row in hits)


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(index, k):
    with pytest.raises(ClzooError, match="k must be at least 1"):
        search(index, index.store.embeddings()[:1], k)


def test_equal_scores_come_in_the_order_of_ids(make_store):
    vectors = np.repeat(np.eye(4, dtype=np.float32)[:2], 5, axis=0)
    hits = search(build_index(make_store(vectors)), np.eye(4, dtype=np.float32)[0], k=5)[0]
    assert {hit.row for hit in hits} == set(range(5))
    assert [hit.id for hit in hits] == sorted(hit.id for hit in hits)


def test_many_queries_cross_the_batches_in_order(make_store):
    store = make_store(np.random.default_rng(0).normal(size=(2500, 16)), dtype="float32")
    hits = search(build_index(store), store.embeddings(), k=1)
    assert [row[0].row for row in hits] == list(range(2500))


def test_a_store_or_its_folder_will_do_for_an_index(index, pictures, encoder):
    query = index.store.embeddings()[:3]
    assert search(index, query) == search(index.store, query) == search(str(index.store.path), query)


def test_a_moved_store_is_searched_where_it_is(index, tmp_path):
    query = index.store.embeddings()[:3]
    expected = paths(search(index, query))
    shutil.move(index.store.path, tmp_path / "moved")
    assert paths(search(tmp_path / "moved", query)) == expected


def test_the_model_is_loaded_as_the_store_names_it(index, pictures):
    hits = search(index, pictures / "reds" / "0.jpg", k=2)
    assert hits[0][0].path == "reds/0.jpg"


def test_the_public_names_take_a_folder_to_its_neighbors(pictures, tmp_path, model_folder):
    clzoo.embed_folder(pictures, model_folder, out=tmp_path / "embedded", device="cpu")
    store = clzoo.open_store(tmp_path / "embedded")
    hits = clzoo.search(clzoo.build_index(store), pictures / "reds" / "0.jpg", k=2)
    assert hits[0][0].path == "reds/0.jpg"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("hf-hub:org/set", r"hf-hub:org/set is not on this machine.*clzoo embed hf-hub:org/set"),
        ("https://host/photos/", "is not on this machine"),
        ("photos.zip", "holds many images; a query is an image or a folder. Unpack it"),
    ],
)
def test_a_query_that_is_no_image_of_this_machine_says_what_to_type(tmp_path, monkeypatch, query, message):
    monkeypatch.chdir(tmp_path)
    Path("photos.zip").write_bytes(b"PK")
    with pytest.raises(ClzooError, match=message):
        query_images(query)


def test_an_image_that_a_list_names_by_its_absolute_path_is_known(pictures, encoder, tmp_path):
    files = sorted(pictures.rglob("*.*g"))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "all.txt").write_text("\n".join(map(str, files)))
    folder = clzoo.embed_folder(tmp_path / "lists" / "all.txt", encoder, tmp_path / "store", progress=False).store
    (hits,) = search(folder, files[0], k=3, encoder=encoder, exclude_self=True)
    assert len(hits) == 3
    assert str(files[0]) not in [hit.path for hit in hits]
    content = files[0].read_bytes()
    files[0].unlink()
    (gone,) = search(folder, str(files[0]), k=1)  # its stored vector; no model is loaded
    assert gone[0].path == str(files[0])
    files[0].write_bytes(content)
