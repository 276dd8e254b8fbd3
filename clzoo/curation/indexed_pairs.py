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

_GOOD = 0.99  # so many lists are looked at that this share of the sampled rows' pairs is found
_FEWEST = 8  # lists, where the sampled rows have no pairs
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
    known = _known(vectors, rows, threshold, others)
    index.nprobe = _lists_to_look_at(index, vectors, bank, known, is_one=others is None)
    found = _searched(index, vectors, bank, threshold, is_one=others is None)
    recall = float(np.isin(_numbers(known, bank), _numbers(found, bank)).mean()) if len(known) else 1.0
    log.info("%.3g pairs through an index: %d of %d lists, recall %.3f", count, index.nprobe, index.nlist, recall)
    return found, recall


def _known(vectors: np.ndarray, rows: np.ndarray, threshold: float, others: np.ndarray | None) -> Pairs:
    """Every pair of the sampled rows, as `pairs_above` gives them."""
    exact = pairs_above(vectors[rows], threshold, vectors if others is None else others, what="sampling")
    exact = Pairs(rows[exact.first], exact.second, exact.similarity)
    if others is not None:
        return exact
    low, high = np.minimum(exact.first, exact.second), np.maximum(exact.first, exact.second)
    return _once(Pairs(low, high, exact.similarity).where(low < high), vectors)  # no row with itself


def _once(pairs: Pairs, bank: np.ndarray) -> Pairs:
    """Each pair one time, in order."""
    return pairs.where(np.unique(_numbers(pairs, bank), return_index=True)[1])


def _numbers(pairs: Pairs, bank: np.ndarray) -> np.ndarray:
    """int64 (P,), another for every pair of rows."""
    return pairs.first * len(bank) + pairs.second


def _lists_to_look_at(index: Any, vectors: np.ndarray, bank: np.ndarray, known: Pairs, *, is_one: bool) -> int:
    """Lists a row has to look at, so that _GOOD of the known pairs are found; of one collection from either row."""
    centroids = index.quantizer.reconstruct_n(0, index.nlist)  # (L, D)
    needed = [np.full(1, _FEWEST)]
    for start in range(0, len(known), BLOCK):
        first, second = vectors[known.first[start : start + BLOCK]], bank[known.second[start : start + BLOCK]]
        lists = _ranks(first, second, centroids)
        needed.append(np.minimum(lists, _ranks(second, first, centroids)) if is_one else lists)
    return min(int(np.quantile(np.concatenate(needed), _GOOD, method="higher").clip(_FEWEST)), index.nlist)


def _ranks(rows: np.ndarray, partners: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """How many lists each row (P, D) has to look at, until it comes to that of its partner (P, D)."""
    home = (partners @ centroids.T).argmax(axis=1)  # (P,), the list that holds the partner
    similarity = rows @ centroids.T  # (P, L)
    return (similarity >= np.take_along_axis(similarity, home[:, None], axis=1)).sum(axis=1)


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
    return _once(joined, bank) if is_one else joined
