"""Images are known by their bytes; what is remembered of them belongs to one version of a file."""

import hashlib
import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_folders import make_folder, make_shard

from clzoo.data import content
from clzoo.data.collection import ArrayImages, FileImages
from clzoo.data.content import digest_of, digests, identity, remembered
from clzoo.data.sources import list_images


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "pictures", {"ant": 3, "bee": 2})


@pytest.fixture
def settled(monkeypatch):
    """As if every file had been written long ago."""
    monkeypatch.setattr(content, "_SETTLED_NS", -1)


def images_of(folder):
    return FileImages(list_images(folder).items)


def test_the_digest_of_a_file_is_the_hash_of_its_bytes(folder, tmp_path):
    found = digests(images_of(folder), np.array([4, 0]), tmp_path / "cache")
    expected = [hashlib.sha256((folder / name).read_bytes()).digest() for name in ("bee/01.png", "ant/00.png")]
    assert [row.tobytes() for row in found] == expected


def test_what_was_read_is_known_in_the_next_run_and_in_any_part_of_the_source(folder, tmp_path, settled):
    found = digests(images_of(folder), np.arange(5), tmp_path / "cache")
    again, is_known = remembered(images_of(folder), np.array([3, 1, 4]), tmp_path / "cache")
    assert is_known.all()
    assert np.array_equal(again, found[[3, 1, 4]])


def test_what_is_read_later_is_added(folder, tmp_path, settled):
    digests(images_of(folder), np.array([0, 4]), tmp_path / "cache")
    digests(images_of(folder), np.array([2, 3]), tmp_path / "cache")
    _, is_known = remembered(images_of(folder), np.arange(5), tmp_path / "cache")
    assert is_known.tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("how", ["in place", "another file"])
def test_other_bytes_of_the_same_length_and_time_are_read_again(folder, tmp_path, settled, how):
    one = folder / "ant" / "01.png"
    before, old = one.stat(), digests(images_of(folder), np.arange(5), tmp_path / "cache")
    time.sleep(0.05)  # the clock of the file system
    if how == "another file":
        one.rename(tmp_path / "kept.png")
    one.write_bytes(b"x" * before.st_size)
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    _, is_known = remembered(images_of(folder), np.arange(5), tmp_path / "cache")
    assert is_known.tolist() == [True, False, True, True, True]
    found = digests(images_of(folder), np.arange(5), tmp_path / "cache")
    assert found[1].tobytes() == hashlib.sha256(b"x" * before.st_size).digest()
    assert np.array_equal(np.delete(found, 1, 0), np.delete(old, 1, 0))


def test_a_file_that_was_written_just_now_is_not_remembered(folder, tmp_path):
    digests(images_of(folder), np.arange(5), tmp_path / "cache")
    assert not remembered(images_of(folder), np.arange(5), tmp_path / "cache")[1].any()


def test_members_of_a_shard_are_told_apart_by_their_place(tmp_path, settled):
    shard = make_shard(tmp_path / "s.tar", {"a/1.png": b"first", "b/1.png": b"other"})
    digests(images_of(shard), np.arange(2), tmp_path / "cache")
    found, is_known = remembered(images_of(shard), np.arange(2), tmp_path / "cache")
    assert is_known.all()
    assert [row.tobytes() for row in found] == [hashlib.sha256(b).digest() for b in (b"first", b"other")]


def test_a_damaged_memory_is_named_and_everything_is_read_again(folder, tmp_path, settled, caplog):
    found = digests(images_of(folder), np.arange(5), tmp_path / "cache")
    (place,) = (tmp_path / "cache" / "content").iterdir()
    for damage in (b"", place.read_bytes()[:-7], b"\x93NUMPY nonsense"):
        place.write_bytes(damage)
        caplog.clear()
        assert np.array_equal(digests(images_of(folder), np.arange(5), tmp_path / "cache"), found)
        assert f"{place} is damaged" in caplog.text


def test_what_cannot_be_read_is_no_file_of_zeros(folder, tmp_path):
    images = images_of(folder)
    (folder / "bee" / "00.png").unlink()
    found = digests(images, np.arange(5), tmp_path / "cache")
    assert (found == 0).all(axis=1).tolist() == [False, False, False, True, False]


def test_arrays_of_the_same_bytes_and_another_shape_are_others():
    pixels = np.zeros((1, 4, 2, 3), np.uint8)
    wide, tall = (digests(ArrayImages(p), np.arange(1)) for p in (pixels, pixels.reshape(1, 2, 4, 3)))
    assert not np.array_equal(wide, tall)


def test_names_and_order_are_part_of_the_identity_but_no_place_is(folder, tmp_path):
    def found(images, rows):
        return identity(images, rows, digests(images, rows, tmp_path / "cache")).hexdigest()

    here = found(images_of(folder), np.arange(5))
    assert found(images_of(folder), np.arange(5)[::-1]) != here
    moved = folder.rename(tmp_path / "moved")
    assert found(images_of(moved), np.arange(5)) == here
    (moved / "bee" / "01.png").rename(moved / "bee" / "02.png")
    assert found(images_of(moved), np.arange(5)) != here
    lines = tmp_path / "lists" / "list.txt"
    lines.parent.mkdir()
    lines.write_text("\n".join(str(path) for path in sorted(moved.rglob("*.png"))))  # outside of the list's folder
    absolute = found(images_of(lines), np.arange(5))
    lines.write_text(lines.read_text().replace("moved", "again"))
    moved.rename(tmp_path / "again")
    assert found(images_of(lines), np.arange(5)) == absolute


def test_columns_of_one_parquet_file_are_other_images(tmp_path, settled):
    columns = {"left": [b"one", b"two"], "right": [b"three", b"four"]}
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    for name, held in columns.items():
        images = FileImages(list_images(tmp_path / "pairs.parquet", column=name).items)
        found = digests(images, np.arange(2), tmp_path / "cache")
        assert [row.tobytes() for row in found] == [digest_of(each) for each in held], name
