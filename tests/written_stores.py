"""Stores written by hand, with vectors that a test can reason about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clzoo import Encoder
from clzoo.config import Preprocessing
from clzoo.data.listing import item_ids
from clzoo.embed.manifest import Manifest, Segment, preprocessing_of
from clzoo.embed.store import ERRORS, ERRORS_SCHEMA, GENERATION_KEY, ITEMS_SCHEMA, Store, open_store


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
