"""Extraction and its cache, with real files and a real (untrained) network."""

import os
import shutil

import numpy as np
import pytest
import torch
from picture_folders import encoded, make_folder, make_shard, noise
from PIL import Image
from small_models import small_encoder

from clzoo import cache
from clzoo.data import content
from clzoo.data.collection import ArrayImages, Collection, FileImages
from clzoo.data.opening import open_split
from clzoo.embed import manifest
from clzoo.errors import ClzooError
from clzoo.evaluation import features
from clzoo.evaluation.features import extract


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
    one.touch()
    extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    assert forwards == [7, 7]  # the same bytes at another time
    before, content = one.stat(), bytearray(one.read_bytes())
    content[-20] ^= 1  # of the same length and time
    one.write_bytes(content)
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    assert forwards == [7, 7, 7]


@pytest.mark.parametrize("kind", ["folder", "shard", "mapped", "array"])
def test_another_set_of_the_same_names_sizes_and_times_has_its_own_features_and_hash(encoder, tmp_path, kind):
    found = [extract(encoder, twin(tmp_path / name, kind, seed), cache_dir=tmp_path / "cache")
             for name, seed in (("one", 0), ("copy", 0), ("other", 1))]  # fmt: skip
    alone = extract(encoder, twin(tmp_path / "again", kind, 1), cache_dir=tmp_path / "fresh")
    one, copy, other = (features.fingerprint["sha256"] for features in found)
    assert one == copy != other == alone.fingerprint["sha256"]
    assert torch.equal(found[0].x, found[1].x)
    assert torch.equal(found[2].x, alone.x)
    assert not torch.allclose(found[0].x, found[2].x, atol=1e-3)


def twin(root, kind, seed):
    """Two pictures; of any other seed in files of the same names, sizes and times."""
    pixels = noise(2, 16, seed)
    if kind in ("array", "mapped"):
        root.mkdir()
        np.save(root / "pixels.npy", pixels)
        os.utime(root / "pixels.npy", (1, 1))
        held = np.load(root / "pixels.npy", mmap_mode="r") if kind == "mapped" else pixels
        return Collection(kind, ArrayImages(held), np.array([0, 1]), ("a", "b"))
    members = {f"{name}/1.bmp": encoded(Image.fromarray(one), "BMP") for name, one in zip("ab", pixels, strict=True)}
    if kind == "shard":
        os.utime(make_shard(root / "train.tar", members), (1, 1))
        return open_split(root, "train")
    for name, data in members.items():
        (root / "train" / name).parent.mkdir(parents=True)
        (root / "train" / name).write_bytes(data)
        os.utime(root / "train" / name, (1, 1))
    return open_split(root, "train")


def test_a_copy_is_found_in_the_cache_by_its_content(encoder, pictures, tmp_path, forwards):
    extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    shutil.copytree(pictures, tmp_path / "copy")
    extract(encoder, open_split(tmp_path / "copy", "train"), cache_dir=tmp_path / "cache")
    assert forwards == [7]


def test_every_image_is_read_once_and_a_later_run_reads_none(encoder, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "_SETTLED_NS", -1)
    read = []
    original = FileImages.content
    monkeypatch.setattr(FileImages, "content", lambda images, row: read.append(row) or original(images, row))
    for _ in range(2):
        extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
        assert sorted(read) == list(range(7))


def test_how_a_source_numbers_its_classes_is_no_part_of_the_hash(encoder, tmp_path):
    images = ArrayImages(noise(3, 16, 0))
    found = [
        extract(encoder, Collection("", images, np.array(labels), classes), cache_dir=tmp_path).fingerprint["sha256"]
        for labels, classes in (([0, 1, 1], ("a", "b")), ([1, 0, 0], ("b", "a")), ([0, 1, 1], ("b", "a")))
    ]
    assert found[0] == found[1] != found[2]


def test_the_decoders_rules_are_part_of_what_features_depend_on(encoder, pictures, tmp_path, forwards, monkeypatch):
    extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    monkeypatch.setattr(manifest, "DECODING", manifest.DECODING + 1)
    extract(encoder, open_split(pictures, "train"), cache_dir=tmp_path / "cache")
    monkeypatch.setattr(features, "max_pixels", lambda: 10**9)  # images that were left out may be read now
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
    size = cache.size_of(cache.FEATURES, tmp_path / "cache")
    assert size > 7 * 96 * 4
    assert cache.remove_all(cache.FEATURES, tmp_path / "cache") == size
    assert cache.size_of(cache.FEATURES, tmp_path / "cache") == 0
