"""A real collection with planted copies, embedded by the bundled model."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from patterns import make_patterns

import clzoo
from clzoo import Encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return clzoo.load("supcon-resnet10_w32-tiny", device="cpu")


@pytest.fixture(scope="session")
def planted(tmp_path_factory, encoder) -> Path:
    """`pictures/` with 60 pictures, and beside them a same file, the same pixels, and a copy of each kind below."""
    place = tmp_path_factory.mktemp("planted")
    folder = make_patterns(place / "pictures", 60)
    shutil.copy(folder / "000.png", folder / "a_same_file.png")
    with Image.open(folder / "001.png") as image:
        image.save(folder / "b_same_pixels.bmp")
    with Image.open(folder / "002.png") as image:
        image.crop((2, 2, 46, 46)).save(folder / "c_cut.png")
    os.utime(folder / "c_cut.png", ns=(10**18, 10**18))  # older than its original
    clzoo.embed_folder(folder, encoder, out=place / "store", store_dtype="fp32")
    return place
