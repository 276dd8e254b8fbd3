"""Stores written by hand, so that the index is tested against the format, with vectors a test can reason about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written_stores import write_store

from clzoo import Encoder
from clzoo.config import ModelConfig, Preprocessing
from clzoo.embed.store import Store

MakeStore = Callable[..., Store]


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """A small real network with random weights: 512-dimensional features of 32-pixel inputs."""
    torch.manual_seed(0)
    config = ModelConfig(
        name="test-resnet18-random",
        architecture="resnet18",
        num_features=512,
        method="test",
        backbone="resnet18",
        data="random",
        preprocessing=Preprocessing(size=32, crop_pct=1.0),
        stem_stride=1,
    )
    return Encoder.untrained(config, "cpu")


@pytest.fixture(scope="session")
def model_folder(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder saved where `clzoo.load` finds it."""
    return encoder.save_pretrained(tmp_path_factory.mktemp("models") / "test-resnet18-random")


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Write a store of given vectors, one generation later each time; see `write_store`."""

    def make(vectors: np.ndarray, **options: object) -> Store:
        folder = options.pop("folder", tmp_path / "store")
        return write_store(folder, vectors, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve small real JPEG and PNG files in two sub-folders: flat colours with noise, red-ish and blue-ish."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for group, colour in (("reds", (200, 30, 30)), ("blues", (20, 40, 210))):
        (folder / group).mkdir(parents=True)
        for number in range(6):
            noise = rng.integers(-20, 20, (40, 48, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / group / f"{number}.{'png' if number % 2 else 'jpg'}")
    return folder


@pytest.fixture
def embedded(pictures: Path, tmp_path: Path, encoder: Encoder, model_folder: Path) -> Store:
    """The pictures, embedded by the encoder."""
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.*"))
    vectors = encoder.embed([pictures / path for path in paths])
    labels = [path.split("/")[0] for path in paths]
    options = {"paths": paths, "labels": labels, "root": pictures, "encoder": encoder, "load": model_folder}
    return write_store(tmp_path / "store", vectors, **options)  # type: ignore[arg-type]
