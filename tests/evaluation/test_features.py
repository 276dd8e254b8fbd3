"""Extraction and its cache, with real files and a real (untrained) network."""

import os

import numpy as np
import pytest
import torch
from picture_folders import make_folder
from small_models import small_encoder

from clzoo.data.collection import ArrayImages, Collection
from clzoo.data.opening import open_split
from clzoo.errors import ClzooError
from clzoo.evaluation import features
from clzoo.evaluation.features import extract
from clzoo.zoo import cache


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture
def pictures(tmp_path):
    make_folder(tmp_path / "data" / "train", {"cat": 4, "dog": 3})
    return tmp_path / "data"


@pytest.fixture
def forwards(monkeypatch):
    """How many images went through the pipeline."""
    seen = []
    original = features.encode_items

    def counting(items, positions, *rest):
        seen.append(len(positions))
        return original(items, positions, *rest)

    monkeypatch.setattr(features, "encode_items", counting)
    return seen


def test_features_are_those_of_embed_before_normalisation(encoder, pictures, tmp_path):
    found = extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    paths = sorted((pictures / "train").rglob("*.png"))
    expected = encoder.embed(paths, normalize=False)
    assert found.x.dtype == torch.float32
    assert np.allclose(found.x.numpy(), expected, atol=1e-6)
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert found.classes == ("cat", "dog")


def test_the_second_time_nothing_runs_through_the_network(encoder, pictures, tmp_path, forwards):
    first = extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    again = extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    assert forwards == [7]
    assert torch.equal(first.x, again.x)


def test_other_weights_and_a_changed_picture_are_extracted_anew(encoder, pictures, tmp_path, forwards):
    one = pictures / "train" / "cat" / "00.png"
    extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    extract(small_encoder(seed=1), open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    content = one.read_bytes()
    one.write_bytes(content)  # the same length; only the time tells
    os.utime(one, ns=(1, 1))
    extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    assert forwards == [7, 7, 7]


def test_a_broken_picture_is_named_and_counted_and_has_no_row(encoder, pictures, tmp_path, caplog):
    (pictures / "train" / "cat" / "01.png").write_bytes(b"not a picture")
    found = extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.fingerprint["skipped"] == 1
    assert "cat/01.png" in caplog.text


def test_arrays_give_the_features_of_their_pictures(encoder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    collection = Collection("arrays", ArrayImages(pixels), np.array([0, 1, 0, 1, 1]), ("a", "b"))
    found = extract(encoder, collection, cache_dir=tmp_path)
    assert np.allclose(found.x.numpy(), encoder.embed(list(pixels), normalize=False), atol=1e-6)


def test_the_fingerprint_tells_images_and_labels_not_places(encoder, pictures, tmp_path):
    first = extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache").fingerprint
    moved = pictures.rename(tmp_path / "elsewhere")
    assert extract(encoder, open_split(moved, "train"), cache_dir=tmp_path / "cache").fingerprint == first
    (moved / "train" / "cat" / "00.png").rename(moved / "train" / "dog" / "xx.png")
    assert extract(encoder, open_split(moved, "train"), cache_dir=tmp_path / "cache").fingerprint != first


def test_a_network_that_gives_nan_is_an_error_and_leaves_nothing_in_the_cache(pictures, tmp_path):
    broken = small_encoder()
    next(broken.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(ClzooError, match="not finite"):
        extract(broken, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache" / "features").iterdir()) == []


def test_all_features_can_be_deleted(encoder, pictures, tmp_path):
    extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    size = cache.features_size(tmp_path / "cache")
    assert size > 7 * 96 * 4
    assert cache.remove_features(tmp_path / "cache") == size
    assert cache.features_size(tmp_path / "cache") == 0
