"""Labels of two sets meet by the names of their classes, whatever numbers they have on either side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from picture_folders import encoded, make_shard, picture

from clzoo.data.classes import places_by_name, with_classes_of
from clzoo.data.collection import ArrayImages, Collection
from clzoo.data.packing import pack
from clzoo.data.training import open_training_set
from clzoo.errors import ClzooError
from clzoo.evaluation.opening import open_splits
from clzoo.pretrain.online import knn_labels


def collection(labels: list[int], classes: tuple[str, ...], origin: str = "here") -> Collection:
    pixels = np.zeros((len(labels), 2, 2, 3), np.uint8)
    return Collection(origin, ArrayImages(pixels), np.array(labels), classes)


def named(images: Collection) -> list[str]:
    assert images.labels is not None
    return [images.classes[label] for label in images.labels]


def numbered_shard(path: Path, classes: int) -> Path:
    """`key.png` and `key.cls`, two of each class; red tells the class, up to the sixth."""
    members = {}
    for n in range(2 * classes):
        members[f"{n:03}.png"], members[f"{n:03}.cls"] = encoded(picture(n % classes, n)), str(n % classes).encode()
    return make_shard(path, members)


def numbered_folder(root: Path, classes: int) -> Path:
    for label in range(classes):
        (root / str(label)).mkdir(parents=True)
        for n in range(2):
            picture(label, n).save(root / str(label) / f"{n}.png")
    return root


def red(images: Collection) -> list[int]:
    return [images.images.read(row).getpixel((0, 0))[0] for row in range(len(images.images))]  # type: ignore[index]


def test_the_same_classes_in_another_order_are_counted_anew() -> None:
    train, test = collection([0, 1, 2], ("a", "b", "c")), collection([0, 1, 2, 2], ("c", "a", "b"))
    joined = with_classes_of(train, test)
    assert joined.classes == train.classes
    assert named(joined) == named(test) == ["c", "a", "b", "b"]
    assert with_classes_of(train, train) is train


def test_other_classes_are_an_error_that_names_them_on_both_sides() -> None:
    one, other = collection([0, 1], ("a", "b"), "one"), collection([0, 1], ("b", "z"), "two")
    with pytest.raises(ClzooError, match="one and two differ in their classes: only in train a; only in test z"):
        with_classes_of(one, other)


def test_a_class_without_images_that_the_other_side_does_not_know_is_no_difference() -> None:
    train, test = collection([0, 1], ("a", "c")), collection([2, 0], ("a", "b", "c"))
    assert named(with_classes_of(train, test)) == ["c", "a"]
    assert with_classes_of(test, train).classes == ("a", "b", "c")


def test_places_are_found_by_name_or_not_at_all() -> None:
    places = places_by_name(("0", "1", "10", "2"), ("0", "1", "2", "10"))
    assert places is not None
    assert places.tolist() == [0, 1, 3, 2]
    assert places_by_name(("a", "b"), ("a", "c")) is None
    assert places_by_name(("a",), ("a", "b")) is None


@pytest.mark.parametrize("packed", [False, True])
def test_numbered_shards_and_numbered_folders_meet_as_splits_and_as_packs(tmp_path: Path, packed: bool) -> None:
    train: Path = numbered_shard(tmp_path / "w" / "train-0.tar", 12).parent
    test = numbered_folder(tmp_path / "f", 12)
    if packed:
        for source in (train, test):
            pack(source, 8, tmp_path / f"{source.name}-packed")
        train, test = tmp_path / "w-packed" / "train", tmp_path / "f-packed"
    first, second = open_splits({"train": train, "test": test})
    assert first.classes == second.classes == tuple(str(n) for n in range(12))
    for part in (first, second):
        assert red(part) == [min(40 * int(name) + 10, 255) for name in named(part)]


def test_the_online_k_nn_and_the_controls_count_queries_in_the_classes_of_train(tmp_path: Path) -> None:
    numbered_shard(tmp_path / "w" / "train-0.tar", 11)
    train = open_training_set("mine", tmp_path / "w", 8)
    test = open_training_set("mine", numbered_folder(tmp_path / "f", 11), 8)
    labels, truth = knn_labels(train, test)
    assert train.classes != test.classes
    assert truth.tolist() == [int(test.classes[label]) for label in test.labels.tolist()]  # type: ignore[union-attr]
    assert sorted(set(labels.tolist())) == list(range(11))
