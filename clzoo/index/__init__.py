"""FAISS indexes over embedding stores: build, open, search. Nothing else in clzoo imports faiss. See docs/search.md."""

from clzoo.index.building import Index, build_index, open_index, refresh_index
from clzoo.index.html import write_page
from clzoo.index.parts import build_part, merge_index
from clzoo.index.searching import Hit, query_images, search

__all__ = [
    "Hit",
    "Index",
    "build_index",
    "build_part",
    "merge_index",
    "open_index",
    "query_images",
    "refresh_index",
    "search",
    "write_page",
]
