"""Which folders and shards are splits, which are classes, and where an error asks which of both."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from picture_folders import encoded, make_folder, make_shard, picture

from clzoo.data.collection import Collection
from clzoo.data.opening import open_source, splits_of
from clzoo.data.packing import pack
from clzoo.errors import ClzooError
from clzoo.evaluation.opening import open_splits


def fill(root: Path, *names: str) -> Path:
    """A picture at each of the places below `root`."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number % 5, number).save(root / name)
    return root


def shards(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        members = {f"{number}{n}.png": encoded(picture(number % 5, n)) for n in range(2)}
        make_shard(root / name, members | {f"{number}{n}.cls": str(n).encode() for n in range(2)})
    return root


def paths(opened: Collection) -> list[str]:
    return [opened.images.name(row) for row in range(len(opened.images))]


@pytest.mark.parametrize("name", ["train", "test", "val", "validation"])
@pytest.mark.parametrize("others", [("bus/1.png", "car/1.png"), ("bus/day/1.png", "car/night/1.png")])
def test_a_class_may_be_called_as_a_split(tmp_path: Path, name: str, others: tuple[str, ...]) -> None:
    fill(tmp_path, f"{name}/1.png", f"{name}/2.png", *others)
    opened = open_source(tmp_path, "train")
    assert len(opened.images) == 4
    assert opened.classes == tuple(sorted((name, "bus", "car")))
    assert splits_of(tmp_path) == []
    assert [made["images"] for made in pack(tmp_path, 8, tmp_path.with_name(f"{tmp_path.name}-packed"))] == [4]
    with pytest.raises(ClzooError, match=r"has no splits \(\w+ is a class among others; name the splits") as error:
        open_splits(tmp_path)
    assert name.lower() in str(error.value)
    train, test = open_splits({"train": tmp_path, "test": tmp_path})
    assert train.classes == test.classes == opened.classes


def test_the_names_of_splits_may_be_written_in_capitals(tmp_path: Path) -> None:
    fill(tmp_path, "Train/ant/1.png", "Train/bee/1.png", "Test/ant/1.png", "Test/bee/1.png")
    train, test = open_splits(tmp_path)
    assert (train.classes, len(test.images)) == (("ant", "bee"), 2)


def test_an_empty_folder_of_such_a_name_is_a_class_among_classes(tmp_path: Path) -> None:
    fill(tmp_path, "bus/1.png", "car/1.png")
    (tmp_path / "train").mkdir()
    assert open_source(tmp_path, "train").classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    "names",
    [
        ("train/a/1.png", "val/a/1.png", "extra/1.png"),
        ("train/a/1.png", "val/a/1.png", "masks/a/1.png", "montage.png"),
        ("train/a/1.png", "test/1.png", "other/1.png"),
        ("train/a/1.png", "unlabeled/1.png"),
        ("train/a/1.png", "montage.png"),
    ],
)
def test_what_is_laid_out_as_splits_is_one_and_what_lies_beside_is_said(
    tmp_path: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_source(fill(tmp_path, *names), "train")
    assert paths(opened) == ["a/1.png"]
    assert opened.origin == str(tmp_path / "train")
    (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"beside the splits {', '.join(name.split('/')[0] for name in names[2:] or names[1:])} is passed" in warned


@pytest.mark.parametrize("made", [("recipe.yaml", "data.json", "state.json"), ("metrics.json", "report.html")])
def test_what_clzoo_wrote_beside_a_split_is_no_class(tmp_path: Path, made: tuple[str, ...]) -> None:
    fill(tmp_path, "train/ant/0.png", "train/bee/0.png", "runs/mine/curves.png", "runs/mine/plots/0.png")
    for name in made:
        (tmp_path / "runs" / "mine" / name).touch()
    assert paths(open_source(tmp_path, "train")) == ["ant/0.png", "bee/0.png"]


def test_folders_without_images_beside_splits_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "train/1.png", "test/1.png")
    for name in ("meta", ".git", "annotations"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").touch()
    (tmp_path / ".git" / "logo.png").touch()
    assert splits_of(tmp_path) == ["train", "test"]
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("names", "readings"),
    [
        (("train/steam/1.png", "bus/1.png"), "train as a split, without bus beside; or as classes"),
        (("train/day/1.png", "bus/day/1.png"), "train as a split, without bus beside; or as classes"),
        (("train/1.png", "test/1.png", "bus/1.png"), "test, train as splits, without bus beside; or as classes"),
        (("train/1.png", "1.png"), r"train as a split, without 1\.png beside; or as classes"),
        (("test/1.png", "training/a/1.png"), "test as a split, without training beside; or as classes"),
    ],
)
def test_where_both_readings_may_be_right_an_error_names_them_and_what_to_type(
    tmp_path: Path, names: tuple[str, ...], readings: str
) -> None:
    fill(tmp_path, *names)
    for opening in (lambda: open_source(tmp_path, "train"), lambda: open_splits(tmp_path), lambda: splits_of(tmp_path)):
        with pytest.raises(ClzooError, match=f"can be read in two ways: {readings}") as error:
            opening()
    first = tmp_path / min(name.split("/")[0] for name in names if name.startswith("t"))
    assert f"For a split name its folder: {first}" in str(error.value)
    subprocess.run(str(error.value).rpartition(": ")[2], shell=True, check=True)  # the mv that it advises for classes
    if not any(path.name == "train" for path in tmp_path.iterdir()) and "1.png" not in names:
        assert len(open_source(tmp_path, "train").images) == len(names)


@pytest.mark.skipif(os.name == "nt", reason="links as on POSIX")
def test_links_that_lead_nowhere_beside_splits_do_no_harm(tmp_path: Path) -> None:
    fill(tmp_path, "train/1.png", "test/1.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert splits_of(tmp_path) == ["train", "test"]
    (tmp_path / "train" / "more").symlink_to(tmp_path / "nowhere")
    opened = open_source(tmp_path, "train")
    assert opened.failures == ("more: No such file or directory",)


# Shards


def test_shards_that_name_both_splits_leave_the_others_out_and_say_so(tmp_path: Path) -> None:
    opened = open_source(shards(tmp_path, "x-train-0.tar", "x-val-0.tar", "x-more-0.tar"), "train")
    assert {path.split("/")[0] for path in paths(opened)} == {"x-train-0.tar"}
    assert opened.passed_over["images of other shards"] == 4


def test_a_word_in_the_names_of_some_shards_may_be_no_split(tmp_path: Path) -> None:
    shards(tmp_path, "bus-0.tar", "car-0.tar", "train-0.tar")
    for split in ("train", "test"):
        with pytest.raises(
            ClzooError, match=r"two ways: train-0\.tar as a shard of the split train, without bus-0\.tar"
        ):
            open_source(tmp_path, split)
    (tmp_path / "train-0.tar").rename(tmp_path / "trains-0.tar")
    assert len(open_source(tmp_path, "train").images) == 6


def test_a_shard_that_names_two_splits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClzooError, match=r"a-train-val-0\.tar can be read in two ways: as a shard of train or of val"):
        open_source(shards(tmp_path, "a-train-val-0.tar"), "train")


def test_hidden_shards_name_no_split(tmp_path: Path) -> None:
    shards(tmp_path, "x-0.tar")
    (tmp_path / "._x-test-0.tar").write_bytes(b"Mac")
    assert splits_of(tmp_path) == []


# A split without labels


@pytest.mark.parametrize("packed", [False, True])
def test_a_labelled_val_is_taken_before_a_test_split_without_labels(
    tmp_path: Path, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "in"
    for split in ("train", "val"):
        make_folder(source / split, {"ant": 2, "bee": 2})
    fill(source, *(f"test/{n}.png" for n in range(3)))
    if packed:
        for split in ("train", "val", "test"):
            pack(source / split, 8, tmp_path / "packed" / split)
        source = tmp_path / "packed"
    _, test = open_splits(source)
    assert test.origin == str(source / "val")
    assert len(test.images) == 4
    assert f"{source / 'val'}, which has labels, is taken for the split: {source / 'test'} has none" in caplog.text


def test_labelled_val_shards_are_taken_before_test_shards_without_labels(tmp_path: Path) -> None:
    shards(tmp_path, "x-train-0.tar", "x-val-0.tar")
    make_shard(tmp_path / "x-test-0.tar", {f"{n}.png": encoded(picture(0, n)) for n in range(3)})
    _, test = open_splits(tmp_path)
    assert {path.split("/")[0] for path in paths(test)} == {"x-val-0.tar"}


def test_where_no_test_split_has_labels_the_error_names_the_folder_of_each(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"ant": 2, "bee": 2})
    fill(tmp_path, "test/1.png", "val/1.png")
    with pytest.raises(ClzooError) as error:
        open_splits(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'test'} has no labels. Expected <class>/<image>.jpg")
    assert f"{tmp_path / 'val'} has none either." in str(error.value)


def test_tiny_imagenet_as_published_is_evaluated_after_the_command_of_the_error(tmp_path: Path) -> None:
    source = tmp_path / "tiny imagenet"
    fill(source, *(f"train/n0{k}/images/n0{k}_{n}.JPEG" for k in range(2) for n in range(2)))
    fill(source, *(f"{split}/images/{split}_{n}.JPEG" for split in ("val", "test") for n in range(4)))
    lines = [f"val_{n}.JPEG\tn0{n % 2}\t0\t0\t62\t62\n" for n in range(4)]
    (source / "val" / "val_annotations.txt").write_text("".join(lines))
    with pytest.raises(ClzooError, match="lie in the one folder 'images', which is taken for no class") as error:
        open_splits(source)
    command = str(error.value).rpartition("class folders: (")[2].rpartition(")")[0]
    if shutil.which("sh") is None:
        pytest.skip("the command is for a POSIX shell")
    subprocess.run(f"({command})", shell=True, check=True)
    _, test = open_splits(source)
    assert test.origin == str(source / "val")
    assert paths(test) == ["n00/val_0.JPEG", "n00/val_2.JPEG", "n01/val_1.JPEG", "n01/val_3.JPEG"]


def test_what_was_taken_and_passed_over_is_said_by_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "ant/1.png", "ant/2.jpg", "bee/1.png", ".cache/1.png", "bee/._1.png")
    (tmp_path / "notes.txt").touch()
    with caplog.at_level(logging.INFO, "clzoo"):
        opened = open_source(tmp_path, "train")
    assert opened.passed_over == {".txt": 1, "hidden": 1, "hidden folders": 1}
    said = f"{tmp_path}: 3 images of 2 classes; took 2 .png, 1 .jpg; passed over "
    assert said in caplog.text
    (made,) = pack(tmp_path, 8, tmp_path.with_name(f"{tmp_path.name}-packed"))
    assert made["passed_over"] == opened.passed_over
