"""Sprite sheets: each picture on its tile, whole, and nothing of a picture that is gone but the reason."""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image
from written_stores import write_store

from clzoo.curation.pictures import Pictures
from clzoo.explorer.thumbnails import ACROSS, along_curve, make_sheets, tile_side


def drawn_store(folder, count, missing=()):
    """A picture of its own color and shape for each row."""
    folder.mkdir(parents=True)
    paths = [f"{i:04}.png" for i in range(count)]
    for i in set(range(count)) - set(missing):
        size = (40, 20) if i % 2 else (20, 40)
        Image.new("RGB", size, (i % 256, 40 * (i // 256), 90)).save(folder / paths[i])
    return write_store(
        folder.parent / "store", np.random.default_rng(0).normal(size=(count, 4)), paths=paths, root=folder
    )


def tile(sheets, place):
    sheet, inside = divmod(int(sheets.place[place]), ACROSS * ACROSS)
    row, column = divmod(inside, ACROSS)
    image = Image.open(io.BytesIO(sheets.content[sheet]), formats=["WEBP"]).convert("RGB")
    width, height = sheets.shapes[place].tolist()
    left, top = column * sheets.side + (sheets.side - width) // 2, row * sheets.side + (sheets.side - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


def test_every_picture_stands_on_its_tile_in_its_own_shape(tmp_path):
    store = drawn_store(tmp_path / "pictures", 300)
    places = np.random.default_rng(1).uniform(-1, 1, (300, 2))
    sheets = make_sheets(Pictures(store), np.arange(300), places)
    assert len(sheets.content) == 2
    for place in (0, 1, 150, 255, 256, 299):
        found = tile(sheets, place)
        assert found.shape[:2] == ((20, 40) if place % 2 else (40, 20))
        expected = np.array([place % 256, 40 * (place // 256), 90])
        assert np.abs(found[4:-4, 4:-4].astype(int) - expected).max() < 12, place


def test_a_picture_that_is_gone_keeps_its_place_with_the_reason(tmp_path, caplog):
    store = drawn_store(tmp_path / "pictures", 5, missing=[2])
    with caplog.at_level(logging.WARNING, logger="clzoo"):
        sheets = make_sheets(Pictures(store), np.arange(5), np.zeros((5, 2)))
    assert list(sheets.missing) == [2]
    assert "No such file" in sheets.missing[2]
    assert "1 of 5 pictures have no thumbnail; the first is 0002.png" in caplog.text


def test_the_best_quality_that_fits_is_taken(tmp_path):
    store = drawn_store(tmp_path / "pictures", 40)
    sizes = []
    sheets = make_sheets(Pictures(store), np.arange(40), np.zeros((40, 2)), lambda size: sizes.append(size) or False)
    assert sheets is None
    assert len(sizes) == 3
    assert sizes[0] > sizes[1] > sizes[2]
    fits = make_sheets(Pictures(store), np.arange(40), np.zeros((40, 2)), lambda size: size <= sizes[1])
    assert fits.size == sizes[1]


def test_no_pictures_make_no_sheets(tmp_path):
    store = drawn_store(tmp_path / "pictures", 1)
    assert make_sheets(Pictures(store), np.arange(0), np.zeros((0, 2))).content == []


def test_more_pictures_have_smaller_tiles():
    assert [tile_side(count) for count in (1, 300, 301, 2_000, 6_000, 20_000)] == [224, 224, 128, 128, 96, 64]


def test_what_is_near_on_the_map_is_near_in_the_order():
    places = np.random.default_rng(0).uniform(-1, 1, (4000, 2))
    ordered = places[along_curve(places)]
    assert np.linalg.norm(np.diff(ordered, axis=0), axis=1).mean() < 0.1  # at random 1.04
