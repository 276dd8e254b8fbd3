"""The exact nearest neighbors by cosine similarity, in plain torch, within a memory budget.

One matrix product gives the similarities of a tile of queries to a block of the bank. Where k are wanted, they lie in
the k groups of 32 rows with the largest maxima, and there in the k groups of 4 with the largest maxima; so what is
compared is a few thousand numbers and not the block. Every similarity is joined with its row into one integer that
orders by similarity and then by row: ties, also the one at the k-th place, go to the lower row on every device and in
every division into blocks, and the best of two blocks together are the best of their best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from queue import SimpleQueue

import numpy as np
import torch

from clzoo.errors import ClzooError

MEMORY_BUDGET = 1 << 30
"""Bytes that `nearest` allocates at most, beside its result."""

_WIDTHS = (32, 4, 1)  # of the groups in which the nearest are looked for, coarse to fine
_UNIT = _WIDTHS[0]  # blocks and tiles are multiples of it
_TILE = 512  # queries of one product: with fewer, a CPU spends its time on rearranging the bank for the product
_BLOCK = 65_536  # bank rows of one product
_SMALL_BLOCK = 8192  # where the budget does not allow a block as large for every core, fewer cores work
_CACHED_ROWS = 32  # queries whose groups are compared at a time on the CPU, so that the candidates stay in its cache
_LOW = 0xFFFFFFFF  # the half of a key that holds the row


def nearest(
    bank: torch.Tensor,
    queries: torch.Tensor,
    k: int,
    *,
    budget: int = MEMORY_BUDGET,
    device: torch.device | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of `bank` (N, D) nearest to each of `queries` (Q, D) by cosine similarity, exact.

    Features are L2-normalised here, block by block; a zero vector has similarity 0 to everything. Similarities are
    float32 sums; equal ones are in the order of their rows, and equal rows of the bank have equal similarities.

    Args:
        bank: of any float type, on any device; may be mapped from disk, as it is read in blocks of rows, once for all
            queries whose features are a quarter of the budget.
        budget: bytes to allocate beside the result, on the CPU and on `device` together; see `plan_blocks`.
        device: where to compute; default where the queries are.

    Returns:
        similarity (Q, k) descending, and rows (Q, k) int64, both where the queries are.

    Raises:
        ClzooError: k larger than the bank or below 1, features of different dimensions or that are not finite.
    """
    _check(bank, queries, k)
    device = queries.device if device is None else torch.device(device)
    blocks = plan_blocks(len(bank), len(queries), bank.shape[1], k, budget=budget, device=device)
    # Worker threads do not inherit the caller's modes, and what is made in inference mode cannot be changed outside it.
    with torch.inference_mode(False), torch.no_grad(), _float32_products(), _runner(blocks.workers) as run:
        similarity = torch.empty(len(queries), k, device=queries.device)
        rows = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
        for first in range(0, len(queries), blocks.queries):
            part = slice(first, first + blocks.queries)
            keys = _nearest_keys(bank, queries[part], k, blocks, device, run)
            parts = (keys.split(blocks.tile), similarity[part].split(blocks.tile), rows[part].split(blocks.tile))
            for found, to_similarity, to_rows in zip(*parts, strict=True):
                best = found.sort(dim=1, descending=True).values
                to_similarity[:], to_rows[:] = _similarity_of(best), _row_of(best)
    return similarity, rows


def nearest_others(vectors: np.ndarray, k: int) -> np.ndarray:
    """Rows, int64 (N, k), of the k other vectors nearest to each of `vectors` (N, D): `nearest`, without itself.

    Raises:
        ClzooError: as `nearest`, of k + 1.
    """
    bank = torch.from_numpy(np.asarray(vectors))
    rows = nearest(bank, bank, k + 1)[1].numpy()  # (N, k + 1)
    is_self = rows == np.arange(len(rows))[:, None]
    is_self[~is_self.any(axis=1), -1] = True  # of more equal vectors than k the last goes
    return rows[~is_self].reshape(len(rows), k)


