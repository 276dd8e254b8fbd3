"""The zoo: names and files. Hub entries, fetching, converting, the cache, loading, publishing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clzoo.loading import load
    from clzoo.zoo.entries import list_models
    from clzoo.zoo.pushing import push
    from clzoo.zoo.verifying import verify

_HOME = {
    "list_models": "clzoo.zoo.entries",
    "load": "clzoo.loading",
    "push": "clzoo.zoo.pushing",
    "verify": "clzoo.zoo.verifying",
}

__all__ = ["list_models", "load", "push", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clzoo.zoo' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
