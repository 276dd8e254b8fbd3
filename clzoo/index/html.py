"""Search results as one self-contained HTML page: thumbnails inside, no script, nothing fetched."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path

from PIL import Image

from clzoo.data.images import decode_image
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.files import atomic_path
from clzoo.index.building import Index
from clzoo.index.searching import Hit
from clzoo.page import TAIL, data_uri, head

log = logging.getLogger("clzoo")

_SIDE = 224  # pixels of a thumbnail's longer side: sharp at the page's size on common screens
_QUALITY = 84  # of its JPEG
_CACHED = 2048  # thumbnails kept: the same neighbour often serves several queries

_STYLE = """
section { display: grid; grid-template-columns: 190px minmax(0, 1fr); gap: 1.75rem; padding: 1.75rem 0;
  border-top: 1px solid var(--line); }
figure, ol { margin: 0; padding: 0; }
.query .picture { border: 2px solid var(--accent); }
ol { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 1rem 1.1rem; list-style: none; }
.picture { display: grid; place-items: center; aspect-ratio: 1; padding: 8px; overflow: hidden; border-radius: 10px;
  border: 1px solid var(--line); background: #fff; color: #6d6d72; font-size: .8rem; text-align: center; }
.picture img { width: 100%; height: 100%; object-fit: contain; min-height: 0; }
.name { display: block; margin-top: .5rem; overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
  font-size: .8rem; }
.query .name { font-weight: 600; white-space: normal; overflow-wrap: anywhere; }
.facts { display: flex; justify-content: space-between; gap: .5rem; color: var(--soft); font-size: .8rem;
  font-variant-numeric: tabular-nums; }
.facts span { overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
@media (max-width: 900px) { ol { grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); } }
@media (max-width: 640px) { section { grid-template-columns: 1fr; } .query { max-width: 190px; } }
"""


def write_page(
    path: str | Path,
    index: Index,
    queries: Sequence[Path],
    results: Sequence[Sequence[Hit]],
    *,
    title: str = "Nearest images",
) -> Path:
    """Write the neighbours of each query as one HTML page, atomically.

    A picture that can no longer be read keeps its place, with the reason in it, and is logged as a warning.

    Args:
        path: the file to write.
        index: what was searched: names the model, and gives the neighbours' images.
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
        atomic_path(path) as temporary,
        # A file name that is not valid Unicode is shown with its bytes spelt out.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(_page(index, queries, results, title))
    return path


def _page(index: Index, queries: Sequence[Path], results: Sequence[Sequence[Hit]], title: str) -> Iterator[str]:
    recall = index.description["recall_at_10"]
    facts = [
        f"{len(queries)} {'query' if len(queries) == 1 else 'queries'}",
        f"{len(index):,} images",
        index.description["model"],
        "cosine similarity",
        f"{index.description['factory']} index" + ("" if recall is None else f", recall@10 {recall:.3f}"),
    ]
    yield head(title, facts, _STYLE)

    @lru_cache(maxsize=_CACHED)
    def stored_picture(row: int) -> str:
        return _picture(index.store.paths[row], lambda: index.store.image_bytes(row))

    for query, hits in zip(queries, results, strict=True):
        yield f'<section>\n<figure class="query">{_picture(str(query), lambda query=query: query)}'  # type: ignore[misc]
        yield f'<figcaption class="name">{escape(query.name)}</figcaption></figure>\n<ol>\n'
        for hit in hits:
            yield _card(hit, stored_picture(hit.row))
        yield "</ol>\n</section>\n"
    yield TAIL


def _card(hit: Hit, picture: str) -> str:
    label = "" if hit.label is None else f"<span>{escape(hit.label)}</span>"
    return (
        f'<li>{picture}<span class="name" title="{escape(hit.path)}">{escape(Path(hit.path).name)}</span>'
        f'<span class="facts"><span>{hit.score:.3f}</span>{label}</span></li>\n'
    )


def _picture(name: str, source: Callable[[], Path | bytes]) -> str:
    try:
        return f'<div class="picture"><img src="{_thumbnail(source())}" alt="{escape(name)}"></div>'
    except UnreadableImageError as error:
        log.warning("%s has no thumbnail: %s", name, error)
        return f'<div class="picture">{escape(str(error))}</div>'


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
