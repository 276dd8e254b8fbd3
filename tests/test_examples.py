"""The shipped pictures and their papers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from clzoo.data.images import decode_image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PICTURES = sorted(path for path in (EXAMPLES / "pictures").rglob("*") if path.is_file())


@pytest.fixture
def sources():
    with (EXAMPLES / "SOURCES.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_sources_list_every_picture_once_and_nothing_else(sources):
    listed = [row["file"] for row in sources]
    assert listed == sorted(set(listed))
    assert set(listed) == {path.relative_to(EXAMPLES / "pictures").as_posix() for path in PICTURES}


def test_each_source_says_where_from_by_whom_and_under_which_licence(sources):
    for row in sources:
        assert row["source_package"].startswith("openclipart-png "), row
        assert row["original_path"].startswith("/usr/share/openclipart/png/"), row
        assert row["author"], row
        assert row["licence"] == "public domain", row


def test_there_are_enough_pictures_in_enough_groups():
    counts: dict[str, int] = {}
    for path in PICTURES:
        counts[path.parent.name] = counts.get(path.parent.name, 0) + 1
    assert len(PICTURES) >= 60
    assert len(counts) >= 6
    assert min(counts.values()) >= 10


def test_every_picture_decodes_and_is_small():
    for path in PICTURES:
        assert max(decode_image(path).size) <= 256, path
    assert sum(path.stat().st_size for path in PICTURES) < 3_000_000


def test_no_picture_is_there_twice():
    contents = {path.read_bytes() for path in PICTURES}
    assert len(contents) == len(PICTURES)
