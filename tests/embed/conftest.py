"""Real pictures in real folders, and a small real network to embed them with."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import make_images
from small_models import small_encoder

from clzoo.encoder import Encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """96 features of 32-pixel inputs, random weights."""
    return small_encoder()


@pytest.fixture(scope="session")
def model_folder(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder saved where `clzoo.load` finds it."""
    return encoder.save_pretrained(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """24 different pictures in two groups."""
    return make_images(tmp_path / "images", 24)
