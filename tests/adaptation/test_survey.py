"""What is refused before anything is trained, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from picture_folders import noise
from PIL import Image
from small_models import small_encoder

from clzoo.adaptation.survey import survey
from clzoo.config import Preprocessing
from clzoo.data.opening import open_source
from clzoo.data.parts import parts_of
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
