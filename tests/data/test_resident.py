import logging

import numpy as np
import pytest
from PIL import Image

from clzoo.data.resident import load_image_folder
from clzoo.errors import ClzooError


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        for number in range(3):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 30), (100 * label, 10 * number, 0)).save(path)
    return tmp_path


def test_images_come_in_the_order_of_their_paths_with_their_classes(folder):
    images = load_image_folder(folder, 16)
    assert images.pixels.shape == (6, 16, 16, 3)
    assert images.classes == ("ant", "bee")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.pixels[:, 0, 0].tolist() == [
        [100 * label, 10 * number, 0] for label in (0, 1) for number in (0, 1, 2)
    ]


def test_a_damaged_file_is_left_out_and_named(folder, caplog):
    (folder / "ant" / "1.png").write_bytes(b"\x89PNG broken")
    with caplog.at_level(logging.WARNING, "clzoo"):
        images = load_image_folder(folder, 16)
    assert len(images) == 5
    assert images.labels.tolist() == [0, 0, 1, 1, 1]
    assert "1.png" in images.skipped[0]
    assert "1.png" in caplog.text


def test_images_of_the_right_size_are_not_touched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    (tmp_path / "c").mkdir()
    Image.fromarray(pixels).save(tmp_path / "c" / "x.png")
    assert np.array_equal(load_image_folder(tmp_path, 32).pixels[0], pixels)


def test_missing_and_empty_folders_are_errors_that_say_what_is_expected(tmp_path):
    with pytest.raises(ClzooError, match="not a folder"):
        load_image_folder(tmp_path / "nothing", 32)
    with pytest.raises(ClzooError, match=r"<class>/<image>"):
        load_image_folder(tmp_path, 32)
