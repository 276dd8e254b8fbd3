"""Judging encoders by protocols that have names. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clzoo.evaluation.comparing import Comparison, compare
    from clzoo.evaluation.run import Evaluation, evaluate

_HOME = {
    "Evaluation": "clzoo.evaluation.run",
    "evaluate": "clzoo.evaluation.run",
    "Comparison": "clzoo.evaluation.comparing",
    "compare": "clzoo.evaluation.comparing",
}

__all__ = ["Comparison", "Evaluation", "compare", "evaluate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clzoo.evaluation' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
