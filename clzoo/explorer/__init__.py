"""A map of a collection to look at: each file is one part of it, `exploring` puts them together.

Nothing here changes or deletes an image or a store. Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clzoo.explorer.exploring import Exploration, explore

_HOME = {
    "Exploration": "clzoo.explorer.exploring",
    "explore": "clzoo.explorer.exploring",
}

__all__ = ["Exploration", "explore"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clzoo.explorer' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
