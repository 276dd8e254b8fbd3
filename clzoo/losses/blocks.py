"""Row by row within a memory budget: the same value and gradient, never more than a block of the similarity matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

MEMORY_BUDGET = 512 << 20
"""Bytes that one block of rows may take in one (rows, columns) matrix; autograd holds a few of them at a time."""


def in_row_blocks(
    function: Callable[..., torch.Tensor], *rows: torch.Tensor, columns: int, budget: int | None = None
) -> torch.Tensor:
    """`function(*rows)`, computed on blocks of rows when the matrix of all rows would exceed the budget.

    Each block is recomputed in the backward pass instead of kept (torch.utils.checkpoint), so memory stays near the
    budget whatever the number of rows.

    Args:
        function: maps tensors with leading dimension b to one value per row, (b,).
        rows: tensors with leading dimension N; all else that `function` needs it takes from its closure.
        columns: width of the matrix that `function` builds.

    Returns:
        (N,) values.
    """
    count = len(rows[0])
    block = max(1, (MEMORY_BUDGET if budget is None else budget) // (rows[0].element_size() * columns))
    if block >= count:
        return function(*rows)
    parts = zip(*(tensor.split(block) for tensor in rows), strict=True)
    return torch.cat([checkpoint(function, *part, use_reentrant=False) for part in parts])
