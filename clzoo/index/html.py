"""Search results as one self-contained HTML page: thumbnails inside that link to their files, no script."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from clzoo.data.listing import shard_of
from clzoo.data.storage import is_remote
from clzoo.embed.store import Store
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.files import output_path
from clzoo.images import decode_image
from clzoo.index.building import Index
from clzoo.index.searching import Hit, own_rows
from clzoo.page import data_uri, stream

log = logging.getLogger("clzoo")

_SIDE = 224  # pixels of a thumbnail's longer side: sharp at the page's size on common screens
_QUALITY = 84  # of its JPEG
_CACHED = 2048  # thumbnails kept: the same neighbor often serves several queries
_SAMPLE = 1000  # rows whose pairs tell the similarity of any two images


@dataclass(frozen=True)
class _Neighbor:
    hit: Hit
    name: str
    link: str | None
    share: float  # percent of the bar
    kind: str  # "same" or "other" label; "" where a label is missing


@dataclass(frozen=True)
class _Answer:
    query: Path
    row: int | None  # in the store, of the query itself
    name: str
    link: str | None
    label: str | None
    own: list[_Neighbor]  # the query's own hit, where it was found
    neighbors: list[_Neighbor]

    @property
    def counted(self) -> int:
        return sum(neighbor.kind in ("same", "other") for neighbor in self.neighbors)

    @property
    def same(self) -> int:
        return sum(neighbor.kind == "same" for neighbor in self.neighbors)


@dataclass(frozen=True)
class _Picture:
    uri: str = ""
    reason: str = ""


def write_page(
    path: str | Path,
    index: Index,
    queries: Sequence[Path],
    results: Sequence[Sequence[Hit]],
    *,
    title: str = "Nearest images",
) -> Path:
    """Write the neighbors of each query as one HTML page, atomically.

    A picture that can no longer be read keeps its place, with the reason in it, and is logged as a warning. A bar is
    the similarity between the collection's median (of any two images) and 1. A query's own hit stands apart and does
    not count. The label of a query is its label in the store, or else the name of its folder where the store has a
    label of that name.

    Args:
        path: the file to write.
        index: what was searched: names the model, and gives the neighbors' images.
        queries: the query images, Q paths.
        results: what `search` returned for them, Q lists.
        title: the page's heading.

    Returns:
        The path.
    """
    if len(queries) != len(results):
        raise ClzooError(f"{len(queries)} queries and {len(results)} results: one list of hits per query is expected.")
    path = Path(path)
    with (
        output_path(path) as temporary,
        # A file name that is not valid Unicode is shown with its bytes spelt out.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(_page(index, queries, results, title))
    return path


def median_similarity(store: Store) -> float:
    """Median cosine of two different images of a store, over all pairs of up to 1,000 rows, evenly spaced.

    0 where there are no two rows.
    """
    rows = np.unique(np.linspace(0, len(store) - 1, min(len(store), _SAMPLE)).round().astype(np.int64))
    if len(rows) < 2:
        return 0.0
    vectors = store.raw_rows(rows).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return float(np.median((vectors @ vectors.T)[np.triu_indices(len(rows), k=1)]))


def _page(index: Index, queries: Sequence[Path], results: Sequence[Sequence[Hit]], title: str) -> Iterator[str]:
    store = index.store
    median = median_similarity(store)
    answers = _answers(store, queries, results, median)
    recall = index.description["recall_at_10"]
    counted = sum(answer.counted for answer in answers)
    facts = [
        *([f"{sum(answer.same for answer in answers)} of {counted} same label"] if counted else []),
        f"{len(queries)} {'query' if len(queries) == 1 else 'queries'}",
        f"{len(index):,} images",
        index.description["model"],
        f"cosine similarity, bars from the median of the collection ({median:.2f}) to 1",
        f"{index.description['factory']} index" + ("" if recall is None else f", recall@10 {recall:.3f}"),
    ]

    @lru_cache(maxsize=_CACHED)
    def stored_picture(row: int) -> _Picture:
        try:
            return _Picture(_thumbnail(store.image_bytes(row)))
        except UnreadableImageError as error:
            return _missing(store.paths[row], error)

    def query_picture(answer: _Answer) -> _Picture:
        if answer.row is not None and not answer.query.is_file():  # in an archive or a table, or behind a URL
            return stored_picture(answer.row)
        try:
            return _Picture(_thumbnail(answer.query))
        except UnreadableImageError as error:
            return _missing(str(answer.query), error)

    return stream(
        "search.html",
        title=title,
        facts=facts,
        answers=answers,
        stored_picture=stored_picture,
        query_picture=query_picture,
    )


def _answers(store: Store, queries: Sequence[Path], results: Sequence[Sequence[Hit]], median: float) -> list[_Answer]:
    known = {label for label in store.labels if label is not None}
    answers = []
    for query, own, hits in zip(queries, own_rows(store, queries), results, strict=True):
        folder = query.absolute().parent.name
        label = store.labels[own] if own is not None else folder if folder in known else None
        link = query.absolute().as_uri() if query.is_file() else None
        found = [_neighbor(store, hit, label, median) for hit in hits]
        itself = [neighbor for neighbor in found if neighbor.hit.row == own]
        others = [neighbor for neighbor in found if neighbor.hit.row != own]
        answers.append(_Answer(query, own, _short_name(query), link, label, itself, others))
    return answers


def _neighbor(store: Store, hit: Hit, label: str | None, median: float) -> _Neighbor:
    kind = "" if label is None or hit.label is None else "same" if hit.label == label else "other"
    share = 100 * min(max((hit.score - median) / max(1 - median, 1e-6), 0.0), 1.0)
    return _Neighbor(hit, _short_name(Path(hit.path)), _link(store, hit), share, kind)


def _short_name(path: Path) -> str:
    """The file's name, behind its folder's where it holds no letter and so tells nothing: cat/0017.png."""
    numbered = path.parent.name and not any(character.isalpha() for character in path.stem)
    return f"{path.parent.name}/{path.name}" if numbered else path.name


def _link(store: Store, hit: Hit) -> str | None:
    """Where a browser finds a stored image; None inside a shard, or where a browser cannot go."""
    root = store.manifest.root
    if is_remote(root):
        if shard_of(hit.path) is not None:
            return None
        return f"{root.rstrip('/')}/{quote(hit.path)}" if root.startswith(("http://", "https://")) else None
    file = (store.root / hit.path).absolute()
    return file.as_uri() if file.is_file() else None


def _missing(name: str, error: UnreadableImageError) -> _Picture:
    log.warning("%s has no thumbnail: %s", name, error)
    return _Picture(reason=str(error))


def _thumbnail(source: Path | bytes) -> str:
    """An image as a data URI of a small JPEG.

    Raises:
        UnreadableImageError: the reason alone.
    """
    image = decode_image(source)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return data_uri(buffer.getvalue(), "jpeg")
