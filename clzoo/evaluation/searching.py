"""The nearest of one block of a bank to some queries: exact in float32, or faster by way of bfloat16 and as exact.

**Keys.** Every similarity is joined with its row into one integer that orders by similarity and then by row. So ties,
also the one at the k-th place, go to the lower row on every device and in every division into blocks.

**Selection.** Where k columns are wanted, they lie in the k groups of 32 with the largest maxima, and there in the k
groups of 4 with the largest maxima; what is compared is a few thousand numbers and not the whole block.

**Screening.** CPUs that multiply bfloat16 do it at twice the speed of float32 or more. Products of rounded vectors
choose more candidates than are wanted, float32 judges these, and Cauchy-Schwarz bounds what the others can reach:

    q.b = q'.b' + q'.(b - b') + (q - q').b  <=  q'.b' + |q'| |b - b'| + |q - q'| |b|

Where the k-th candidate lies above that, it is certain that none was missed. The other queries, a few percent, are
searched in float32. Before rounding, the mean of the block is taken from its rows: it adds the same to all
similarities of a query, and without it features of one half-space have errors as large as their differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

WIDTHS = (32, 4, 1)  # of the groups in which the best columns are looked for, coarse to fine
UNIT = WIDTHS[0]  # blocks and tiles are multiples of it

_LOW = 0xFFFFFFFF  # the half of a key that holds the row
_GATHERED_BYTES = 1 << 20  # of candidates that are judged at a time: they stay in a core's cache
_ROUNDING = 2.0**-8  # relative, of a number to bfloat16


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of a bank.

    Attributes:
        rows: float32 (n, D) of length one, n a multiple of 32; the last ones may be padding.
        real: how many are not padding.
        rounded: for screening, bfloat16 (n, D), the rows without their mean.
        mean: (D,)
        length: the largest length of a row without the mean.
        error: the largest length of what rounding took from a row.
    """

    rows: torch.Tensor
    real: int
    rounded: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    length: float = 0.0
    error: float = 0.0


def screened_block(rows: torch.Tensor, real: int, memory: torch.Tensor) -> Block:
    """`rows` (n, D) with what screening needs, rounded into the start of `memory` (bfloat16)."""
    mean = rows[:real].mean(dim=0)
    rounded = memory[: len(rows)]
    length = error = 0.0
    for part, to in zip(rows.split(1024), rounded.split(1024), strict=True):
        centered = part - mean
        to.copy_(centered)
        length = max(length, centered.norm(dim=1).max().item())
        error = max(error, (centered - to).norm(dim=1).max().item())
    return Block(rows, real, rounded, mean, length, error)


