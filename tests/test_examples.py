"""The shipped pictures and their papers."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from clzoo.images import decode_image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FOLDERS = ("photographs", "pictures")
PICTURES = sorted(path for folder in FOLDERS for path in (EXAMPLES / folder).rglob("*") if path.is_file())


@pytest.fixture
def sources():
    with (EXAMPLES / "SOURCES.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_sources_list_every_picture_once_and_nothing_else(sources):
    listed = [row["file"] for row in sources]
    assert listed == sorted(set(listed))
    assert set(listed) == {path.relative_to(EXAMPLES).as_posix() for path in PICTURES}


def test_each_source_says_where_from_by_whom_and_under_which_license(sources):
    for row in sources:
        assert row["author"], row
        if row["file"].startswith("photographs/"):
            assert row["source_package"].startswith("gcompris-qt-data "), row
            assert row["url"].startswith("https://"), row
            assert row["license"] in ("public domain", "CC0-1.0"), row
        else:
            assert row["source_package"].startswith("openclipart-png "), row
            assert row["original_path"].startswith("/usr/share/openclipart/png/"), row
            assert row["license"] == "public domain", row


@pytest.mark.parametrize(("folder", "least"), [("photographs", 5), ("pictures", 10)])
def test_there_are_enough_pictures_in_enough_groups(folder, least):
    counts = Counter(path.parent.name for path in PICTURES if path.parent.parent.name == folder)
    assert sum(counts.values()) >= 60
    assert len(counts) >= 6
    assert min(counts.values()) >= least


@pytest.mark.parametrize(("folder", "side"), [("photographs", 320), ("pictures", 256)])
def test_every_picture_decodes_and_is_small(folder, side):
    pictures = [path for path in PICTURES if path.parent.parent.name == folder]
    for path in pictures:
        assert max(decode_image(path).size) <= side, path
    assert sum(path.stat().st_size for path in pictures) < 3_000_000


def test_no_picture_is_there_twice():
    contents = {path.read_bytes() for path in PICTURES}
    assert len(contents) == len(PICTURES)
