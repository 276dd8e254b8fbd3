"""Of the files of one sample in a shard one is the image."""

from __future__ import annotations

from pathlib import Path

import pytest
from picture_folders import encoded, make_shard, picture

from clzoo.data.collection import Collection
from clzoo.data.opening import open_source
from clzoo.data.sources import list_images
from clzoo.errors import ClzooError


def opened(tmp_path: Path, *names: str) -> Collection:
    """A shard of these members; `.cls` hold the number of their order."""
    members = {}
    for number, name in enumerate(names):
        is_class = name.endswith((".cls", ".CLS"))
        members[name] = str(number % 2).encode() if is_class else encoded(picture(number % 5, number))
    return open_source(make_shard(tmp_path / "x.tar", members), "train")


def names(images: Collection) -> list[str]:
    return [images.images.name(row).removeprefix("x.tar/") for row in range(len(images.images))]


def test_the_image_of_a_sample_has_a_plain_suffix_and_the_others_are_counted(tmp_path: Path) -> None:
    found = opened(tmp_path, "a/1.png", "a/1.seg.png", "a/1.mask.png", "a/1.cls", "a/2.jpg", "a/2.seg.png", "a/2.cls")
    assert names(found) == ["a/1.png", "a/2.jpg"]
    assert found.labels is not None
    assert found.passed_over == {".seg.png": 2, ".mask.png": 1}
    assert len(list_images(tmp_path / "x.tar").items) == 5  # which is what clzoo embed takes


def test_a_mask_whose_image_is_missing_is_no_image(tmp_path: Path) -> None:
    found = opened(tmp_path, "1.png", "1.seg.png", "1.cls", "2.seg.png", "2.cls")
    assert names(found) == ["1.png"]


def test_one_image_a_sample_may_have_any_field(tmp_path: Path) -> None:
    found = opened(tmp_path, "1.input.png", "1.cls", "2.input.png", "2.cls")
    assert names(found) == ["1.input.png", "2.input.png"]
    assert found.labels is not None


@pytest.mark.parametrize("pair", [("1.left.png", "1.right.png"), ("1.jpg", "1.png")])
def test_a_labelled_sample_whose_image_is_not_clear_is_an_error_with_the_choices(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    choices = ", ".join(name.removeprefix("1") for name in pair).replace(".", r"\.")
    with pytest.raises(ClzooError, match=rf"x\.tar/1 has several images: {choices}; which one is it\?"):
        opened(tmp_path, *pair, "1.cls")


def test_dots_in_the_names_of_unlabelled_pictures_part_no_fields(tmp_path: Path) -> None:
    every = ["2024.01.02.png", "2024.01.03.png", "a.2.png", "a.png", "b.jpg", "b.png"]
    assert names(opened(tmp_path, *every)) == every


def test_a_class_number_is_the_plain_cls_of_a_sample(tmp_path: Path) -> None:
    found = opened(tmp_path, "1.cls", "1.fine.cls", "1.png", "2.fine.cls", "2.CLS", "2.png")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0]
