"""What tests of the explorer share: vectors, rows by names, and a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from written_stores import write_store

from clzoo import build_index, open_store
from clzoo.embed.store import Store
from clzoo.explorer import Exploration


def random_vectors(count: int, dim: int = 12, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def short_lists(folder: Path) -> tuple[np.ndarray, Store]:
    """720 unit vectors in 60 tight groups of 12, and a store of them with an index whose lists hold less than 16."""
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(60, 32)), 12, axis=0) + random.normal(scale=0.05, size=(720, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    store = write_store(folder, vectors, dtype="float32")
    index = build_index(store, factory="IVF60,Flat")
    assert (index.faiss.search(vectors, 16)[1] < 0).any()  # or the tests of it test nothing
    return vectors, store


def places_of(store: Path, *names: str) -> np.ndarray:
    """Rows of files by their names."""
    paths = [Path(path).name for path in open_store(store).paths]
    return np.array([paths.index(name) for name in names])


@contextmanager
def serving(view: Exploration, token: str = "token") -> Iterator[str]:
    """The address of a real server, in a thread of this process."""
    pytest.importorskip("starlette", reason='needs pip install "clzoo[explore]"')
    uvicorn = pytest.importorskip("uvicorn", reason='needs pip install "clzoo[explore]"')
    from clzoo.explorer.server import _bound, make_app

    listening = _bound(0)
    server = uvicorn.Server(uvicorn.Config(make_app(view, token), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/"
    server.should_exit = True
    thread.join(timeout=20)
    listening.close()
