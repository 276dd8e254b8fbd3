"""Pictures to embed, and what is asked of the stores that come of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clzoo.embed.store import Store


def make_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Write `count` different pictures: even ones as cats/NNN.jpg, odd ones as dogs/NNN.png."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        name = f"cats/{number:03d}.jpg" if number % 2 == 0 else f"dogs/{number:03d}.png"
        make_image(folder / name, rng)
    return folder


def make_image(path: Path, rng: np.random.Generator) -> Path:
    """One picture of coarse random blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((50, 40), Image.Resampling.NEAREST).save(path)
    return path


def by_path(store: Store) -> dict[str, np.ndarray]:
    """The vector of each path; a path that stands twice in the store fails the test."""
    assert len(set(store.paths)) == len(store) == len(set(store.ids.tolist()))
    return dict(zip(store.paths, store.embeddings(), strict=True))


def assert_same_rows(store: Store, expected: dict[str, np.ndarray]) -> None:
    """The store has exactly the expected paths, each with its vector."""
    found = by_path(store)
    assert sorted(found) == sorted(expected)
    for path, vector in found.items():
        np.testing.assert_allclose(vector, expected[path], atol=2e-3, err_msg=path)


def files_of(folder: Path) -> set[str]:
    """Names in a store's folder, less the lock."""
    return {path.name for path in folder.iterdir()} - {".lock"}
