"""Stores written by hand, so that the index is tested against the format, with vectors a test can reason about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clzoo import Encoder
from clzoo.config import ModelConfig, Preprocessing
from clzoo.data.listing import item_ids
from clzoo.embed.manifest import Manifest, Segment, preprocessing_of
from clzoo.embed.store import ERRORS, ERRORS_SCHEMA, GENERATION_KEY, ITEMS_SCHEMA, Store, open_store

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


def write_store(
    folder: Path,
    vectors: np.ndarray,
    *,
    paths: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
    root: Path | None = None,
    dtype: str = "float16",
    normalized: bool = True,
    complete: bool = True,
    encoder: Encoder | None = None,
    load: Path | str = "test-model",
) -> Store:
    """A store with these vectors (N, D), as the pipeline would write it, of the next generation."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = Manifest.load_from(folder).generation + 1 if (folder / "manifest.json").exists() else 1
    count = len(vectors)
    paths = paths or [f"{i:06d}.jpg" for i in range(count)]
    if normalized:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    items = {
        "row": np.arange(count),
        "id": item_ids(list(paths)),
        "path": list(paths),
        "size": np.ones(count, np.int64),
        "mtime_ns": np.ones(count, np.int64),
        "label": list(labels or [None] * count),
    }
    segment = Segment(f"embeddings-{generation}.npy", f"items-{generation}.parquet", count)
    np.save(folder / segment.embeddings, vectors.astype(dtype))
    pq.write_table(pa.table(items, schema=ITEMS_SCHEMA), folder / segment.items)
    errors = ERRORS_SCHEMA.empty_table().replace_schema_metadata({GENERATION_KEY: str(generation)})
    pq.write_table(errors, folder / ERRORS)
    Manifest(
        generation=generation,
        complete=complete,
        root=str(root or folder),
        model=encoder.config.name if encoder else "test-model",
        load=str(load),
        weights_sha256=encoder.weights_sha256 if encoder else "0" * 64,
        preprocessing=preprocessing_of(encoder) if encoder else dataclasses.asdict(Preprocessing()),
        dim=vectors.shape[1],
        dtype=dtype,
        normalized=normalized,
        labels=labels is not None,
        compute=("fp32",),
        rows=count,
        errors=0,
        errors_generation=generation,
        segments=(segment,) if count else (),
        source=str(root or folder),
    ).save(folder)
    return open_store(folder)


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
