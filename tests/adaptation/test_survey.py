"""What is refused before anything is trained, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from picture_folders import noise
from PIL import Image
from small_models import small_encoder

from clzoo.adaptation.survey import require_classes, survey
from clzoo.config import Preprocessing
from clzoo.data.collection import ArrayImages, Collection
from clzoo.data.opening import open_source
from clzoo.data.parts import Parts, parts_of
from clzoo.errors import ClzooError


def folder_of(root: Path, pixels: np.ndarray) -> Path:
    root.mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(root / f"{number:03}.png")
    return root


def looked_at(folder: Path, cache: Path, size: int = 32):
    whole = open_source(folder, "pretrain")
    encoder = small_encoder(preprocessing=Preprocessing(size=size, crop_pct=1.0))
    return survey(whole, parts_of(whole.images, cache), encoder)


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """Pictures of 4 x 4 coloured squares, 32 px."""
    return np.kron(noise(count, 4, seed), np.ones((1, 8, 8, 1), np.uint8))


def test_ordinary_images_have_no_limits(tmp_path):
    seen = looked_at(folder_of(tmp_path / "ok", blobs(210)), tmp_path)
    assert (seen.images, seen.distinct, seen.side, seen.grey, seen.limits) == (210, 210, 32, False, ())


def test_few_images_are_refused_and_under_two_hundred_a_limit_is_stated(tmp_path):
    with pytest.raises(ClzooError, match=r"has 49 images; adaptation takes at least 50"):
        looked_at(folder_of(tmp_path / "few", blobs(49)), tmp_path)
    seen = looked_at(folder_of(tmp_path / "more", blobs(199)), tmp_path)
    assert "199 images are fewer than 200" in seen.limits[0]


def test_one_image_again_and_again_is_refused(tmp_path):
    with pytest.raises(ClzooError, match="has 60 images, of which 1 differ"):
        looked_at(folder_of(tmp_path / "same", np.repeat(blobs(1), 60, axis=0)), tmp_path)
    nearly = np.repeat(blobs(1), 60, axis=0)
    nearly[:, 0, 0, 0] = np.arange(60)  # other bytes, the same picture
    with pytest.raises(ClzooError, match="copies of one another"):
        looked_at(folder_of(tmp_path / "nearly", nearly), tmp_path)


def test_copies_are_trained_on_and_not_judged_again(tmp_path):
    copied = np.repeat(blobs(60), 5, axis=0)
    seen = looked_at(folder_of(tmp_path / "copied", copied), tmp_path)
    assert (seen.images, seen.distinct) == (300, 60)
    assert seen.limits[0].startswith("60 different images are fewer than 200")
    assert seen.limits[1].startswith("48 of 60 held-out images are copies of others there")


def labelled(labels: list[int], train: int) -> tuple[Collection, Parts]:
    """As many images as labels, the first `train` of them to train on, the others held out."""
    names = tuple(f"class {number}" for number in range(max(labels) + 1))
    rows, none = np.arange(len(labels)), np.arange(0)
    whole = Collection("mine", ArrayImages(np.zeros((len(labels), 2, 2, 3), np.uint8)), np.array(labels), names)
    return whole, Parts(rows[:train], none, rows[train:], rows[train:], len(labels))


def test_labels_of_one_class_are_refused():
    with pytest.raises(
        ClzooError, match=r"--labels: all 60 images of mine are of the class class 0.*needs two classes"
    ):
        require_classes(*labelled([0] * 60, 50))


def test_labels_of_which_no_two_images_can_be_compared_are_refused():
    for labels in ([*range(60)], [*range(50), *range(50, 60)], [*[0, 1] * 25, *range(2, 12)]):
        with pytest.raises(
            ClzooError, match=r"--labels: mine has 60 images of \d+ classes, too few of each to compare"
        ):
            require_classes(*labelled(labels, 50))


def test_held_out_classes_without_an_image_to_learn_from_are_a_stated_limit():
    assert require_classes(*labelled([0, 1] * 30, 50)) == []
    (limit,) = require_classes(*labelled([*[0, 1] * 25, 0, 1, 2, 3, *[0, 1] * 3], 50))
    assert limit.startswith("2 of 10 held-out images are of classes that the others do not hold")


def test_flat_grey_images_are_refused_and_grey_photographs_are_not(tmp_path):
    flat = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None] * 4, (60, 32, 32, 3))
    with pytest.raises(ClzooError, match=r"60 of 60 images .* one flat colour"):
        looked_at(folder_of(tmp_path / "flat", flat), tmp_path)
    grey = np.repeat(blobs(60)[..., :1], 3, axis=3)
    assert looked_at(folder_of(tmp_path / "grey", grey), tmp_path).grey


def test_corrupt_files_are_named_and_mostly_corrupt_ones_refused(tmp_path):
    folder = folder_of(tmp_path / "some", blobs(210))
    (folder / "000.png").write_bytes(b"no picture")
    assert "000.png" in looked_at(folder, tmp_path).limits[-1]
    for number in range(170):
        (folder / f"{number:03}.png").write_bytes(b"no picture %d" % number)
    with pytest.raises(ClzooError, match=r"170 of 210 images .* cannot be read, the first: 000.png"):
        looked_at(folder, tmp_path)


def test_an_encoder_of_much_larger_images_is_a_stated_limit(tmp_path):
    seen = looked_at(folder_of(tmp_path / "small", blobs(210)), tmp_path, size=96)
    assert "enlarged 3.0 times" in seen.limits[0]
    assert looked_at(tmp_path / "small", tmp_path, size=64).limits == ()
