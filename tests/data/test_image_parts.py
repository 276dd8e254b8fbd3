"""Which images are held out: by what they hold, wherever they lie."""

from __future__ import annotations

import shutil

import numpy as np
from labelled_pictures import make_splits
from picture_folders import noise

from clzoo.data.collection import ArrayImages
from clzoo.data.opening import open_source
from clzoo.data.parts import parts_of
from clzoo.data.training import open_training_set


def names(images, rows) -> set[str]:
    return {images.name(int(row)) for row in rows}


def test_every_image_is_of_one_part(tmp_path):
    parts = parts_of(ArrayImages(noise(200, 8, seed=1)), tmp_path)
    assert np.array_equal(np.sort(np.concatenate([parts.train, parts.pilots, parts.held])), np.arange(200))
    assert (len(parts.train), len(parts.pilots), len(parts.held), parts.distinct) == (140, 20, 40, 200)


def test_copies_stay_together(tmp_path):
    pixels = np.repeat(noise(50, 8, seed=1), 4, axis=0)
    parts = parts_of(ArrayImages(pixels), tmp_path)
    sides = [{int(row) // 4 for row in rows} for rows in (parts.train, parts.pilots, parts.held)]
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert parts.distinct == 50
    assert abs(len(parts.held) - 40) < 4


def test_names_and_order_make_no_difference(tmp_path):
    folder = make_splits(tmp_path / "here", train=10, test=1) / "train"
    moved = tmp_path / "there"
    moved.mkdir()
    for path in folder.rglob("*.png"):
        shutil.copy(path, moved / f"z{path.parent.name[::-1]}{path.name}")
    first, second = open_source(folder, "pretrain"), open_source(moved, "pretrain")
    contents = [
        {collection.images.content(int(row)) for row in parts_of(collection.images, tmp_path).held}
        for collection in (first, second)
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 12


def test_a_recipe_trains_on_what_is_not_held_out(tmp_path):
    folder = make_splits(tmp_path, train=10, test=1) / "train"
    whole = open_source(folder, "pretrain")
    opened = open_training_set("mine", folder, 32, held_out=True)
    assert len(opened) == 42
    parts = parts_of(whole.images)
    assert names(opened.images, opened.rows) == names(whole.images, parts.train)
    assert opened.fingerprint() != open_training_set("mine", folder, 32).fingerprint()


def test_what_is_held_out_is_kept_by_name(tmp_path):
    images = ArrayImages(noise(100, 8, seed=2))
    kept = parts_of(images, tmp_path).to_json(images)
    assert kept["rule"].startswith("hold-out:v1(seed=0")
    assert len(kept["held"]) == 20
    assert not set(kept["held"]) & set(kept["pilots"])


def test_of_copies_among_the_held_out_one_is_judged(tmp_path):
    pixels = np.repeat(noise(100, 4, seed=3), 3, axis=0)  # each three times
    parts = parts_of(ArrayImages(pixels), tmp_path)
    assert len(parts.held) == 60
    assert len(parts.judged) == 20
    assert set(parts.judged) <= set(parts.held)
    assert len(np.unique(pixels[parts.judged].reshape(20, -1), axis=0)) == 20
    assert {row // 3 for row in parts.held} == {row // 3 for row in parts.judged}
    alone = parts_of(ArrayImages(noise(100, 4, seed=3)), tmp_path)
    assert np.array_equal(alone.judged, alone.held)
