"""All pairs of a large collection, through a FAISS index: what it misses is measured and stated."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from clzoo.curation.pairs import BLOCK, Pairs, check_count, pairs_above
from clzoo.index.choosing import has_faiss
from clzoo.index.files import import_faiss
from clzoo.progress import with_progress

log = logging.getLogger("clzoo")

EXACT = 200_000**2 // 2
"""Pairs up to which every one is computed: those of 200,000 rows."""

_GOOD = 0.99  # lists are looked at, twice as many each time, until this share of the sampled rows' pairs is found
_SAMPLED = 1000  # rows whose pairs are known exactly
_POINTS = 40  # rows a list that k-means sees
_ROUNDING = 2e-3  # of a cosine of vectors in half precision, at most


def all_pairs(vectors: np.ndarray, threshold: float, others: np.ndarray | None = None) -> tuple[Pairs, float | None]:
    """`pairs_above`, and above EXACT pairs through an inverted file in half precision.

    Memory: the vectors, and half as much again. Similarities are computed in float32 from the vectors themselves.

    Returns:
        the pairs, and which share of the pairs of 1,000 sampled rows was found; None where all were computed.

    Raises:
        ClzooError: too many are that similar.
    """
    bank = vectors if others is None else others
    count = len(vectors) * len(bank) // (2 if others is None else 1)
    if count <= EXACT:
        return pairs_above(vectors, threshold, others), None
    if not has_faiss():
        log.warning(
            "%.3g pairs are compared one by one: faiss is not installed, which takes a fraction of the time. "
            "Type: pip install faiss-cpu",
            count,
        )
        return pairs_above(vectors, threshold, others), None
    index = _inverted_file(bank)
    rows = np.sort(np.random.default_rng(0).choice(len(vectors), min(_SAMPLED, len(vectors)), replace=False))
    exact = pairs_above(vectors[rows], threshold, bank, what="sampling")
    known = set(zip(rows[exact.first].tolist(), exact.second.tolist(), strict=True))
    if others is None:
        known = {pair for pair in known if pair[0] != pair[1]}
    while True:
        first, second = _search(index, vectors, rows, threshold)
        recall = len(known & set(zip(first.tolist(), second.tolist(), strict=True))) / len(known) if known else 1.0
        if recall >= _GOOD or index.nprobe >= index.nlist:
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)
    log.info("%.3g pairs through an index: %d of %d lists, recall %.3f", count, index.nprobe, index.nlist, recall)
    return _searched(index, vectors, bank, threshold, is_one=others is None), recall


def _inverted_file(bank: np.ndarray) -> Any:
    """IVF with about four times the root of the rows as lists, SQfp16, inner product."""
    faiss = import_faiss()
    lists = max(1, round(4 * len(bank) ** 0.5))
    index = faiss.index_factory(bank.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    seen = min(len(bank), _POINTS * lists)
    index.train(bank[np.sort(np.random.default_rng(0).choice(len(bank), seen, replace=False))])
    starts = range(0, len(bank), BLOCK)
    for start in with_progress(iter(starts), len(starts), "indexing"):
        index.add(bank[start : start + BLOCK])
    index.nprobe = min(8, lists)
    return index


def _search(index: Any, vectors: np.ndarray, rows: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and what the index finds near them, with a margin for rounding."""
    limits, _, found = index.range_search(vectors[rows], threshold - _ROUNDING)
    return np.repeat(rows, np.diff(limits.astype(np.int64))), found.astype(np.int64)


def _searched(index: Any, vectors: np.ndarray, bank: np.ndarray, threshold: float, *, is_one: bool) -> Pairs:
    """The pairs of all rows that the index finds; of one collection each once."""
    parts = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    count = 0
    starts = range(0, len(vectors), BLOCK)
    for start in with_progress(iter(starts), len(starts), "comparing"):
        first, second = _search(index, vectors, np.arange(start, min(start + BLOCK, len(vectors))), threshold)
        if is_one:  # a pair may be found from one of its rows alone
            apart = first != second
            first, second = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
        cosines = np.concatenate(
            [
                np.einsum("pd,pd->p", vectors[first[at : at + BLOCK]], bank[second[at : at + BLOCK]])
                for at in range(0, len(first), BLOCK)
            ]
            or [np.empty(0, np.float32)]
        )
        near = cosines >= threshold
        parts.append(Pairs(first[near], second[near], np.minimum(cosines[near], 1).astype(np.float32)))
        count += len(parts[-1])
        check_count(count // (2 if is_one else 1), threshold)
    joined = Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in Pairs.__dataclass_fields__))
    if not is_one:
        return joined
    _, once = np.unique(joined.first * len(bank) + joined.second, return_index=True)
    return joined.where(once)
