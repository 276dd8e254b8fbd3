"""`--engine ray`: the images are decoded and embedded by the workers of a Ray cluster; this process writes the store.

It takes the place of `clzoo.embed.stream.encode_items`, and so everything else of a run stays as it is: what to do is
planned here, rows arrive in path order, and one process saves them. A worker that is killed is started anew by Ray and
its batch computed again; a kill of this process leaves what was saved, and the same command continues.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clzoo.data.listing import Failure, Item
from clzoo.data.parquet import ParquetItem
from clzoo.data.remote import RemoteItem
from clzoo.data.storage import is_remote
from clzoo.data.zips import ZipItem
from clzoo.embed.manifest import STORE_DTYPES
from clzoo.embed.stream import Clock, Encoded, Settings, encode_items
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.files import parse_json
from clzoo.images import max_pixels, set_max_pixels

_GPU_BATCH = 256
_BATCHES_PER_BLOCK = 4  # forward passes that a worker makes for one hand-over
_ITEM = pa.schema(
    [
        ("position", pa.int64()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("kind", pa.string()),
        ("how", pa.string()),  # JSON
    ]
)


_KINDS: dict[str, type[Item]] = {kind.__name__: kind for kind in (Item, RemoteItem, ZipItem, ParquetItem)}


class _Share(NamedTuple):
    """How the cluster is used."""

    workers: int  # processes
    cpus: float  # of each
    gpus: float


class Embedder:
    """Lives in a worker process: the encoder, loaded once, and `encode_items` on what it is given."""

    def __init__(
        self, load: str, size: int, weights_sha256: str, settings: Settings, device: str, max_pixels: int
    ) -> None:
        from clzoo.loading import load as load_encoder

        set_max_pixels(max_pixels)

        self._encoder = load_encoder(load, device=device, size=size)
        if self._encoder.weights_sha256 != weights_sha256:
            raise ClzooError(f"{load} has other weights on {platform.node()} than where the run was started.")
        self._settings = settings

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of `_ITEM` -> "position", "vector" (n, dim) in the store's type, "reason" ("" where there is one)."""
        items = [_item(*row) for row in zip(*(block[name] for name in _ITEM.names[1:]), strict=True)]
        vectors = np.zeros((len(items), self._encoder.dim), STORE_DTYPES[self._settings.store_dtype])
        reasons = np.full(len(items), "", dtype=object)
        slots = {item.path: slot for slot, item in enumerate(items)}
        for encoded in encode_items(items, np.arange(len(items)), self._encoder, self._settings, Clock()):
            vectors[encoded.positions] = encoded.vectors
            for failure in encoded.failures:
                reasons[slots[failure.path]] = failure.reason
        return {"position": block["position"], "vector": vectors, "reason": reasons}


def encode_on_ray(
    items: Sequence[Item],
    positions: np.ndarray,
    encoder: Encoder,
    load: str,
    settings: Settings,
    device: str,
    batch_size: int | None,
) -> Generator[Encoded, None, None]:
    """As `encode_items`, on a Ray cluster: the one of RAY_ADDRESS, else a local one. Every worker loads the model.

    The workers have to see the images under the same paths, and the model under the same name.

    Args:
        load: what `clzoo.load` takes to get the encoder again.
        batch_size: as the user gave it; None: that of the settings, or 256 for workers on GPUs.
        device: "auto" and "cuda" give each GPU of the cluster a worker, "cpu" each core.

    Raises:
        ClzooError: ray is not installed; a worker cannot load the model or fails for another reason.
    """
    if len(positions) == 0:
        return
    ray = _import_ray()
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        share = _share(ray.cluster_resources(), device)
        size = batch_size or (_GPU_BATCH if share.gpus else settings.batch_size)
        settings = replace(settings, batch_size=size, workers=max(1, int(share.cpus)))
        yield from _encoded(ray, items, positions, encoder, load, settings, share)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise ClzooError(f"a Ray worker failed: {lines[-1] if lines else type(error).__name__}") from error
    finally:
        if started_here:
            ray.shutdown()


def _encoded(
    ray: Any,
    items: Sequence[Item],
    positions: np.ndarray,
    encoder: Encoder,
    load: str,
    settings: Settings,
    share: _Share,
) -> Iterator[Encoded]:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # a segment is in path order
    context.enable_progress_bars = False
    rows = min(settings.batch_size * _BATCHES_PER_BLOCK, math.ceil(len(positions) / share.workers))
    blocks = [_table(items, positions[start : start + rows]) for start in range(0, len(positions), rows)]
    results = ray.data.from_arrow(blocks).map_batches(
        Embedder,
        fn_constructor_args=(
            load,
            encoder.config.preprocessing.size,
            encoder.weights_sha256,
            settings,
            "cuda" if share.gpus else "cpu",
            max_pixels(),
        ),
        batch_size=None,  # a whole block
        compute=ray.data.ActorPoolStrategy(size=share.workers),
        num_cpus=share.cpus,
        num_gpus=share.gpus,
    )
    for block in results.iter_batches(batch_size=None, prefetch_batches=1):
        good = np.array([reason == "" for reason in block["reason"]], bool)
        failures = []
        for position, reason in zip(block["position"][~good], block["reason"][~good], strict=True):
            item = items[position]
            failures.append(Failure(item.path, item.size, item.mtime_ns, str(reason)))
        yield Encoded(block["position"][good], np.asarray(block["vector"])[good], failures)


def _share(resources: dict[str, float], device: str) -> _Share:
    """A worker for each GPU, else for each core.

    Raises:
        ClzooError: GPUs are asked for and the cluster has none, or another device.
    """
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if device not in ("auto", "cpu", "cuda"):
        raise ClzooError(f"device {device!r} cannot be asked of a Ray cluster; expected auto, cpu or cuda.")
    if device == "cuda" and gpus == 0:
        raise ClzooError(f"device 'cuda' was asked for, but the Ray cluster has {cpus} CPUs and no GPU.")
    if device != "cpu" and gpus:
        return _Share(gpus, max(1, cpus // gpus), 1)
    return _Share(max(1, cpus), 1, 0)


def _table(items: Sequence[Item], positions: np.ndarray) -> pa.Table:
    rows = [items[position] for position in positions]
    if odd := next((item for item in rows if type(item).__name__ not in _KINDS), None):
        raise ClzooError(f"{odd.file} holds arrays, which the workers of a Ray cluster do not read: --engine local")
    # A worker has another current folder.
    files = [item.file if is_remote(item.file) else os.path.abspath(item.file) for item in rows]  # noqa: PTH100
    columns = [
        positions,
        [item.path for item in rows],
        [item.size for item in rows],
        [item.mtime_ns for item in rows],
        files,
        [-1 if item.offset is None else item.offset for item in rows],  # a null would make floats of the column
        [type(item).__name__ for item in rows],
        [json.dumps(item.how) for item in rows],
    ]
    return pa.table(dict(zip(_ITEM.names, columns, strict=True)), schema=_ITEM)


def _item(path: str, size: int, mtime_ns: int, file: str, offset: int, kind: str, how: str) -> Item:
    place = None if offset < 0 else int(offset)
    return _KINDS[kind](str(path), int(size), int(mtime_ns), str(file), place, tuple(parse_json(how, path, "")))


def _import_ray() -> Any:
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise ClzooError(f'ray cannot be imported ({error}). Type: pip install "clzoo[ray]"') from error
    return ray