def candidates(k: int) -> int:
    """How many of a block are judged in float32 where k are wanted: enough for nearly all queries to be certain."""
    return k + max(32, k // 4)


def search_block(queries: torch.Tensor, block: Block, k: int, selected: int, memory: torch.Tensor) -> torch.Tensor:
    """Keys (t, min(k, n)) of the rows of `block` nearest to `queries` (t, D), in no order; rows count from the block's
    first.

    Args:
        selected: queries whose candidates are compared at a time.
        memory: float32, of at least t n numbers, overwritten.
    """
    if block.rounded is None or block.mean is None:
        return _exact_keys(queries, block, k, selected, memory)
    rounded_queries = queries.bfloat16()
    coarse = memory.view(torch.bfloat16)[: len(queries) * len(block.rows)].view(len(queries), -1)  # (t, n)
    torch.mm(rounded_queries, block.rounded.T, out=coarse)
    coarse[:, block.real :] = -torch.inf
    values = torch.empty(selected, len(block.rows))
    found = []
    for part in coarse.split(selected):
        found.append(best_keys(values[: len(part)].copy_(part), candidates(k)))
    chosen = torch.cat(found)  # (t, candidates)
    lowest = similarity_of(chosen.amin(dim=1))  # (t,)
    keys = best(_judged_keys(queries, block, row_of(chosen)), k)
    error = rounded_queries.float().norm(dim=1) * block.error + (queries - rounded_queries).norm(dim=1) * block.length
    rounding = _ROUNDING * lowest.abs() + 2.0**-23 * queries.shape[1]  # of the product, and within it
    reach = lowest + queries @ block.mean + error + rounding  # (t,)
    doubtful = (similarity_of(keys.amin(dim=1)) <= reach).nonzero()[:, 0]
    if len(doubtful):
        again = queries.new_zeros(-(-len(doubtful) // UNIT) * UNIT, queries.shape[1])
        again[: len(doubtful)] = queries[doubtful]
        exact = _exact_keys(again, block, k, selected, memory)[: len(doubtful)]
        keys[doubtful] = _judged_keys(queries[doubtful], block, row_of(exact))
    return keys


def _exact_keys(queries: torch.Tensor, block: Block, k: int, selected: int, memory: torch.Tensor) -> torch.Tensor:
    similarity = memory[: len(queries) * len(block.rows)].view(len(queries), -1)  # (t, n)
    torch.mm(queries, block.rows.T, out=similarity)
    similarity[:, block.real :] = -torch.inf
    return torch.cat([best_keys(part, k) for part in similarity.split(selected)])


def _judged_keys(queries: torch.Tensor, block: Block, rows: torch.Tensor) -> torch.Tensor:
    """Keys (t, m) of these rows (t, m) of the block, each product summed alike."""
    similarity = queries.new_empty(rows.shape)
    at_a_time = max(1, _GATHERED_BYTES // (4 * rows.shape[1] * queries.shape[1]))
    memory = queries.new_empty(at_a_time * rows.shape[1], queries.shape[1])
    for query, row, to in zip(
        queries.split(at_a_time), rows.split(at_a_time), similarity.split(at_a_time), strict=True
    ):
        gathered = torch.index_select(block.rows, 0, row.reshape(-1), out=memory[: row.numel()])
        torch.sum(gathered.view(*row.shape, -1).mul_(query[:, None]), dim=2, out=to)
    return _keys(similarity, rows)


def best_keys(similarity: torch.Tensor, k: int) -> torch.Tensor:
    """Keys (t, min(k, n)) of the k best columns of similarities (t, n), in no order; n is a multiple of 32.

    The k best columns lie in the k groups of columns with the best maxima, of equal maxima those further left: whoever
    is in another group is beaten by k maxima.
    """
    tile, columns = similarity.shape
    first_of_row = torch.arange(0, tile * columns, columns, device=similarity.device)[:, None]  # (t, 1)
    groups = torch.arange(0, columns, WIDTHS[0], device=similarity.device)  # the first column of each
    values = similarity.view(tile, -1, WIDTHS[0]).amax(dim=2)  # (t, n / 32)
    keys = best(_keys(values, groups), k)
    for width, narrower in pairwise(WIDTHS):
        groups = row_of(keys)  # (t, k)
        inside = torch.arange(0, width, narrower, device=similarity.device)
        chosen = similarity.view(-1, width).index_select(0, ((first_of_row + groups) // width).view(-1))
        values = chosen.view(tile, -1, narrower).amax(dim=2)  # (t, k width / narrower)
        keys = best(_keys(values, (groups[:, :, None] + inside).view(tile, -1)), k)
    return keys


def best(keys: torch.Tensor, k: int) -> torch.Tensor:
    return keys if keys.shape[1] <= k else keys.topk(k, dim=1, sorted=False).values


def _keys(similarity: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Integers that are larger for the larger similarity and, where it is the same, for the lower row.

    The upper half are the bits of the float32, of which the negative ones are turned round; the lower half is the row.
    """
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    return (_turned(bits).long() << 32) | (_LOW - rows)


def similarity_of(keys: torch.Tensor) -> torch.Tensor:
    return _turned((keys >> 32).int()).view(torch.float32)


def row_of(keys: torch.Tensor) -> torch.Tensor:
    return _LOW - (keys & _LOW)


def _turned(bits: torch.Tensor) -> torch.Tensor:
    """Between the bits of float32 and integers of the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
