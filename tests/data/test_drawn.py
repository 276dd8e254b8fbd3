"""A drawn test split: by class, by content, the same in every place and order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from picture_folders import encoded, make_folder, make_shard, picture

from clzoo.data.collection import ArrayImages, Collection
from clzoo.data.drawn import RULE, drawn_splits
from clzoo.data.opening import has_test_split, is_whole, open_split
from clzoo.data.packing import pack
from clzoo.errors import ClzooError


def arrays(labels: list[int], copies: int = 1) -> Collection:
    """Images that differ, but for `copies` in a row, in as many classes as there are labels."""
    pixels = np.zeros((len(labels), 2, 2, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(len(labels)) // copies
    return Collection("here", ArrayImages(pixels), np.array(labels), tuple("abcdefgh"[: max(labels) + 1]))


def contents(part: Collection) -> set[bytes]:
    return {bytes(part.images.content(row)) for row in range(len(part.images))}


def test_a_fifth_of_every_class_is_tested_on_and_nothing_twice() -> None:
    whole = arrays([0] * 50 + [1] * 10 + [2] * 7 + [3] * 2 + [4])
    train, test = drawn_splits(whole)
    assert np.bincount(test.labels, minlength=5).tolist() == [10, 2, 1, 1, 0]
    assert np.bincount(train.labels, minlength=5).tolist() == [40, 8, 6, 1, 1]
    assert contents(train).isdisjoint(contents(test))
    assert contents(train) | contents(test) == contents(whole)
    assert train.classes == test.classes == whole.classes
    assert train.drawn == test.drawn == RULE == "split:v1(seed=0,test=20%,by class,by content)"


def test_which_images_are_drawn_is_known() -> None:
    _, test = drawn_splits(arrays([0] * 10 + [1] * 10))
    assert [int(test.images.content(row)[0, 0, 0]) for row in range(len(test.images))] == [1, 3, 11, 15]


def test_copies_of_an_image_are_never_on_both_sides() -> None:
    train, test = drawn_splits(arrays([0] * 40 + [1] * 40, copies=4))
    assert contents(train).isdisjoint(contents(test))
    assert np.bincount(test.labels).tolist() == [8, 8]


def test_names_order_and_place_make_no_difference(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "first", {"ant": 10, "bee": 15})
    other = tmp_path / "elsewhere"
    for number, path in enumerate(sorted(first.rglob("*.*"), key=lambda path: path.name[::-1])):
        if path.is_file():
            (other / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, other / path.parent.name / f"{997 * (number + 1) % 101:03}{path.suffix}")
    parts = [drawn_splits(open_split(source, "train"), cache_dir=tmp_path / "cache") for source in (first, other)]
    assert [len(part.images) for part in parts[0]] == [20, 5]
    for one, two in zip(*parts, strict=True):
        assert contents(one) == contents(two)


def test_where_no_class_has_two_different_images_nothing_can_be_drawn() -> None:
    for whole in (arrays([0, 1, 2]), arrays([0] * 3 + [1] * 3, copies=3)):
        with pytest.raises(ClzooError, match=r"no class has two different images.*--data train=DIR,test=DIR"):
            drawn_splits(whole)


def test_an_image_that_cannot_be_read_stays_on_one_side(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "some", {"ant": 5, "bee": 5})
    for name in ("x.png", "y.png"):
        (folder / "ant" / name).mkdir()  # listed by no one
        (folder / "bee" / name).write_bytes(b"no picture")
    train, test = drawn_splits(open_split(folder, "train"), cache_dir=tmp_path / "cache")
    assert len(train.images) + len(test.images) == 12


def test_only_a_source_that_has_no_splits_is_drawn_from(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "classes", {"ant": 3, "bee": 3})
    pack(folder, 8, tmp_path / "packed")
    shard = make_shard(
        tmp_path / "all.tar", {f"{kind}/{n}.png": encoded(picture(n, n)) for kind in "ab" for n in (1, 2)}
    )
    zipped = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", folder))
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted(folder.rglob("*.png"))))
    whole = [folder, tmp_path / "packed", shard, zipped, tmp_path / "list.txt"]
    shutil.copytree(folder, tmp_path / "half" / "train")
    shutil.copytree(folder, tmp_path / "both" / "train")
    shutil.copytree(folder, tmp_path / "both" / "test")
    pack(tmp_path / "both", 8, tmp_path / "packs")
    has_splits = [tmp_path / name for name in ("half", "both", "packs", "packs/test", "nothing")]
    assert [is_whole(source) for source in whole] == [True] * 5
    assert [has_test_split(source) for source in whole] == [False] * 5
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "both")
    assert [has_test_split(tmp_path / name) for name in ("both", "packs", "half", Path(archive).name)] == [
        True, True, False, True,
    ]  # fmt: skip
    assert not is_whole(archive)
    assert [is_whole(source) for source in has_splits] == [False, False, False, True, False]
