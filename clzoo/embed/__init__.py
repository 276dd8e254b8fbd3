"""From a folder of images to an embedding store, and back out of it. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clzoo.zoo.entries import DEFAULT_MODEL

if TYPE_CHECKING:
    from clzoo.embed.compact import compact_store
    from clzoo.embed.export import export_store
    from clzoo.embed.merging import merge_stores
    from clzoo.embed.pipeline import Summary, embed_folder
    from clzoo.embed.store import Store, open_store

_HOME = {
    "Store": "clzoo.embed.store",
    "open_store": "clzoo.embed.store",
    "Summary": "clzoo.embed.pipeline",
    "embed_folder": "clzoo.embed.pipeline",
    "compact_store": "clzoo.embed.compact",
    "merge_stores": "clzoo.embed.merging",
    "export_store": "clzoo.embed.export",
}

__all__ = [
    "DEFAULT_MODEL",
    "Store",
    "Summary",
    "compact_store",
    "embed_folder",
    "export_store",
    "merge_stores",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clzoo.embed' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
