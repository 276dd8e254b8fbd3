"""`embed_folder` under torchrun: every process embeds a share, the first joins them; the store is that of one process.

The shares lie beside the store while the run is under way (`Share.folder`) and are deleted once they are joined. A run
that updates a store first gives each share the rows that the store has of it, so only new and changed images are
embedded. A kill leaves the store of before and unfinished shares, and the same command continues those.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from clzoo.embed.compact import known_errors
from clzoo.embed.manifest import MANIFEST, Segment
from clzoo.embed.merging import write_merged
from clzoo.embed.options import EmbedOptions
from clzoo.embed.pipeline import Summary, embed_share, local_out, report
from clzoo.embed.plan import check_removals
from clzoo.embed.shares import Share
from clzoo.embed.store import open_store
from clzoo.embed.writer import StoreWriter, VectorFile, check_folder, delete_store, make_folder, store_lock
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError

log = logging.getLogger("clzoo")

_PATIENCE = timedelta(days=30)  # that the first process to finish waits for the last
_CHUNK = 16 << 20  # bytes of vectors in memory at a time


def embed_with_processes(
    source: str | Path,
    encoder: Encoder | str | Path,
    out: str | Path | None,
    options: EmbedOptions,
    *,
    allow_removals: bool = False,
) -> Summary:
    """`embed_folder` in every process that torchrun started; they share a file system.

    A process group that the caller has opened already is left as it is.

    Args:
        allow_removals: as of `embed_folder`; counted over all shares.

    Returns:
        The summary of the whole, in every process.

    Raises:
        ClzooError: as `embed_folder`; torchrun then ends the other processes.
    """
    folder = local_out(out, source)
    check_folder(folder)
    options = replace(options, device=_own_device(options.device))
    with _process_group() as group, ExitStack() as stack:
        rank, total = dist.get_rank(), dist.get_world_size()
        first = rank == 0
        if not first:
            stack.enter_context(_quiet())  # the first process says it for all
            options = replace(options, progress=False)
        else:
            make_folder(folder)
            stack.enter_context(store_lock(folder))
            _say_what_is_left(folder, total)
        dist.barrier(group)
        share = Share(rank + 1, total)
        _give_rows(folder, share)

        def check(dropped: int, rows: int) -> None:
            counts = torch.tensor([dropped, rows])
            dist.all_reduce(counts, group=group)
            check_removals(folder, *counts.tolist(), allowed=allow_removals)

        part, _ = embed_share(source, encoder, folder, options, share=share, check=check)
        parts: list[Any] | None = [None] * total if first else None
        dist.gather_object(part, parts, group=group)  # also: waits until all are done
        whole: list[Summary | None] = [None]
        if parts is not None:
            merged = write_merged(folder, [open_store(summary.store) for summary in parts], allow_removals=True)
            for joined in parts:
                delete_store(joined.store)
            whole[0] = summary = _whole(parts, folder, merged.generation)
            report(summary, known_errors(merged))
        dist.broadcast_object_list(whole, group=group)  # where this comes, the store is whole
    assert whole[0] is not None
    return whole[0]


@contextmanager
def _process_group() -> Iterator[Any]:
    """A group of all processes; None: the one that is open now."""
    # Gloo on GPUs too: the processes exchange a few numbers, and wait.
    if dist.is_initialized():
        yield dist.new_group(backend="gloo", timeout=_PATIENCE)
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield None
    finally:
        dist.destroy_process_group()


@contextmanager
def _quiet() -> Iterator[None]:
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _own_device(device: str) -> str:
    """The GPU of this process's number on its machine, where GPUs are asked for."""
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)  # pinned memory belongs to the current device
    return device


def _say_what_is_left(folder: Path, total: int) -> None:
    for path in folder.parent.glob(f"{glob.escape(folder.name)}-shard-*"):
        match = re.search(r"-shard-\d+-of-(\d+)$", path.name)
        if match and int(match[1]) != total:
            log.warning("%s is of a run with another number of processes: not used, may be deleted", path)


def _give_rows(folder: Path, share: Share) -> None:
    """Begin a share's store with the rows that the whole store has of it; one that is there already is continued."""
    target = share.folder(folder)
    if not (folder / MANIFEST).is_file() or (target / MANIFEST).is_file():
        return
    whole = open_store(folder)
    if whole.manifest.shard is not None:
        raise ClzooError(f"{folder} holds share {Share(*whole.manifest.shard)} of its source. Give another --out.")
    check_folder(target)
    target.mkdir(exist_ok=True)
    mine = np.flatnonzero(whole.ids % share.total == share.number - 1)
    with store_lock(target):
        writer = StoreWriter(target, replace(whole.manifest, segments=(), shard=share), errors=None)
        segments: tuple[Segment, ...] = ()
        if len(mine):
            vectors = VectorFile(target, whole.dim, whole.manifest.dtype)
            step = max(1, _CHUNK // (whole.dim * np.dtype(whole.manifest.dtype).itemsize))
            for start in range(0, len(mine), step):
                vectors.append(whole.raw_rows(mine[start : start + step]))
            items = whole.items.take(pa.array(mine)).combine_chunks()
            items = items.set_column(0, "row", pa.array(np.arange(len(mine)), pa.int64()))
            segments = (writer.add_segment(vectors, items),)
        errors = [error for error in known_errors(whole) if share.owns(error.path)]
        writer.commit(segments, errors, complete=False)


def _whole(parts: list[Summary], folder: Path, generation: int) -> Summary:
    return replace(
        parts[0],  # `ignored` is of the whole source in each of them
        store=folder,
        generation=generation,
        rows=sum(part.rows for part in parts),
        embedded=sum(part.embedded for part in parts),
        unchanged=sum(part.unchanged for part in parts),
        dropped=sum(part.dropped for part in parts),
        kept=sum(part.kept for part in parts),
        failed=sum(part.failed for part in parts),
        seconds=max(part.seconds for part in parts),
        waiting=sum(part.waiting for part in parts) / len(parts),
    )