def of_own_group(groups: Sequence[str], neighbors: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Bool (N, k): which neighbors, rows (N, k), are of the group (N) of the row whose neighbors they are."""
    own = np.asarray(groups)
    return np.asarray(own[np.asarray(neighbors)] == own[:, None])


def precision(groups: Sequence[str], neighbors: Sequence[Sequence[int]] | np.ndarray) -> float:
    """Which share, 0 to 1, of all neighbors (N, k) is `of_own_group`."""
    return float(of_own_group(groups, neighbors).mean())


@dataclass(frozen=True)
class Blocks:
    """How `nearest` divides its work.

    Attributes:
        queries: rows of queries that are held normalised, with their k best so far, while the bank passes once.
        bank: rows of the bank that are held normalised.
        tile: queries that are multiplied with a block of the bank at a time.
        selected: queries of a tile whose candidates are compared at a time.
        workers: threads, each with a tile.
        bytes: what all of this allocates together; above the budget only where a block of 32 rows is.
    """

    queries: int
    bank: int
    tile: int
    selected: int
    workers: int
    bytes: int


def plan_blocks(
    bank: int, queries: int, dim: int, k: int, *, budget: int = MEMORY_BUDGET, device: torch.device | None = None
) -> Blocks:
    """Block sizes for `bank` x `queries` features of `dim` dimensions within `budget` bytes; allocates nothing.

    A quarter each for queries and bank, half for similarities. On the CPU a tile per thread of torch is in work.
    """
    on_cpu = device is None or device.type == "cpu"
    quarter = budget // 4
    query_bytes = 4 * dim + 8 * k
    query_rows = _within(quarter // query_bytes, _units(queries))
    bank_rows = _within(quarter // (4 * dim), min(_units(bank), _BLOCK))

    def smallest(bank_rows: int) -> int:
        """Bytes of a worker with the smallest tile."""
        return _UNIT * (4 * bank_rows + _candidate_bytes(bank_rows, k))

    workers = min(torch.get_num_threads(), query_rows // _UNIT) if on_cpu else 1
    workers = max(1, min(workers, 2 * quarter // smallest(min(bank_rows, _SMALL_BLOCK))))
    half = 2 * quarter // workers
    while bank_rows > _UNIT and smallest(bank_rows) > half:
        bank_rows = _within(bank_rows // 2, bank_rows)
    widest = min(_TILE, _units(-(-query_rows // workers)))
    if on_cpu:
        tile = _within((half - _CACHED_ROWS * _candidate_bytes(bank_rows, k)) // (4 * bank_rows), widest)
        selected = min(_CACHED_ROWS, tile)
    else:
        tile = selected = _within(half // (4 * bank_rows + _candidate_bytes(bank_rows, k)), widest)
    total = query_rows * query_bytes + 4 * bank_rows * dim
    total += workers * (4 * tile * bank_rows + selected * _candidate_bytes(bank_rows, k))
    return Blocks(query_rows, bank_rows, tile, selected, workers, total)


def _within(rows: int, most: int) -> int:
    """Rows rounded down to whole units, at least one and at most `most`."""
    return min(max(rows // _UNIT, 1) * _UNIT, max(most, _UNIT))


def _units(rows: int) -> int:
    """Rows rounded up to whole units."""
    return -(-rows // _UNIT) * _UNIT


def _candidate_bytes(columns: int, k: int) -> int:
    """What `_best_keys` and the merge allocate for one query, counted generously."""
    compared, groups = 0, columns // _WIDTHS[0]
    for width, narrower in zip(_WIDTHS, (*_WIDTHS[1:], 1), strict=True):
        compared = max(compared, groups)
        groups = min(k, groups) * (width // narrower)
    gathered = 4 * _WIDTHS[0] * min(k, columns // _WIDTHS[0])
    return 48 * compared + gathered + 64 * k


def _check(bank: torch.Tensor, queries: torch.Tensor, k: int) -> None:
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise ClzooError(
            f"k-NN compares features of the same dimension: expected bank (N, D) and queries (Q, D), found "
            f"{tuple(bank.shape)} and {tuple(queries.shape)}. Take both from the same model."
        )
    if k < 1:
        raise ClzooError(f"k-NN needs k of at least 1, found k={k}.")
    if k > len(bank):
        raise ClzooError(
            f"k-NN with k={k} needs at least {k} bank images, found {len(bank)}. Ask for a smaller k or add images."
        )


def _nearest_keys(
    bank: torch.Tensor, queries: torch.Tensor, k: int, blocks: Blocks, device: torch.device, run: Runner
) -> torch.Tensor:
    """Keys (Q, k) of the nearest, in no order."""
    unit_queries = _unit_rows(queries, torch.empty(_units(len(queries)), queries.shape[1], device=device))
    keys = torch.empty(len(unit_queries), k, dtype=torch.int64, device=device)
    block = torch.empty(blocks.bank, bank.shape[1], device=device)
    spare: SimpleQueue[torch.Tensor] = SimpleQueue()  # memory of similarities: fresh memory costs as much as the search
    for _ in range(blocks.workers):
        spare.put(torch.empty(blocks.tile * blocks.bank, device=device))
    for start in range(0, len(bank), blocks.bank):
        rows = bank[start : start + blocks.bank]
        unit_rows = _unit_rows(rows, block)
        tiles = zip(unit_queries.split(blocks.tile), keys.split(blocks.tile), strict=True)
        run(
            partial(_search_block, *tile, unit_rows, start=start, rows=len(rows), selected=blocks.selected, spare=spare)
            for tile in tiles
        )
    return keys[: len(queries)]


def _unit_rows(rows: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Rows (n, D) of length one at the start of `memory`, and zeros after them up to a multiple of 32 rows.

    Products of few rows take other ways through a BLAS, in which equal rows may get unequal sums.
    """
    unit = memory[: _units(len(rows))]
    unit[len(rows) :] = 0
    real = unit[: len(rows)]
    real.copy_(rows)
    lengths = torch.linalg.vector_norm(real, dim=1, keepdim=True)  # (n, 1)
    if not torch.isfinite(lengths).all():
        raise ClzooError(
            "k-NN was given features that are not finite (NaN or infinity, or too long for float32): the encoder is "
            "broken. Type: clzoo verify NAME"
        )
    real.div_(lengths.clamp_min_(1e-12))
    return unit


def _search_block(
    queries: torch.Tensor,
    keys: torch.Tensor,
    block: torch.Tensor,
    *,
    start: int,
    rows: int,
    selected: int,
    spare: SimpleQueue[torch.Tensor],
) -> None:
    """Merge the nearest of `block` (n, D), which are rows start, start + 1, ... of the bank, into `keys` (t, k).

    Of the keys min(k, start) columns are filled before. Of the block the first `rows` count.
    """
    k = keys.shape[1]
    known, width = min(k, start), min(k, start + len(block))
    memory = spare.get()
    similarity = memory[: len(queries) * len(block)].view(len(queries), len(block))  # (t, n)
    torch.mm(queries, block.T, out=similarity)
    similarity[:, rows:] = -torch.inf
    for part, kept in zip(similarity.split(selected), keys.split(selected), strict=True):
        found = _best_keys(part, k) - start  # a key falls by one from row to row
        kept[:, :width] = _best(torch.cat([kept[:, :known], found], dim=1), k)
    spare.put(memory)


def _best_keys(similarity: torch.Tensor, k: int) -> torch.Tensor:
    """Keys (t, min(k, n)) of the k best columns of similarities (t, n), in no order.

    The k best columns lie in the k groups of columns with the best maxima, of equal maxima those further left: whoever
    is in another group is beaten by k maxima.
    """
    tile, columns = similarity.shape
    first_of_row = torch.arange(0, tile * columns, columns, device=similarity.device)[:, None]  # (t, 1)
    groups = torch.arange(0, columns, _WIDTHS[0], device=similarity.device)  # the first column of each
    values = similarity.view(tile, -1, _WIDTHS[0]).amax(dim=2)  # (t, n / 32)
    keys = _best(_keys(values, groups), k)
    for width, narrower in pairwise(_WIDTHS):
        groups = _row_of(keys)  # (t, k)
        inside = torch.arange(0, width, narrower, device=similarity.device)
        chosen = similarity.view(-1, width).index_select(0, ((first_of_row + groups) // width).view(-1))
        values = chosen.view(tile, -1, narrower).amax(dim=2)  # (t, k width / narrower)
        keys = _best(_keys(values, (groups[:, :, None] + inside).view(tile, -1)), k)
    return keys


def _best(keys: torch.Tensor, k: int) -> torch.Tensor:
    return keys if keys.shape[1] <= k else keys.topk(k, dim=1, sorted=False).values


def _keys(similarity: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Integers that are larger for the larger similarity and, where it is the same, for the lower row.

    The upper half are the bits of the float32, of which the negative ones are turned round; the lower half is the row.
    """
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    return (_turned(bits).long() << 32) | (_LOW - rows)


def _similarity_of(keys: torch.Tensor) -> torch.Tensor:
    return _turned((keys >> 32).int()).view(torch.float32)


def _row_of(keys: torch.Tensor) -> torch.Tensor:
    return _LOW - (keys & _LOW)


def _turned(bits: torch.Tensor) -> torch.Tensor:
    """Between the bits of float32 and integers of the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


Runner = Callable[[Iterable[Callable[[], None]]], None]


@contextmanager
def _runner(workers: int) -> Iterator[Runner]:
    """What runs jobs, each on one core where there are several workers: threads that share a product wait a lot."""

    def in_turn(jobs: Iterable[Callable[[], None]]) -> None:
        for job in jobs:
            job()

    def side_by_side(jobs: Iterable[Callable[[], None]]) -> None:
        for done in [pool.submit(job) for job in jobs]:
            done.result()

    if workers == 1:
        yield in_turn
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, "clzoo-knn", torch.set_num_threads, (1,)) as pool:
            yield side_by_side
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _float32_products() -> Iterator[None]:
    """Products of float32 matrices in float32, whatever the process has set: TF32 and bf16 keep 3 digits."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch 2.9 and later
        settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
        before = [setting.fp32_precision for setting in settings]
        try:
            for setting in settings:
                setting.fp32_precision = "ieee"
            yield
        finally:
            for setting, precision in zip(settings, before, strict=True):
                setting.fp32_precision = precision
    else:
        precision = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
