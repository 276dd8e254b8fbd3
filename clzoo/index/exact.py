"""Searching an index on an NVIDIA GPU: by FAISS where it can, else by exact search in torch.

FAISS searches there if it is built for GPUs and knows the index's kind on them (Flat, SQfp16, inverted files; HNSW it
does not). In all other cases, and for more than 2,048 neighbors, the store's own vectors are compared with each query:
an answer that no index beats, at a cost that a GPU hardly notices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from clzoo.device import resolve_device
from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.index.building import Index
from clzoo.index.choosing import ExactSearch
from clzoo.index.files import import_faiss, inner_index
from clzoo.index.vectors import BATCH
from clzoo.neighbors import nearest

log = logging.getLogger("clzoo")

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Unit queries, float32 (Q, D), and k -> scores (Q, k) and ids (Q, k), as FAISS's own `search`."""

_FAISS_MOST = 2048  # neighbors that FAISS finds on a GPU

_moved: WeakKeyDictionary[Index, dict[tuple[torch.device, bool], Search]] = WeakKeyDictionary()


def search_on(index: Index, device: str | torch.device, k: int) -> Search:
    """What searches an index for k neighbors on "cpu", "cuda" or "cuda:N"; "auto" takes a GPU where there is one.

    The first search on a GPU moves the vectors there, where they stay as long as the index lives.

    Raises:
        ClzooError: the device is not usable, another kind, or too small for the vectors.
    """
    resolved = resolve_device(device)
    if resolved.type == "cpu":
        return index.faiss.search
    if resolved.type != "cuda":
        raise ClzooError(f"an index is searched on cpu or cuda, found {resolved}. Ask for cpu.")
    if resolved.index is None:
        resolved = torch.device("cuda", torch.cuda.current_device())
    known = _moved.setdefault(index, {})
    key = resolved, k <= _FAISS_MOST
    if key not in known:
        known[key] = on_gpu(index, resolved, k)
    return known[key]


def on_gpu(index: Index, device: torch.device, k: int) -> Search:
    """The index moved to a GPU by FAISS, or exact search there."""
    moved, reason = _moved_by_faiss(index, device) if k <= _FAISS_MOST else (None, f"it finds at most {_FAISS_MOST}")
    if moved is not None:
        log.info("search: FAISS %s on %s", index.description["factory"], device)
        return moved
    log.info("search: exact, in torch on %s (FAISS cannot: %s)", device, reason)
    return exact_search(index.store, device)


def exact_search(store: Store, device: torch.device) -> Search:
    """Exact search among the vectors of a store, which are held on a device in the store's type.

    Products are in float32 without TF32. Equal scores go to the lower id, also at the k-th place.

    Raises:
        ClzooError: there is no room for them.
    """
    order = np.argsort(store.ids)
    ids = store.ids[order]
    rank = torch.from_numpy(np.argsort(order)).to(device)  # of each row among the ids
    try:
        bank = torch.empty((len(store), store.dim), dtype=getattr(torch, store.manifest.dtype), device=device)
        for start in range(0, len(store), BATCH):
            rows = np.arange(start, min(start + BATCH, len(store)))
            bank[rank[start : start + BATCH]] = torch.from_numpy(store.raw_rows(rows)).to(device)
    except torch.OutOfMemoryError as error:
        size = len(store) * store.dim * np.dtype(store.manifest.dtype).itemsize / (1 << 30)
        raise ClzooError(f"{device} has no room for {size:.1f} GiB of vectors. Search with device cpu.") from error

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = nearest(bank, torch.from_numpy(queries), k, device=device)
        return scores.numpy(), ids[rows.numpy()]

    return search


def _moved_by_faiss(index: Index, device: torch.device) -> tuple[Search | None, str]:
    """FAISS's search on the GPU, or why there is none."""
    if isinstance(index.faiss, ExactSearch):
        return None, "there is no index"
    faiss: Any = import_faiss()
    if not hasattr(faiss, "StandardGpuResources"):
        return None, "it is built for CPUs; see clzoo doctor"
    try:
        resources = faiss.StandardGpuResources()
        moved = faiss.index_cpu_to_gpu(resources, device.index or 0, index.faiss)
    except RuntimeError as error:
        return None, str(error).rsplit(": ", 1)[-1]
    if not isinstance(inner_index(moved), faiss.GpuIndex):  # FAISS copies what it has no GPU code for, on the CPU
        return None, f"it has no {index.description['factory']} there"

    def search(queries: np.ndarray, k: int, _kept: Any = resources) -> tuple[np.ndarray, np.ndarray]:
        return moved.search(queries, k)

    return search, ""
